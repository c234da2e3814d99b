"""A Butler at a place of the backbone: the registry stays the one there is, files are read where the place has them.

Keys are the same everywhere, so only the datastore's root is another. What is not at the place is said to be elsewhere, and when
it comes, instead of being a file that was not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lsst.daf.butler import Butler, DatasetRef

from backbone.backbone import Backbone
from backbone.errors import ObjectAbsent
from backbone.files import AVAILABLE, COPYING, Replica
from payloads.datastore import Sha256FileDatastore
from payloads.repository import open_repository


class NotHere(ObjectAbsent):
    """A dataset is known and its file is not at this place; the message says where it is, and what is under way."""


class SiteDatastore(Sha256FileDatastore):
    """The repository's records over a place's files; `open_at` makes them."""

    place: str
    backbone: Backbone

    def clone(self, bridgeManager: Any) -> SiteDatastore:
        """Another one at the same place."""
        made: Any = super().clone(bridgeManager)
        made.place, made.backbone = self.place, self.backbone
        return made  # type: ignore[no-any-return]

    def get(self, ref: DatasetRef, parameters: Mapping[str, Any] | None = None, storageClass: Any = None) -> Any:
        """The dataset, as Butler reads it; NotHere where its file is elsewhere."""
        try:
            return super().get(ref, parameters, storageClass)
        except Exception as error:
            missing = self._missing(ref)
            if not missing:
                raise
            raise NotHere(f"{ref} is not here ({self.place}): {'; '.join(missing)}") from error

    def _missing(self, ref: DatasetRef) -> list[str]:
        """What is known of each file of a dataset that the place has not got."""
        infos = self._get_stored_records_associated_with_refs([ref]).get(ref.id, [])
        keys = sorted({info.path.split("#")[0] for info in infos})
        absent = [key for key in keys if not self.root.join(key).exists()]
        located = self.backbone.locate(absent) if absent else {}
        return [_whereabouts(key, located.get(key, ()), self.place) for key in absent]


def _whereabouts(key: str, replicas: Sequence[Replica], place: str) -> str:
    whole = [replica.endpoint for replica in replicas if replica.state == AVAILABLE and replica.endpoint != place]
    there = f"{key} is at {', '.join(whole)}" if whole else f"{key} has no whole copy anywhere"
    coming = next((replica for replica in replicas if replica.endpoint == place and replica.state == COPYING), None)
    if coming is None:
        return f"{there}, and nothing brings it here: see `pachon backbone policy check {key}`"
    eta = "ETA unknown" if coming.eta_s is None else f"ETA {coming.eta_s:.0f} s"
    return f"{there}, and on its way here, {eta}{f' ({coming.reason})' if coming.reason else ''}"


def open_at(repo: str | Path, backbone: Backbone, place: str) -> Butler:
    """The repository, to be read with the files that endpoint `place` has. PermanentError names the nearest known endpoint."""
    endpoint = backbone.endpoint(place)
    butler = open_repository(repo, datastore_root=endpoint.root)
    datastore: Any = butler._datastore
    datastore.__class__ = SiteDatastore
    datastore.place, datastore.backbone = place, backbone
    return butler

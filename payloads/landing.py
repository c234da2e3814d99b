"""What was ingested, told to the backbone of the home, if it has one: from there policies say where copies go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from lsst.daf.butler import Butler, DatasetRef
from lsst.resources import ResourcePath

from backbone.backbone import Backbone
from backbone.butler import DATASTORE
from backbone.errors import PermanentError
from backbone.files import NewFile
from backbone.home import NoBackbone, open_backbone

ACTOR = "ingest"


class Landing:
    """Registers datasets at the endpoint where the repository's files are. Without a backbone it does nothing."""

    def __init__(self, home: Path, butler: Butler) -> None:
        self._butler = butler
        try:
            self._backbone: Backbone | None = open_backbone(home)
        except NoBackbone:
            self._backbone = None

    @property
    def is_told(self) -> bool:
        """Whether anybody listens."""
        return self._backbone is not None

    def tell(self, refs: Sequence[DatasetRef]) -> int:
        """Register the files of datasets; those that were registered there before are left alone, whatever has become of them:
        that they were ingested says nothing of their bytes today. Returns how many were new.
        """
        if self._backbone is None or not refs:
            return 0
        by_id = {ref.id: ref for ref in refs}
        exported = self._butler._datastore.export_records(refs)[DATASTORE].records
        now = time.time()
        files = [
            NewFile(
                key=info.path,
                size=info.file_size,
                sha256=info.checksum or "",
                dataset_type=by_id[dataset].datasetType.name,
                collection=by_id[dataset].run,
                created=now,
                instrument=str(by_id[dataset].dataId.get("instrument", "")),
            )
            for dataset, tables in exported.items()
            for infos in tables.values()
            for info in infos
        ]
        place = self._place(self._backbone)
        known = self._backbone.known([file.key for file in files], place)
        return self._backbone.register(place, [file for file in files if file.key not in known], ACTOR)

    def _place(self, backbone: Backbone) -> str:
        root = self._butler._datastore.root
        for name, endpoint in backbone.endpoints.items():
            if ResourcePath(endpoint.root, forceDirectory=True) == root:
                return name
        raise PermanentError(
            f"the repository's files are in {root}, where no endpoint of the backbone is: see `archive` and "
            "`backbone: endpoints:` in pachon.yaml"
        )

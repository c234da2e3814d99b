"""The Butler's file datastore with SHA-256 for a checksum.

Butler records blake2b and no configuration changes that; the backbone compares copies by SHA-256. Named in the repository's
configuration, so that whoever opens it, also in another process, records the same.
"""

from __future__ import annotations

from typing import Any

from lsst.daf.butler.datastores.fileDatastore import FileDatastore
from lsst.resources import ResourcePath

from backbone.butler import checksum_of


class Sha256FileDatastore(FileDatastore):
    """FileDatastore, but for the checksum."""

    @classmethod
    def _create_from_config(cls, config: Any, bridgeManager: Any, butlerRoot: Any) -> Sha256FileDatastore:
        # Upstream makes a FileDatastore here and in clone(), whatever class was asked for.
        made = super()._create_from_config(config, bridgeManager, butlerRoot)
        made.__class__ = cls
        return made

    def clone(self, bridgeManager: Any) -> Sha256FileDatastore:
        """Another one of the same kind over the same root."""
        made = super().clone(bridgeManager)
        made.__class__ = type(self)
        return made

    @staticmethod
    def computeChecksum(uri: ResourcePath, algorithm: str = "sha256", block_size: int = 1 << 20) -> str:  # noqa: ARG004, N802
        """SHA-256 of a file, in hexadecimal; the other arguments are part of the signature only."""
        return checksum_of(uri)

"""Inputs that many jobs read, kept at hand: the backbone's cache where a Butler looks for its own.

Only accepted inputs are kept, by their keys: these never change, while all attempts of a quantum share their datasets' ids. What
finds no room is read in place, as without a cache; bytes that are not those of the record are refused.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lsst.daf.butler import DatasetRef
from lsst.daf.butler.datastore.cache_manager import DatastoreDisabledCacheManager
from lsst.resources import ResourcePath

from backbone.cache import Cache
from backbone.endpoint import Endpoint
from backbone.endpoints import open_endpoint
from backbone.errors import ChecksumMismatch, PachonError
from workflow.job import TABLE, CacheSpace, Place

_SHA256_DIGITS = 64


class InputCache(DatastoreDisabledCacheManager):
    """What a job's Butler asks before it reads from the endpoint; Butler itself puts nothing in."""

    def __init__(self, cache: Cache, endpoint: Endpoint, patterns: Sequence[str]) -> None:
        """`patterns` of dataset types' names; none: whatever is not of a single exposure or visit."""
        super().__init__("", universe=None)
        self._cache, self._endpoint, self._patterns = cache, endpoint, tuple(patterns)
        self.records: Mapping[Any, Mapping[str, Sequence[Any]]] = {}
        """Of the accepted inputs, by dataset id; whoever has the records sets them."""

    @contextmanager
    def find_in_cache(self, ref: DatasetRef, extension: str) -> Iterator[ResourcePath | None]:
        """A local file of the dataset, kept while the block is open; None: read it in place."""
        with ExitStack() as held:
            path = self._entered(held, ref) if ref.id in self.records and self._is_wanted(ref) else None
            yield None if path is None else ResourcePath(str(path), forceDirectory=False)

    def _is_wanted(self, ref: DatasetRef) -> bool:
        if self._patterns:
            return any(fnmatch.fnmatchcase(ref.datasetType.name, pattern) for pattern in self._patterns)
        return not {"exposure", "visit"} & set(ref.datasetType.dimensions.names)

    def _entered(self, held: ExitStack, ref: DatasetRef) -> Path | None:
        (info,) = self.records[ref.id][TABLE]
        if "#" in info.path:
            return None  # a member of a zip
        checksum = info.checksum if info.checksum and len(info.checksum) == _SHA256_DIGITS else None
        try:
            return held.enter_context(self._cache.reading(self._endpoint, info.path, sha256=checksum))
        except ChecksumMismatch:
            raise
        except PachonError:
            return None


def open_cache(space: CacheSpace, place: Place) -> InputCache:
    """The cache of a job's site. Made where it is used: what it holds does not survive a fork."""
    folder = Path(space.folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache = Cache(folder, max_bytes=space.max_bytes, min_free_bytes=space.min_free_bytes)
    credentials = Path(place.credentials) if place.credentials else None
    endpoint = open_endpoint(place.uri, name=place.name, url=place.url, credentials=credentials)
    return InputCache(cache, endpoint, space.dataset_types)

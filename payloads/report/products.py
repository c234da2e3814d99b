"""What a report reads: datasets of one instrument, found by the collections that productions chain."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from astropy.table import Table, vstack
from lsst.daf.butler import Butler, DatasetRef, MissingCollectionError, MissingDatasetTypeError

from payloads.repository import open_repository


class Products:
    """Read access to everything that productions made of one instrument. A context manager."""

    def __init__(self, home: Path, instrument: str) -> None:
        self.butler: Butler = open_repository(home / "repo")
        self.instrument = instrument
        names = set(self.butler.collections.query("*"))
        self.prompt = self._existing(names, [f"{instrument}/prompt"])
        self.templates = self._existing(names, [f"{instrument}/templates"])
        self.frames = self.prompt + self.templates  # a camera without WCS has its night's frames registered with the template's
        self.releases = self._existing(names, sorted(n for n in names if n.startswith("releases/")))
        self.calib = sorted((n for n in names if n.startswith(f"{instrument}/calib/")), reverse=True)

    @staticmethod
    def _existing(names: set[str], wanted: list[str]) -> list[str]:
        return [name for name in wanted if name in names]

    def __enter__(self) -> Products:
        return self

    def __exit__(self, *_: object) -> None:
        self.butler.close()

    def refs(self, dataset_type: str, collections: list[str]) -> list[DatasetRef]:
        """Datasets of a type, the first of each data ID, in order of data ID; none where type or collection are absent."""
        if not collections:
            return []
        try:
            found = self.butler.query_datasets(dataset_type, collections, limit=None, explain=False)
        except (MissingDatasetTypeError, MissingCollectionError):
            return []
        own = [r for r in found if r.dataId.get("instrument", self.instrument) == self.instrument]
        return sorted(own, key=lambda r: tuple(str(v).zfill(20) for v in r.dataId.required_values))

    def calibrations(self, dataset_type: str) -> list[DatasetRef]:
        """Certified masters, the newest certification of each data ID."""
        newest: dict[Any, DatasetRef] = {}
        for collection in self.calib:
            try:
                found = self.butler.query_datasets(dataset_type, collection, find_first=False, limit=None, explain=False)
            except (MissingDatasetTypeError, MissingCollectionError):
                continue
            for ref in found:
                newest.setdefault(ref.dataId, ref)
        return sorted(newest.values(), key=lambda r: str(r.dataId))

    def get(self, ref: DatasetRef) -> Any:
        """The dataset."""
        return self.butler.get(ref)

    def find(self, dataset_type: str, collections: list[str], **data_id: Any) -> Any:
        """One dataset, or None."""
        try:
            ref = self.butler.find_dataset(dataset_type, collections=collections, instrument=self.instrument, **data_id)
        except (LookupError, MissingCollectionError, MissingDatasetTypeError):
            return None
        return None if ref is None else self.butler.get(ref)

    def table(self, dataset_type: str, collections: list[str]) -> Table:
        """Rows of all tables of a type; an empty table without columns where there are none."""
        tables = [self.get(ref) for ref in self.refs(dataset_type, collections)]
        filled = [t for t in tables if len(t)]
        return vstack(filled, metadata_conflicts="silent") if filled else (tables[0] if tables else Table())

    def metadata(self, label: str) -> list[dict[str, Any]]:
        """Quality numbers of all quanta of a task, whatever collection they are in."""
        try:
            refs = self.butler.query_datasets(f"{label}_metadata", "*", find_first=False, limit=None, explain=False)
        except (MissingDatasetTypeError, MissingCollectionError):
            return []
        own = (r for r in refs if r.dataId.get("instrument", self.instrument) == self.instrument)
        return [dict(self.get(ref).to_dict().get(label, {})) for ref in own]

    def alert_ids(self) -> np.ndarray:
        """DIASource ids of all alert packets, read from the packets themselves."""
        ids = [packet["diaSourceId"] for packet in self.packets()]
        return np.array(ids, np.int64)

    def packets(self) -> Iterable[dict[str, Any]]:
        """Alert packets, without holding more than one file."""
        from io import BytesIO

        for ref in self.refs("alerts", self.prompt):
            yield from fastavro.reader(BytesIO(self.get(ref)))

    def exposure_counts(self) -> dict[str, int]:
        """Raw exposures by type."""
        records = self.butler.query_dimension_records("exposure", instrument=self.instrument, explain=False, limit=None)
        kinds = [record.observation_type for record in records]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

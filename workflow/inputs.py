"""Which files a planned graph reads that the registry knows: from the datastore records that the planner attaches to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from backbone.butler import DATASTORE
from backbone.endpoint import ObjectInfo
from backbone.files import NewFile
from workflow.job import from_json, infos

_SHA256_DIGITS = 64


def made_here(made: Sequence[ObjectInfo], row: Mapping[str, Any]) -> list[NewFile]:
    """What the planner itself wrote for a group: its graph, its configuration, and what its tasks read when they are made."""
    files = [
        NewFile(
            key=info.key,
            size=info.size,
            sha256=info.sha256 or "",
            dataset_type="quantum_graph",
            collection=row["run"],
            created=row["planned"],
        )
        for info in made
    ]
    return files + [
        NewFile(
            key=info.path,
            size=info.file_size,
            sha256=known_sha256(info.checksum),
            dataset_type="init_output",
            collection=row["run"],
            created=row["planned"],
        )
        for _, info in infos(from_json(row["init_records"]))
    ]


def input_files(components: Any, *, created: float) -> list[NewFile]:
    """Every file that the registry knows, once; a zip for its members, without size and checksum, which only it has itself."""
    described = {
        dataset.dataset_id: dataset
        for quantum in _quanta(components)
        for datasets in quantum.inputs.values()
        for dataset in datasets
    }
    files: dict[str, NewFile] = {}
    for quantum in _quanta(components):
        for dataset_id, record in _records(quantum):
            key, _, member = record["path"].partition("#")
            dataset = described.get(dataset_id)
            if key in files or dataset is None:
                continue
            files[key] = NewFile(
                key=key,
                size=0 if member else record["file_size"],
                sha256="" if member else known_sha256(record["checksum"]),
                dataset_type="quantum_records" if member else dataset.dataset_type_name,
                collection=dataset.run,
                created=created,
            )
    return list(files.values())


def known_sha256(checksum: str | None) -> str:
    """A record's checksum, if it is a SHA-256; else empty: Butler's own are of another algorithm, or none at all."""
    return checksum if checksum and len(checksum) == _SHA256_DIGITS else ""


def _quanta(components: Any) -> Iterator[Any]:
    yield from components.quantum_datasets.values()
    yield from components.init_quanta.root


def _records(quantum: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    serialized = quantum.datastore_records.get(DATASTORE)
    for by_dataset in serialized.records.values() if serialized else ():
        for dataset, by_table in by_dataset.items():
            for records in by_table.values():
                for record in records:
                    yield UUID(str(dataset)), record

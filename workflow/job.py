"""The contract between the engine and a job: what a job is told, what it reports, and under which keys.

The engine writes a `JobMessage`; the runner (payloads/runner) answers with append-only `Segment`s below its attempt's prefix at
its own site's endpoint, and with a heartbeat. Only the engine writes the ledger. Payloads may import this module and no other
of `workflow`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # the Butler costs 2 s to import, and who reads statuses needs none of it
    from lsst.daf.butler.datastore.record_data import DatastoreRecordData

TABLE = "file_datastore_records"
ZIP = "@zip@"
"""Stands in a record's path for the zip that is written later, and named only then."""

EXIT_BROKEN = 3
EXIT_STORAGE = 4
EXIT_PREEMPTED = 143

Failure = Literal["infrastructure", "out_of_memory", "signal", "science", "missing_input", "preempted", "timeout"]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(_Message):
    """The endpoint of the job's site."""

    name: str
    uri: str
    url: str | None = None


class JobMessage(_Message):
    """What one job has to do."""

    version: Literal[1] = 1
    attempt: str = Field(description="the job's id, and the prefix of all that it writes")
    graph_key: str
    config_key: str = Field(description="Butler configuration without a registry, whose root is replaced by the endpoint's")
    quanta: tuple[str, ...] = Field(description="parents before children")
    records: dict[str, Any] = Field(description="datastore records of accepted inputs")
    absent: tuple[str, ...] = Field(default=(), description="inputs that an accepted parent did not write, and that is right")
    endpoint: Place
    flush_s: float
    heartbeat_s: float
    memory_mb: int
    time_limit_s: float


class Outcome(_Message):
    """What became of one quantum in one attempt."""

    quantum: str
    state: Literal["succeeded", "failed"]
    failure_class: Failure | None = None
    error: str = ""
    no_work: bool = False
    reads: tuple[str, ...] = Field(default=(), description="quanta of this attempt whose outputs it read")
    unwritten: tuple[str, ...] = Field(default=(), description="predicted outputs that a success did not write")
    wall_s: float = 0
    cpu_s: float = 0
    peak_mb: float = 0
    records: dict[str, Any] = Field(default_factory=dict, description="datastore records of what it wrote")


class SegmentFile(_Message):
    """An object written beside a segment."""

    key: str
    size: int
    sha256: str


class Segment(_Message):
    """Outcomes in the order of their execution; written once, after the files that it names."""

    attempt: str
    number: int
    files: tuple[SegmentFile, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    final: bool = False
    reason: str = Field(default="", description="why the job ended, where that is not its having done everything")


def segment_key(attempt: str, number: int, kind: Literal["json", "zip"] = "json") -> str:
    """Key of a segment, or of the zip beside it."""
    return f"_a/{attempt}/segments/{number:05}.{kind}"


def heartbeat_key(attempt: str) -> str:
    """Key of the object that a living job writes again and again; its content differs each time."""
    return f"_a/{attempt}/heartbeat.json"


def to_json(data: DatastoreRecordData) -> dict[str, Any]:
    """Datastore records as plain values."""
    simple: dict[str, Any] = json.loads(data.to_simple().model_dump_json())
    return simple


def from_json(data: dict[str, Any]) -> DatastoreRecordData:
    """Inverse of `to_json`; an empty dictionary is no records."""
    from lsst.daf.butler.datastore.record_data import DatastoreRecordData, SerializedDatastoreRecordData

    return DatastoreRecordData.from_simple(SerializedDatastoreRecordData(**data)) if data else DatastoreRecordData()


def merged(bodies: Iterable[dict[str, Any]]) -> DatastoreRecordData:
    """All records of many, as one."""
    from lsst.daf.butler.datastore.record_data import DatastoreRecordData

    together = DatastoreRecordData()
    for body in bodies:
        together.update(from_json(body))
    return together


def infos(data: DatastoreRecordData) -> Iterator[tuple[Any, Any]]:
    """(dataset id, StoredFileInfo) of every record."""
    for dataset, by_table in data.records.items():
        for info in by_table[TABLE]:
            yield dataset, info


def keys_of(data: DatastoreRecordData) -> set[str]:
    """Keys of the objects behind the records, a member of a zip counting as its zip."""
    return {info.path.split("#")[0] for _, info in infos(data)}

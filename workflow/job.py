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

NULL = "null:"
"""Begins the graph key of quanta that do nothing (the engine's own payload, to measure itself): `null:SECONDS`."""

EXIT_BROKEN = 3
EXIT_STORAGE = 4
EXIT_PREEMPTED = 143

Failure = Literal["infrastructure", "out_of_memory", "signal", "science", "missing_input", "preempted", "timeout"]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CacheSpace(_Message):
    """A folder at the job's site where inputs that many jobs read are kept (backbone/cache.py)."""

    folder: str
    max_bytes: int
    min_free_bytes: int = 0
    dataset_types: tuple[str, ...] = ()


class Place(_Message):
    """The endpoint of the job's site."""

    name: str
    uri: str
    url: str | None = None
    credentials: str | None = Field(default=None, description="file of profiles, as boto3 reads them, where the job can read it")
    cache: CacheSpace | None = None


class Stay(_Message):
    """That a job's process takes further jobs when it has done its own: a warm worker, known by its first job's attempt."""

    idle_s: float = Field(gt=0, description="it ends after so long without work")
    life_s: float = Field(gt=0, description="it takes no job after so long, so that its slot is asked for anew")
    poll_s: float = Field(gt=0, description="longest time between two looks into its mailbox")


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
    interpreter: str | None = Field(default=None, description="Python of the software the job is bound to; none: as started")
    stay: Stay | None = Field(default=None, description="of a warm worker's first job; set by the pool that sends it")


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


class Done(_Message):
    """A warm worker's job has ended, and how: what the exit code of a process is to other jobs."""

    exit_code: int
    host: str


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
    host: str = Field(default="", description="where the job runs; in its first segment, as is its software")
    software: dict[str, str] = Field(default_factory=dict, description="package → version")
    began: float | None = Field(default=None, description="when the job's process started (Unix), told with its host")


def segment_key(attempt: str, number: int, kind: Literal["json", "zip"] = "json") -> str:
    """Key of a segment, or of the zip beside it."""
    return f"_a/{attempt}/segments/{number:05}.{kind}"


def begun_key(attempt: str) -> str:
    """Key of the object that a job's process makes as it begins, and that is made once: an attempt has one process."""
    return f"_a/{attempt}/begun.json"


def heartbeat_key(attempt: str) -> str:
    """Key of the object that a living job writes again and again; its content differs each time."""
    return f"_a/{attempt}/heartbeat.json"


CLOSED = b"closed"
"""In a mailbox, in place of a message: this worker takes no more."""


def mail_key(worker: str, number: int) -> str:
    """Key under which a warm worker finds its job of this number, its own first being 0.

    Created once, by whoever is first: the engine with a message, or the one who ends the worker with CLOSED.
    """
    return f"_w/{worker}/{number:05}.json"


def done_key(worker: str, number: int) -> str:
    """Key of a `Done`: what a warm worker writes when it has ended a job, after all that the job reports."""
    return f"_w/{worker}/{number:05}.done"


def null_sleep_s(graph_key: str) -> float:
    """Seconds that each quantum of the null payload sleeps."""
    return float(graph_key.removeprefix(NULL))


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


def keys_in(body: dict[str, Any]) -> set[str]:
    """`keys_of(from_json(body))`, without making records of what is only named."""
    by_dataset = (tables for of_class in body["records"].values() for tables in of_class.values())
    return {record["path"].split("#")[0] for tables in by_dataset for records in tables.values() for record in records}


def keys_of(data: DatastoreRecordData) -> set[str]:
    """Keys of the objects behind the records, a member of a zip counting as its zip."""
    return {info.path.split("#")[0] for _, info in infos(data)}

"""What those who work on a night say to each other: observatory → supervisor → workers ← ingest, and workers → supervisor.

Times are seconds since 1970 (UTC). A worker of a detector listens to `queue_of(instrument, detector)`, the supervisor of an
instrument's nights to `reports_of(instrument)`. Everything may come twice.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from backbone.messages.opened import MessageSettings


class Mode(StrEnum):
    """What the exposures of a visit are for."""

    SCIENCE = "science"
    DEEP_DRILLING = "deep_drilling"
    CALIBRATION = "calibration"


class _Word(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KnownField(_Word):
    """A field that a night will see in a filter (ICRS degrees, position angle of +y)."""

    ra_deg: float
    dec_deg: float
    rotation_deg: float = 0.0
    physical_filter: str


class NextVisit(_Word):
    """What the observatory is about to do (at least 20 s ahead, DMTN-219)."""

    kind: Literal["next_visit"] = "next_visit"
    instrument: str
    visit: int
    mode: Mode = Mode.SCIENCE
    exposures: tuple[int, ...] = Field(min_length=1, description="its snaps, in order; one visit is all of them")
    field: str = ""
    ra_deg: float | None = None
    dec_deg: float | None = None
    rotation_deg: float = 0.0
    physical_filter: str = ""
    expected_end: float = Field(description="when the last of its snaps should be read out")
    observation: Literal["science", "bias", "dark", "flat"] = "science"


class FrameArrived(_Word):
    """A frame of one detector is at the prompt endpoint."""

    kind: Literal["frame"] = "frame"
    instrument: str
    detector: int
    visit: int
    exposure: int
    exposures: tuple[int, ...] = Field(
        description="all snaps of its visit, so that a visit nobody announced is processed all the same"
    )
    mode: Mode = Mode.SCIENCE
    key: str
    size: int
    sha256: str
    readout_end: float = Field(description="end of the camera's readout: the 60 s begin here (OTT1)")
    received: float = Field(description="when ingest had it whole")
    stored: float = Field(description="when it was at the prompt endpoint")


class Drain(_Word):
    """Take nothing more of this night, end what is in flight, then end."""

    kind: Literal["drain"] = "drain"
    night: str


ToWorker = Annotated[NextVisit | FrameArrived | Drain, Field(discriminator="kind")]


class Armed(_Word):
    """A worker has Python, calibrations, templates and history in memory."""

    kind: Literal["armed"] = "armed"
    night: str
    detector: int
    worker: str
    host: str
    pid: int
    preload_s: float


class Beat(_Word):
    """A worker lives."""

    kind: Literal["beat"] = "beat"
    night: str
    detector: int
    worker: str
    at: float
    in_flight: tuple[int, ...] = ()


class Progress(_Word):
    """A visit has come to a stage on one detector."""

    kind: Literal["progress"] = "progress"
    night: str
    detector: int
    worker: str
    visit: int
    stage: str
    at: float
    mode: Mode = Mode.SCIENCE
    exposures: tuple[int, ...] = ()
    arrived: tuple[FrameArrived, ...] = Field(default=(), description="the frames it has")


class Ended(_Word):
    """What became of a visit on one detector."""

    kind: Literal["ended"] = "ended"
    night: str
    detector: int
    worker: str
    visit: int
    state: Literal["succeeded", "failed", "cancelled"]
    stage: str = Field(description="the last that it reached")
    reason: str = ""
    mechanism: str = Field(default="", description="of a failure: how it failed (the error's type, a signal, the deadline)")
    at: float
    readout_end: float | None = None
    stages: dict[str, float] = Field(default_factory=dict, description="stage → seconds, in the order of the stages")
    alerts: int = 0
    alerts_out: float | None = Field(default=None, description="when its alerts were handed to distribution")
    sources: int = 0
    quality: dict[str, float | int | str | None] = Field(default_factory=dict)
    recovered: dict[str, int] = Field(default_factory=dict, description="failure that passed → how often")
    stamps: str = Field(default="", description="key of a picture of its alerts, at the prompt endpoint")
    peak_mb: float = 0.0
    cpu_s: float = 0.0
    mode: Mode = Mode.SCIENCE
    exposures: tuple[int, ...] = ()


class Left(_Word):
    """A worker has ended because it was told to."""

    kind: Literal["left"] = "left"
    night: str
    detector: int
    worker: str
    reason: str


Report = Annotated[Armed | Beat | Progress | Ended | Left, Field(discriminator="kind")]
_TO_WORKER: TypeAdapter[Any] = TypeAdapter(ToWorker)
_REPORT: TypeAdapter[Any] = TypeAdapter(Report)


class Store(_Word):
    """An endpoint, as `backbone.endpoints.open_endpoint` opens it."""

    name: str
    uri: str
    url: str | None = None
    credentials: str | None = None


class WorkerOrder(_Word):
    """The job message of a prompt worker: which night and detector, and where everything is."""

    program: Literal["prompt"] = "prompt"
    interpreter: str | None = None
    night: str
    worker: str = Field(description="key of its job in the pool")
    instrument: str
    detector: int
    day_obs: int
    skymap: str
    home: str
    repo: str = Field(description="Butler repository, read at arming and for templates only")
    store: Store = Field(description="the prompt endpoint")
    messages: MessageSettings
    science: str = Field(default="prompt", description="the payload: `prompt`, or `null`, which does what its frames say")
    fields: tuple[KnownField, ...] = Field(default=(), description="loaded when the worker is armed, before any visit")
    deadline_s: float = Field(description="after the end of readout a visit that is not done is cancelled")
    beat_s: float
    in_flight: int = Field(ge=1, description="visits at the same time on this detector")


def queue_of(instrument: str, detector: int) -> str:
    """What the worker of a detector listens to."""
    return f"prompt.{instrument}.{detector:03}"


def reports_of(instrument: str) -> str:
    """What the supervisor of an instrument's nights listens to."""
    return f"prompt.{instrument}.reports"


def read_order(body: Any) -> NextVisit | FrameArrived | Drain:
    """A message to a worker; ValidationError names what is wrong with it."""
    found: NextVisit | FrameArrived | Drain = _TO_WORKER.validate_python(body)
    return found


def read_report(body: Any) -> Armed | Beat | Progress | Ended | Left:
    """A worker's message to the supervisor."""
    found: Armed | Beat | Progress | Ended | Left = _REPORT.validate_python(body)
    return found

"""What a schedd says of a job, and what that means for who waits for it; tables, no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from operators.htcondor.key import KEY, SEEN

SPOOLING = 16
"""HoldReasonCode of a job whose input is still on its way to the schedd."""
SPOOLING_MAX_S = 900.0
"""Spooling that lasts longer was broken off: the process that did it is gone."""


class JobState(StrEnum):
    """A job's state; the numbers are HTCondor's JobStatus."""

    IDLE = "IDLE"
    RUNNING = "RUNNING"
    REMOVED = "REMOVED"
    COMPLETED = "COMPLETED"
    HELD = "HELD"
    TRANSFERRING_OUTPUT = "TRANSFERRING_OUTPUT"
    SUSPENDED = "SUSPENDED"


STATUS = dict(enumerate(JobState, start=1))
ENDED = frozenset({JobState.COMPLETED, JobState.REMOVED})
PROJECTION = (
    "ClusterId", "ProcId", KEY, SEEN, "JobStatus", "ExitBySignal", "ExitCode", "ExitSignal", "HoldReason", "HoldReasonCode",
    "HoldReasonSubCode", "RemoveReason", "RemoteHost", "LastRemoteHost", "EnteredCurrentStatus", "QDate", "Iwd",
    "RemoteUserCpu", "RemoteSysCpu", "RemoteWallClockTime", "MemoryUsage", "NumJobStarts", "ServerTime",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JobView:
    """One job as its schedd sees it."""

    key: str
    job_id: str
    """Cluster and process, as `condor_q` writes it."""
    state: JobState
    exit_code: int | None = None
    """Of a completed job; negative: the signal that ended it."""
    hold_code: int = 0
    hold_subcode: int = 0
    reason: str = ""
    """Why it is held or was removed."""
    host: str = ""
    since_s: float = 0.0
    """Seconds in this state, by the schedd's clock."""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    memory_mb: float = 0.0
    starts: int = 0
    folder: str = ""

    def payload(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "state": self.state.value}

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> JobView:
        """From `payload`; keys of later versions are ignored."""
        known = {k: v for k, v in payload.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, "state": JobState(known["state"])})

    @classmethod
    def of(cls, ad: Mapping[str, Any]) -> JobView:
        """From a ClassAd's attributes; those that are missing or undefined are left at their defaults."""
        state = STATUS[int(ad["JobStatus"])]
        return cls(
            key=str(ad.get(KEY, "")),
            job_id=f"{ad['ClusterId']}.{ad['ProcId']}",
            state=state,
            exit_code=_exit_code(ad) if state is JobState.COMPLETED else None,
            hold_code=int(_number(ad, "HoldReasonCode")) if state is JobState.HELD else 0,
            hold_subcode=int(_number(ad, "HoldReasonSubCode")) if state is JobState.HELD else 0,
            reason=_text(ad, {JobState.HELD: "HoldReason", JobState.REMOVED: "RemoveReason"}.get(state, "")),
            host=_text(ad, "RemoteHost") or _text(ad, "LastRemoteHost"),
            since_s=max(0.0, _number(ad, "ServerTime") - _number(ad, "EnteredCurrentStatus")),
            cpu_s=_number(ad, "RemoteUserCpu") + _number(ad, "RemoteSysCpu"),
            wall_s=_number(ad, "RemoteWallClockTime"),
            memory_mb=_number(ad, "MemoryUsage"),
            starts=int(_number(ad, "NumJobStarts")),
            folder=_text(ad, "Iwd"),
        )

    @property
    def waits(self) -> bool:
        """Whether it may still end by itself: held while its input is spooled counts as waiting, for a time."""
        if self.state is JobState.HELD:
            return self.hold_code == SPOOLING and self.since_s < SPOOLING_MAX_S
        return self.state not in ENDED

    def ended_how(self) -> str:
        """In words."""
        if self.exit_code is None:
            return f"{self.state.value.lower()}{': ' + self.reason if self.reason else ''}"
        return f"killed by signal {-self.exit_code}" if self.exit_code < 0 else f"exit code {self.exit_code}"


def _exit_code(ad: Mapping[str, Any]) -> int | None:
    if ad.get("ExitBySignal") is True:
        return -int(_number(ad, "ExitSignal"))
    return int(ad["ExitCode"]) if isinstance(ad.get("ExitCode"), int) else None


def _number(ad: Mapping[str, Any], name: str) -> float:
    value = ad.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else 0.0


def _text(ad: Mapping[str, Any], name: str) -> str:
    value = ad.get(name, "")
    return value if isinstance(value, str) else ""

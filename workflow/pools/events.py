"""A cluster's event log, read as it grows: what became of its jobs, by process number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.job import Failure
from workflow.pools.holds import hold_of, words
from workflow.pools.pool import PoolState

_PUT_BACK = ("JOB_RELEASED", "JOB_EVICTED", "JOB_RECONNECT_FAILED", "SHADOW_EXCEPTION")
"""What process it had is gone, and it waits for another."""


@dataclass(frozen=True)
class Seen:
    """The last that was heard of one job."""

    state: PoolState
    exit_code: int | None = None
    reason: str = ""
    failure: Failure | None = None


def of_exit(ad: Any) -> Seen:
    """From an event or an ad of a job that has ended: `ReturnValue` or `ExitCode`, and whether it was a signal."""
    by_signal = ad.get("ExitBySignal", not ad.get("TerminatedNormally", True))
    if by_signal:
        return Seen(PoolState.EXITED, -int(ad.get("ExitSignal") or ad.get("TerminatedBySignal") or 9))
    code = ad.get("ExitCode", ad.get("ReturnValue"))
    return Seen(PoolState.GONE, reason="it left no exit code") if code is None else Seen(PoolState.EXITED, int(code))


def of_hold(ad: Any, holds: int) -> Seen:
    """From an event or an ad of a job that is held for the `holds`-th time."""
    code, subcode = ad.get("HoldReasonCode"), ad.get("HoldReasonSubCode")
    reason = words(code, subcode, str(ad.get("HoldReason") or ""))
    return Seen(PoolState.HELD, reason=reason, failure=hold_of(code, subcode).lasting(holds))


def after(event: Any, before: Seen | None, holds: int = 1) -> Seen | None:
    """What is known after an event; None where it changes nothing. `holds`: how often the job was held, this time included."""
    name = event.type.name
    if name == "SUBMIT" or name in _PUT_BACK:
        failure: Failure | None = "preempted" if name in _PUT_BACK else None
        return Seen(PoolState.PENDING, reason=str(event.get("Message") or event.get("Reason") or ""), failure=failure)
    if name in ("EXECUTE", "JOB_RECONNECTED"):
        return Seen(PoolState.RUNNING)
    if name == "JOB_HELD":
        return of_hold(event, holds)
    if name == "JOB_TERMINATED":
        return of_exit(event)
    if name == "JOB_ABORTED":
        held = before is not None and before.state is PoolState.HELD
        why = before.reason if before and held else str(event.get("Reason") or "")
        return Seen(PoolState.GONE, reason=f"removed: {why}", failure=before.failure if before else None)
    return None


class EventReader:
    """Reads one log on from where it was."""

    def __init__(self, htcondor: Any, path: Path) -> None:
        self._htcondor, self._path = htcondor, path
        self._log: Any = None
        self._size = -1
        self.jobs: dict[int, Seen] = {}
        """By process number."""
        self._holds: dict[int, int] = {}
        self.cluster: int | None = None
        self.removed = False
        """The cluster is gone from the schedd: what was never made of it will not be."""

    def read(self) -> bool:
        """Take in what is new; False if nothing was. A log that cannot be read says nothing: the schedd is asked instead."""
        try:
            size = self._path.stat().st_size
            if size == self._size:
                return False
            if self._log is None:
                self._log = self._htcondor.JobEventLog(str(self._path))
            for event in self._log.events(0):
                self._take(event)
        except (OSError, self._htcondor.HTCondorException):
            self._log = None  # from the beginning at the next look: events repeat, and say the same
            self._size = -1
            self._holds.clear()
            return False
        self._size = size
        return True

    def _take(self, event: Any) -> None:
        self.cluster = int(event.cluster)
        if event.type.name == "CLUSTER_REMOVE":
            self.removed = True
        proc = int(event.proc)
        if event.type.name == "JOB_HELD":
            self._holds[proc] = self._holds.get(proc, 0) + 1
        if proc >= 0 and (seen := after(event, self.jobs.get(proc), self._holds.get(proc, 0))) is not None:
            self.jobs[proc] = seen

    def close(self) -> None:
        """Give the file back."""
        if self._log is not None:
            self._log.close()

"""What a job's ad says, of the queue or of the history."""

from __future__ import annotations

from typing import Any

from workflow.pools.events import Seen, of_exit, of_hold
from workflow.pools.holds import SPOOLING
from workflow.pools.pool import PoolState

IDLE, RUNNING, REMOVED, COMPLETED, HELD, OUTPUT, SUSPENDED = range(1, 8)
"""JobStatus."""
UNSPOOLED = "its files were not all spooled"


def of_ad(ad: Any) -> Seen:
    """Of a job in the queue."""
    status = int(ad["JobStatus"])
    if status == HELD:
        return of_hold(ad, int(ad.get("NumHolds") or 1))
    if status == COMPLETED:
        return of_exit(ad)
    return Seen(PoolState.PENDING if status == IDLE else PoolState.RUNNING)


def of_past(ad: Any, before: Seen | None = None) -> Seen:
    """Of a job in the history; `before` is the last that was known of it: a held one that was removed keeps its reason."""
    if int(ad["JobStatus"]) == COMPLETED:
        return of_exit(ad)
    held = before if before is not None and before.state is PoolState.HELD else Seen(PoolState.GONE)
    reason = held.reason or ad.get("RemoveReason") or "no reason given"
    return Seen(PoolState.GONE, reason=f"removed: {reason}", failure=held.failure)


def half_spooled(ad: Any) -> bool:
    """Whether the job still waits for its input: whoever was sending it has died; a cluster's ad has no status."""
    return ad.get("JobStatus") == HELD and int(ad.get("HoldReasonCode") or 0) == SPOOLING


def unstaged(ad: Any) -> bool:
    """Whether the job was removed because its input never came whole: it was never there."""
    reason = str(ad.get("RemoveReason") or "")
    return UNSPOOLED in reason or "Staging of job files failed" in reason


def unmade(factory: Any, proc: int) -> bool:
    """Whether a late materialized cluster has not come to this process yet."""
    return factory is not None and int(factory["JobMaterializeNextProcId"]) <= proc

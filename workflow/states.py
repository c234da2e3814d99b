"""Life cycles as tables: rows of (from, event, to); what is not in a table raises.

The states of quanta are those that readers of `bps report` know; UNKNOWN belongs to pools alone, and is never FAILED.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

from workflow.errors import IllegalTransition


class CampaignState(StrEnum):
    """Of a campaign."""

    UNREADY = "UNREADY"
    READY = "READY"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class StepState(StrEnum):
    """Of a step: UNREADY waits for its predecessor or its release, READY may be planned, RUNNING is planned."""

    UNREADY = "UNREADY"
    READY = "READY"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class QuantumState(StrEnum):
    """Of a quantum, in the order of the report's columns."""

    UNREADY = "UNREADY"
    READY = "READY"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    HELD = "HELD"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    PRUNED = "PRUNED"
    DELETED = "DELETED"


class JobState(StrEnum):
    """Of a job. PREPARED: in the ledger, perhaps not yet in the pool. LOST: its lease ran out while its pool was silent."""

    PREPARED = "PREPARED"
    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    ENDED = "ENDED"
    LOST = "LOST"
    KILLED = "KILLED"


class FailureClass(StrEnum):
    """Why an attempt at a quantum failed; each has its own budget of retries."""

    INFRASTRUCTURE = "infrastructure"
    OUT_OF_MEMORY = "out_of_memory"
    SIGNAL = "signal"
    SCIENCE = "science"
    MISSING_INPUT = "missing_input"
    PREEMPTED = "preempted"
    TIMEOUT = "timeout"


CAMPAIGN_TERMINAL = frozenset({CampaignState.SUCCEEDED, CampaignState.FAILED, CampaignState.CANCELLED})
STEP_TERMINAL = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELLED})
QUANTUM_TERMINAL = frozenset({QuantumState.SUCCEEDED, QuantumState.FAILED, QuantumState.PRUNED, QuantumState.DELETED})
QUANTUM_IN_JOB = frozenset({QuantumState.PENDING, QuantumState.RUNNING})
JOB_TERMINAL = frozenset({JobState.ENDED, JobState.LOST, JobState.KILLED})

_C, _S, _Q, _J = CampaignState, StepState, QuantumState, JobState
S = TypeVar("S", bound=StrEnum)

CAMPAIGN_TABLE: tuple[tuple[CampaignState, str, CampaignState], ...] = (
    (_C.READY, "advance", _C.RUNNING),
    (_C.READY, "pause", _C.PAUSED),
    (_C.RUNNING, "pause", _C.PAUSED),
    (_C.PAUSED, "resume", _C.RUNNING),
    (_C.RUNNING, "succeed", _C.SUCCEEDED),
    (_C.RUNNING, "fail", _C.FAILED),
    (_C.READY, "cancel", _C.CANCELLED),
    (_C.RUNNING, "cancel", _C.CANCELLED),
    (_C.PAUSED, "cancel", _C.CANCELLED),
    (_C.FAILED, "cancel", _C.CANCELLED),
    (_C.FAILED, "retry", _C.RUNNING),
    (_C.SUCCEEDED, "retry", _C.RUNNING),  # of a step that was allowed to end with failures
    (_C.RUNNING, "retry", _C.RUNNING),
    (_C.READY, "hotfix", _C.READY),
    (_C.RUNNING, "hotfix", _C.RUNNING),
    (_C.PAUSED, "hotfix", _C.PAUSED),
    (_C.FAILED, "hotfix", _C.RUNNING),
    (_C.SUCCEEDED, "hotfix", _C.RUNNING),
)

STEP_TABLE: tuple[tuple[StepState, str, StepState], ...] = (
    (_S.UNREADY, "ready", _S.READY),
    (_S.READY, "planned", _S.RUNNING),
    (_S.READY, "empty", _S.SUCCEEDED),
    (_S.READY, "fail", _S.FAILED),
    (_S.RUNNING, "succeed", _S.SUCCEEDED),
    (_S.RUNNING, "fail", _S.FAILED),
    (_S.UNREADY, "cancel", _S.CANCELLED),
    (_S.READY, "cancel", _S.CANCELLED),
    (_S.RUNNING, "cancel", _S.CANCELLED),
    (_S.FAILED, "retry", _S.RUNNING),
    (_S.SUCCEEDED, "retry", _S.RUNNING),
    (_S.FAILED, "replan", _S.READY),
    # A part of it is planned again, as a new generation.
    (_S.RUNNING, "hotfix", _S.READY),
    (_S.SUCCEEDED, "hotfix", _S.READY),
    (_S.FAILED, "hotfix", _S.READY),
    (_S.READY, "hotfix", _S.READY),
)

QUANTUM_TABLE: tuple[tuple[QuantumState, str, QuantumState], ...] = (
    (_Q.UNREADY, "ready", _Q.READY),
    (_Q.UNREADY, "dispatch", _Q.PENDING),  # together with its parents
    (_Q.READY, "dispatch", _Q.PENDING),
    (_Q.PENDING, "start", _Q.RUNNING),
    (_Q.PENDING, "accept", _Q.SUCCEEDED),
    (_Q.RUNNING, "accept", _Q.SUCCEEDED),
    # An attempt that was given up may still be the first to succeed.
    (_Q.UNREADY, "accept", _Q.SUCCEEDED),
    (_Q.READY, "accept", _Q.SUCCEEDED),
    (_Q.HELD, "accept", _Q.SUCCEEDED),
    (_Q.PENDING, "give_back", _Q.READY),
    (_Q.RUNNING, "give_back", _Q.READY),
    (_Q.PENDING, "exhaust", _Q.FAILED),
    (_Q.RUNNING, "exhaust", _Q.FAILED),
    (_Q.PENDING, "hold", _Q.HELD),
    (_Q.RUNNING, "hold", _Q.HELD),
    (_Q.HELD, "resume", _Q.READY),
    (_Q.UNREADY, "prune", _Q.PRUNED),
    (_Q.READY, "prune", _Q.PRUNED),
    (_Q.PENDING, "prune", _Q.PRUNED),
    (_Q.RUNNING, "prune", _Q.PRUNED),
    (_Q.HELD, "prune", _Q.PRUNED),
    (_Q.FAILED, "retry", _Q.READY),
    (_Q.PRUNED, "retry", _Q.UNREADY),
    (_Q.UNREADY, "cancel", _Q.DELETED),
    (_Q.READY, "cancel", _Q.DELETED),
    (_Q.PENDING, "cancel", _Q.DELETED),
    (_Q.RUNNING, "cancel", _Q.DELETED),
    (_Q.HELD, "cancel", _Q.DELETED),
)

JOB_TABLE: tuple[tuple[JobState, str, JobState], ...] = (
    (_J.PREPARED, "submit", _J.SUBMITTED),
    (_J.SUBMITTED, "start", _J.RUNNING),
    (_J.SUBMITTED, "end", _J.ENDED),
    (_J.RUNNING, "end", _J.ENDED),
    (_J.SUBMITTED, "lose", _J.LOST),
    (_J.RUNNING, "lose", _J.LOST),
    (_J.PREPARED, "kill", _J.KILLED),
    (_J.SUBMITTED, "kill", _J.KILLED),
    (_J.RUNNING, "kill", _J.KILLED),
    (_J.LOST, "end", _J.ENDED),
    (_J.KILLED, "end", _J.ENDED),
)


def follow(table: Iterable[tuple[S, str, S]], state: S, event: str) -> S:
    """Where `event` leads from `state`; IllegalTransition where the table has no such row."""
    for before, name, after in table:
        if before == state and name == event:
            return after
    raise IllegalTransition(f"{type(state).__name__} {state.value} has no row for the event {event!r}: see workflow/states.py")


def sources(table: Iterable[tuple[S, str, S]], event: str) -> tuple[list[str], str]:
    """(states from which `event` is allowed, the one state it leads to), for a batch update guarded by its own WHERE.

    Raises IllegalTransition if no row has the event, or if its rows lead to different states.
    """
    rows = [(before, after) for before, name, after in table if name == event]
    targets = {after for _, after in rows}
    if len(targets) != 1:
        raise IllegalTransition(f"the event {event!r} leads to {len(targets)} states: use follow() row by row")
    return [before.value for before, _ in rows], targets.pop().value

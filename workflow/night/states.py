"""Life cycles of a night, of its workers and of a visit's parts: tables for `workflow.states.follow`."""

from __future__ import annotations

from enum import StrEnum


class NightState(StrEnum):
    """OPENING: workers are being armed; OPEN: every detector has been armed once; DRAINING: nothing new is begun."""

    OPENING = "OPENING"
    OPEN = "OPEN"
    DRAINING = "DRAINING"
    CLOSED = "CLOSED"


class WorkerState(StrEnum):
    """Of a worker. LOST: it is gone, or silent for so long that another takes its place."""

    ORDERED = "ORDERED"
    ARMED = "ARMED"
    LOST = "LOST"
    ENDED = "ENDED"


class PartState(StrEnum):
    """Of a visit on one detector. CANCELLED: over its deadline, or given up for a reason that is none of the science's."""

    EXPECTED = "EXPECTED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


PART_TERMINAL = frozenset({PartState.SUCCEEDED, PartState.FAILED, PartState.CANCELLED})
PART_LEFT = frozenset({PartState.FAILED, PartState.CANCELLED})
WORKER_TERMINAL = frozenset({WorkerState.LOST, WorkerState.ENDED})
_N, _W, _P = NightState, WorkerState, PartState

NIGHT_TABLE: tuple[tuple[NightState, str, NightState], ...] = (
    (_N.OPENING, "armed", _N.OPEN),
    (_N.OPENING, "drain", _N.DRAINING),
    (_N.OPEN, "armed", _N.OPEN),
    (_N.OPEN, "drain", _N.DRAINING),
    (_N.DRAINING, "drain", _N.DRAINING),
    (_N.DRAINING, "close", _N.CLOSED),
)
WORKER_TABLE: tuple[tuple[WorkerState, str, WorkerState], ...] = (
    (_W.ORDERED, "armed", _W.ARMED),
    (_W.ARMED, "armed", _W.ARMED),
    (_W.ORDERED, "lost", _W.LOST),
    (_W.ARMED, "lost", _W.LOST),
    (_W.ORDERED, "left", _W.ENDED),
    (_W.ARMED, "left", _W.ENDED),
)
# What is said twice changes nothing; what a worker did after all, after its deadline, is done.
PART_TABLE: tuple[tuple[PartState, str, PartState], ...] = (
    (_P.EXPECTED, "progress", _P.RUNNING),
    (_P.RUNNING, "progress", _P.RUNNING),
    *((state, "succeeded", _P.SUCCEEDED) for state in PartState),
    (_P.EXPECTED, "failed", _P.FAILED),
    (_P.RUNNING, "failed", _P.FAILED),
    (_P.FAILED, "failed", _P.FAILED),
    (_P.CANCELLED, "failed", _P.CANCELLED),
    (_P.SUCCEEDED, "failed", _P.SUCCEEDED),
    (_P.EXPECTED, "cancelled", _P.CANCELLED),
    (_P.RUNNING, "cancelled", _P.CANCELLED),
    (_P.CANCELLED, "cancelled", _P.CANCELLED),
    (_P.FAILED, "cancelled", _P.FAILED),
    (_P.SUCCEEDED, "cancelled", _P.SUCCEEDED),
    *((state, "progress", state) for state in sorted(PART_TERMINAL)),
)

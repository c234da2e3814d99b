"""The contract of a pool.

- `submit` is idempotent by key: a job that was ever submitted under the key is adopted, never started again;
- a job outlives the engine that submitted it, and another engine finds it by its key;
- what the pool cannot say is UNKNOWN, and UNKNOWN is never a failure; GONE is said only by a pool that answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class PoolState(StrEnum):
    """What a pool says about a job."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    HELD = "HELD"
    EXITED = "EXITED"
    GONE = "GONE"
    """The pool answered: it has no such job, and no record of how it ended."""
    UNKNOWN = "UNKNOWN"


POOL_ENDED = frozenset({PoolState.EXITED, PoolState.GONE})


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job asks for."""

    memory_mb: int
    cpus: int = 1


@dataclass(frozen=True, kw_only=True)
class PoolJob:
    """One job as its pool sees it; `exit_code` of an EXITED one is negative for a signal."""

    key: str
    state: PoolState
    exit_code: int | None = None
    reason: str = ""


class Pool(Protocol):
    """A place where jobs run."""

    name: str

    def submit(self, key: str, message: Path, resources: Resources) -> str:
        """Start the runner on a job message, or adopt the job of this key; returns the pool's own id.

        Raises PoolUnavailable where it is not known whether the job was taken: submit again under the same key.
        """

    def poll(self, keys: Iterable[str]) -> Mapping[str, PoolJob]:
        """State of every key; never raises for a pool that does not answer."""

    def kill(self, key: str, *, hard: bool = False) -> None:
        """Ask the job to end, or with `hard` end it; a job that is gone is as good as ended."""

    def capacity(self) -> int:
        """How many more jobs would start at once."""

    def forget(self, key: str) -> None:
        """Drop what the pool keeps of a job that has ended."""

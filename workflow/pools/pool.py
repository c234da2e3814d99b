"""The contract of a pool.

- `submit` is idempotent by key: a job that was ever submitted under the key is adopted, never started again;
- a job outlives the engine that submitted it, and another engine finds it by its key;
- what the pool cannot say is UNKNOWN, and UNKNOWN is never a failure; GONE is said only by a pool that answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from workflow.job import Failure


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
    never_machines: tuple[str, ...] = ()
    """Hosts to keep away from: they failed too often of late, or an operator said so."""
    only_machines: tuple[str, ...] = ()
    """Hosts to keep to; empty means all."""
    priority: int = 0
    """Among jobs of the same kind of production: higher goes first."""
    group: str = "drp"
    """Class of the production: prompt, offline, ocs_batch, cpp, drp; an earlier one goes before all later ones."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """One job to submit: `message` is read before `submit_many` returns."""

    key: str
    message: Path
    resources: Resources


@dataclass(frozen=True, kw_only=True)
class PoolJob:
    """One job as its pool sees it; `exit_code` of an EXITED one is negative for a signal."""

    key: str
    state: PoolState
    exit_code: int | None = None
    reason: str = ""
    failure: Failure | None = None
    """Of a HELD or GONE one whose pool knows more than that: the class of the failure. Of a PENDING one: its process is gone."""


class Pool(Protocol):
    """A place where jobs run."""

    name: str

    def submit(self, key: str, message: Path, resources: Resources) -> str:
        """Start the runner on a job message, or adopt the job of this key; returns the pool's own id.

        Raises PoolUnavailable where it is not known whether the job was taken: submit again under the same key.
        """

    def submit_many(self, requests: Sequence[JobRequest]) -> Mapping[str, str]:
        """As `submit`, for many at once; returns the pool's own id of each. After an error all may be submitted again."""

    def poll(self, keys: Iterable[str]) -> Mapping[str, PoolJob]:
        """State of every key; never raises for a pool that does not answer."""

    def kill(self, key: str, *, hard: bool = False) -> None:
        """Ask the job to end, or with `hard` end it; a job that is gone is as good as ended."""

    def kill_many(self, keys: Iterable[str], *, hard: bool = False) -> None:
        """As `kill`, in one request."""

    def hold(self, keys: Iterable[str], reason: str) -> None:
        """Keep jobs that wait from starting, and put back those that run, until `release`."""

    def release(self, keys: Iterable[str]) -> None:
        """Let held jobs go on."""

    def change_priority(self, keys: Iterable[str], priority: int) -> None:
        """Of jobs that wait: higher goes first among jobs of their group."""

    def why(self, key: str) -> str:
        """For a person: why the job does not run, or where it does."""

    def capacity(self, group: str = "") -> int:
        """How many more jobs (of this priority class) it is worth sending now."""

    def forget(self, key: str) -> None:
        """Drop what the pool keeps of a job that has ended."""

"""A pool in memory: passes the contract's suite, and can be told to fall silent, lose jobs or end them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from workflow.errors import PoolUnavailable
from workflow.pools.pool import JobRequest, PoolJob, PoolState, Resources


class FakePool:
    """Jobs start at once while there are slots. `run`, if given, does a job's work at submission and returns its exit code."""

    def __init__(self, *, slots: int = 4, name: str = "fake", run: Callable[[Path], int | None] | None = None) -> None:
        self.name, self.silent = name, False
        self.submissions: list[str] = []
        self.resources: dict[str, Resources] = {}
        self.killed: list[str] = []
        self.priorities: dict[str, int] = {}
        self._slots, self._run = slots, run
        self._jobs: dict[str, PoolJob] = {}

    def submit(self, key: str, message: Path, resources: Resources) -> str:
        """Take the job, or adopt it."""
        if self.silent:
            raise PoolUnavailable(f"pool {self.name} is silent")
        if key not in self._jobs:
            self.submissions.append(key)
            self.resources[key] = resources
            self._jobs[key] = PoolJob(key=key, state=PoolState.RUNNING)
            if self._run is not None and (code := self._run(message)) is not None:
                self.end(key, code)
        return f"fake-{key}"

    def submit_many(self, requests: Sequence[JobRequest]) -> Mapping[str, str]:
        """Take them all, or adopt them."""
        return {r.key: self.submit(r.key, r.message, r.resources) for r in requests}

    def poll(self, keys: Iterable[str]) -> Mapping[str, PoolJob]:
        """State of every key; UNKNOWN while silent."""
        if self.silent:
            return {key: PoolJob(key=key, state=PoolState.UNKNOWN, reason="silent") for key in keys}
        return {key: self._jobs.get(key, PoolJob(key=key, state=PoolState.GONE)) for key in keys}

    def kill(self, key: str, *, hard: bool = False) -> None:
        """End the job by a signal."""
        self.killed.append(key)
        if key in self._jobs and self._jobs[key].state is PoolState.RUNNING:
            self.end(key, -9 if hard else -15)
        elif key in self._jobs and self._jobs[key].state is PoolState.HELD:
            del self._jobs[key]

    def kill_many(self, keys: Iterable[str], *, hard: bool = False) -> None:
        """End the jobs by a signal."""
        for key in keys:
            self.kill(key, hard=hard)

    def hold(self, keys: Iterable[str], reason: str) -> None:
        """Jobs stop, and wait for their release."""
        for key in keys:
            if key in self._jobs and self._jobs[key].state is PoolState.RUNNING:
                self._jobs[key] = PoolJob(key=key, state=PoolState.HELD, reason=reason)

    def release(self, keys: Iterable[str]) -> None:
        """Held jobs run again."""
        for key in keys:
            if key in self._jobs and self._jobs[key].state is PoolState.HELD:
                self._jobs[key] = PoolJob(key=key, state=PoolState.RUNNING)

    def change_priority(self, keys: Iterable[str], priority: int) -> None:
        """Remembered in `priorities`."""
        self.priorities.update(dict.fromkeys(keys, priority))

    def why(self, key: str) -> str:
        """The state and the reason."""
        job = self.poll([key])[key]
        return f"{job.state} {job.reason}".strip()

    def capacity(self, group: str = "") -> int:
        """Free slots."""
        running = sum(job.state is PoolState.RUNNING for job in self._jobs.values())
        return 0 if self.silent else max(0, self._slots - running)

    def forget(self, key: str) -> None:
        """Drop the record of an ended job."""
        if key in self._jobs and self._jobs[key].state is not PoolState.RUNNING:
            del self._jobs[key]

    def end(self, key: str, exit_code: int) -> None:
        """The job ends now."""
        self._jobs[key] = PoolJob(key=key, state=PoolState.EXITED, exit_code=exit_code)

    def lose(self, key: str) -> None:
        """The job is gone, and nobody knows how."""
        self._jobs.pop(key, None)

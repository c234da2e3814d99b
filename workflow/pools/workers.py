"""Warm workers of one home at one site, on disk: written before anything is sent, so that nothing is sent twice whoever dies.

<folder>/lock          held while jobs are given out
<folder>/<key>.json    one worker: `key` is its first job's, under which its pool knows it
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workflow.pools.pool import Resources


@dataclass
class Worker:
    """A process in a pool that takes one job after the other."""

    key: str
    memory_mb: int
    cpus: int
    group: str
    interpreter: str | None
    id: str | None = None
    """The pool's own, once it has answered."""
    jobs: dict[str, int] = field(default_factory=dict)
    """Numbers of its jobs by their keys, those alone that are not forgotten."""
    last: int = 0
    """Number of the newest job."""
    closed: bool = False
    """It will be given no more."""

    def serves(self, resources: Resources, interpreter: str | None) -> bool:
        """Whether it is of the kind that a job asks for, wherever it may be."""
        same = (self.cpus, self.group, self.interpreter) == (resources.cpus, resources.group, interpreter)
        return same and self.memory_mb >= resources.memory_mb


class Workers:
    """All of them. Several processes may look; who gives out jobs holds the lock and has read all anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_at: dict[str, int] = {}
        self.of_name: dict[str, Worker] = {}
        self.of_job: dict[str, Worker] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def giving(self) -> Iterator[None]:
        """One at a time gives out, closes and drops."""
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.refresh()
            yield

    def refresh(self) -> None:
        """Take in what other processes did."""
        there = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    there[entry.name.removesuffix(".json")] = entry.stat().st_mtime_ns
        for name in self.of_name.keys() - there:
            self._forget(name)
        for name, changed in there.items():
            if self._read_at.get(name) != changed:
                self._forget(name)
                self._keep(Worker(**json.loads((self._folder / f"{name}.json").read_text())), changed)

    def save(self, worker: Worker) -> None:
        """Write a worker down, whole or not at all."""
        path = self._folder / f"{worker.key}.json"
        part = path.with_name(f".{worker.key}.{os.getpid()}")
        part.write_text(json.dumps(asdict(worker)))
        part.replace(path)
        self._forget(worker.key)
        self._keep(worker, path.stat().st_mtime_ns)

    def drop(self, worker: Worker) -> None:
        """It is over, and so are its jobs."""
        (self._folder / f"{worker.key}.json").unlink(missing_ok=True)
        self._forget(worker.key)

    def _keep(self, worker: Worker, read_at: int) -> None:
        self.of_name[worker.key], self._read_at[worker.key] = worker, read_at
        self.of_job.update(dict.fromkeys(worker.jobs, worker))

    def _forget(self, name: str) -> None:
        worker = self.of_name.pop(name, None)
        self._read_at.pop(name, None)
        if worker is not None:
            self.of_job = {key: owner for key, owner in self.of_job.items() if owner.key != name}

"""Kills, or cuts off, one thing of a running home at random, and brings back what is dead."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deploy.condor.pool import CondorServer
from deploy.postgres import PostgresServer
from deploy.stack import Stack

WEIGHTS = {
    "schedd": 2, "startd": 2, "starter": 2, "job": 2, "runner": 2, "pool": 2, "cut off": 2, "frozen": 1,
    "engine": 3, "airflow-triggerer": 2, "airflow-scheduler": 2, "postgres": 2,
}  # fmt: skip
"""What is hit, and how often. A `job` is HTCondor's (the warm parent), a `runner` its child, which runs the quanta."""
CUT_OFF_S = 8.0


@dataclass
class Killer:
    """One for each run; `log` counts the blows that hit. What it kills it does not bring back."""

    home: Path
    stack: Stack
    pools: Sequence[CondorServer]
    rng: random.Random
    frozen_s: float
    """How long a frozen job is still: longer than its lease."""
    log: Counter[str] = field(default_factory=Counter)
    _thawing: list[tuple[threading.Timer, list[psutil.Process]]] = field(default_factory=list)

    def strike(self) -> str:
        """One blow; returns what was hit, or '' if there was no such thing just now."""
        kind = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if self._hit(kind):
            self.log[kind] += 1
            return kind
        return ""

    def thaw(self) -> None:
        """Nothing stays frozen."""
        for timer, processes in self._thawing:
            timer.cancel()
            _resume(processes)
        self._thawing.clear()

    def _hit(self, kind: str) -> bool:
        if kind in ("engine", "airflow-triggerer", "airflow-scheduler"):
            return self._kill([p.leader() for p in self.stack.programs({}) if p.name == kind])
        if kind == "postgres":
            return self._kill([PostgresServer(self.home).leader])
        pool = self.rng.choice(self.pools)
        if kind == "pool":
            return self._kill([pool.leader])
        inside = _descendants(pool.leader)
        if kind in ("schedd", "startd", "starter"):
            return self._kill([p for p in inside if _name(p) == f"condor_{kind}"])
        if kind == "cut off":
            return self._cut_off([p for p in inside if _name(p) in ("condor_schedd", "condor_startd", "condor_collector")])
        runners = [p for p in inside if "payloads.runner" in _command(p)]
        parents = [p for p in runners if "payloads.runner" not in _command(p.parent())]
        if kind == "frozen":
            return self._freeze(parents)
        return self._kill(parents if kind == "job" else [p for p in runners if p not in parents])

    def _kill(self, candidates: Sequence[psutil.Process | None]) -> bool:
        there = [p for p in candidates if p is not None]
        if not there:
            return False
        with contextlib.suppress(psutil.Error):
            self.rng.choice(there).kill()
            return True
        return False

    def _cut_off(self, candidates: Sequence[psutil.Process]) -> bool:
        """A daemon that does not answer for a while."""
        if not candidates:
            return False
        with contextlib.suppress(psutil.Error):
            process = self.rng.choice(candidates)
            process.suspend()
            time.sleep(CUT_OFF_S)
            process.resume()
            return True
        return False

    def _freeze(self, candidates: Sequence[psutil.Process]) -> bool:
        """A job that says nothing until its lease is over, and then goes on if it may."""
        if not candidates:
            return False
        chosen = self.rng.choice(candidates)
        processes = [chosen, *_descendants(chosen)]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        timer = threading.Timer(self.frozen_s, _resume, [processes])
        timer.daemon = True
        self._thawing.append((timer, processes))
        timer.start()
        return True


class Reviver:
    """Starts what is dead, again and again, whatever else dies meanwhile: what a supervisor of services does."""

    def __init__(self, stack: Stack, rng: random.Random, longest_s: float, say: Callable[[str], None]) -> None:
        """`longest_s`: how long the dead lie there at most, before they are looked for."""
        self._stack, self._rng, self._longest_s, self._say = stack, rng, longest_s, say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reviver")

    def __enter__(self) -> Reviver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(self._rng.uniform(0, self._longest_s)):
            try:
                self._stack.up(lambda _: None)
            except Exception as error:  # what it was starting may just have been hit, too
                self._say(f"not all is up: {type(error).__name__}: {str(error).splitlines()[0][:150]}")


def _resume(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.resume()


def _descendants(process: psutil.Process | None) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True) if process else []
    return []


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str(process.name())
    return ""


def _command(process: psutil.Process | None) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) if process else ""
    return ""

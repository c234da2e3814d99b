"""Jobs as processes of this machine, which survive the engine: each in a session of its own, known by files alone.

    run/jobs/<key>/record   pid, session and start time, written by the process itself before all else (a pid alone is reused)
    run/jobs/<key>/exit     its exit code
    run/jobs/<key>/stderr   what it had to say

The record is made with O_EXCL (the shell's noclobber), so of two engines that submit one key exactly one starts it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from workflow.errors import PoolUnavailable
from workflow.pools.pool import JobRequest, PoolJob, PoolState, Resources
from workflow.processes import alive, session_lives, start_time, stopped

# $0 is the job's folder. The outer shell leaves at once, so that the job belongs to init and never becomes the engine's zombie.
_KEEPER = """
set -C
{ echo "$$ $(cut -d' ' -f6,22 /proc/$$/stat)" > "$0/record"; } 2>/dev/null || exit 0
set +C
trap : TERM
"$@"
code=$?
echo "$code" > "$0/exit.part" && mv "$0/exit.part" "$0/exit"
"""
_DETACH = '/bin/sh -c "$KEEPER" "$0" "$@" </dev/null >>"$0/stdout" 2>>"$0/stderr" &'
_RECORD_WAIT_S = 10.0
_POLL_S = 0.005


class LocalPool:
    """Up to `slots` jobs at a time; `command` runs a job message, whose path is appended."""

    def __init__(self, folder: Path, *, slots: int, name: str = "local", command: Sequence[str] | None = None) -> None:
        self.name = name
        self._folder, self._slots = folder, slots
        self._command = list(command or (sys.executable, "-m", "payloads.runner"))
        folder.mkdir(parents=True, exist_ok=True)

    def submit(self, key: str, message: Path, resources: Resources) -> str:
        """Start the job, or adopt it (see the contract)."""
        folder = self._folder / key
        if not (folder / "record").exists():
            folder.mkdir(exist_ok=True)
            shutil.copyfile(message, folder / "job.json")
            environment = {**os.environ, "KEEPER": _KEEPER, "OMP_NUM_THREADS": str(resources.cpus)}
            subprocess.run(
                ["/bin/sh", "-c", _DETACH, str(folder), *self._command, str(folder / "job.json")],
                env=environment,
                start_new_session=True,
                check=True,
            )
        return self._recorded(folder)

    def submit_many(self, requests: Sequence[JobRequest]) -> Mapping[str, str]:
        """Start the jobs, or adopt them."""
        return {r.key: self.submit(r.key, r.message, r.resources) for r in requests}

    def _recorded(self, folder: Path) -> str:
        deadline = time.monotonic() + _RECORD_WAIT_S
        while time.monotonic() < deadline:
            if record := _read(folder / "record").split():
                return record[0]
            time.sleep(_POLL_S)
        raise PoolUnavailable(
            f"pool {self.name}: the process of job {folder.name} did not say that it began; see {folder}/stderr"
        )

    def poll(self, keys: Iterable[str]) -> Mapping[str, PoolJob]:
        """State of every key."""
        return {key: self._state(key) for key in keys}

    def _state(self, key: str) -> PoolJob:
        folder = self._folder / key
        try:
            record = (folder / "record").read_text().split()
            running = len(record) == 3 and alive(int(record[0]), record[2])  # before the exit code is looked for: it may just end
            text = _read(folder / "exit")
        except FileNotFoundError:
            return PoolJob(key=key, state=PoolState.GONE, reason="it was never started here")
        except OSError as error:
            return PoolJob(key=key, state=PoolState.UNKNOWN, reason=str(error))
        if text:
            code = int(text)
            return PoolJob(
                key=key,
                state=PoolState.EXITED,
                exit_code=128 - code if code > 128 else code,
                reason=self._words(key) if code else "",
            )
        if running and stopped(int(record[0])):
            return PoolJob(key=key, state=PoolState.HELD, reason="stopped by hand")
        if running or (len(record) == 3 and self._orphaned(record)):
            return PoolJob(key=key, state=PoolState.RUNNING)
        return PoolJob(
            key=key, state=PoolState.GONE, reason=f"its process is gone and left no exit code {self._words(key)}".strip()
        )

    def _orphaned(self, record: Sequence[str]) -> bool:
        """Whether the job's own processes outlive the shell that kept them: only when they are gone too may it be swept."""
        return start_time(int(record[0])) is None and session_lives(int(record[1]))

    def _words(self, key: str) -> str:
        return _read(self._folder / key / "stderr")[-500:].strip()

    def kill(self, key: str, *, hard: bool = False) -> None:
        """SIGTERM to the job's session, from which the runner ends in order; `hard`: SIGKILL."""
        record = _read(self._folder / key / "record").split()
        if len(record) == 3 and (alive(int(record[0]), record[2]) or self._orphaned(record)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(record[1]), signal.SIGKILL if hard else signal.SIGTERM)
                os.killpg(int(record[1]), signal.SIGCONT)  # what is stopped would never come to it

    def kill_many(self, keys: Iterable[str], *, hard: bool = False) -> None:
        """The same, for many."""
        for key in keys:
            self.kill(key, hard=hard)

    def hold(self, keys: Iterable[str], reason: str) -> None:
        """Stop the jobs' processes where they are: here nothing waits that could be kept from starting."""
        self._signal(keys, signal.SIGSTOP)

    def release(self, keys: Iterable[str]) -> None:
        """Let stopped jobs go on."""
        self._signal(keys, signal.SIGCONT)

    def _signal(self, keys: Iterable[str], number: signal.Signals) -> None:
        for key in keys:
            record = _read(self._folder / key / "record").split()
            if len(record) == 3 and alive(int(record[0]), record[2]):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(record[1]), number)

    def change_priority(self, keys: Iterable[str], priority: int) -> None:
        """Jobs here have all started: there is nothing to reorder."""

    def why(self, key: str) -> str:
        """The state, the process and where its words are."""
        job = self.poll([key])[key]
        record = _read(self._folder / key / "record").split()
        where = f"process {record[0]}, words in {self._folder / key / 'stderr'}" if record else "no process"
        return f"{job.state} on this machine: {where} {job.reason}".strip()

    def capacity(self, group: str = "") -> int:
        """Free slots, whoever's jobs hold the others."""
        jobs = [path.name for path in self._folder.iterdir() if not (path / "exit").exists()]
        running = sum(self._state(key).state is PoolState.RUNNING for key in jobs)
        return max(0, self._slots - running)

    def forget(self, key: str) -> None:
        """Remove the job's folder; what it said on stderr goes to jobs.log beside the folders."""
        folder = self._folder / key
        if self._state(key).state is PoolState.RUNNING:
            return
        if words := _read(folder / "stderr"):
            with (self._folder.parent / "jobs.log").open("a") as log:
                log.write(f"--- job {key}\n{words}")
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""

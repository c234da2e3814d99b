"""Long-running programs as process groups of their own: started detached, found again by pid file, ended completely.

Every process carries `PACHON_PROCESS=<home>:<name>` in its environment, which its descendants inherit. A program that left its
group (Airflow's task runners do, by `setpgid`) or that lost its parent to `kill -9` is therefore still found and ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from backbone.errors import PermanentError

MARK = "PACHON_PROCESS"
TAIL_BYTES = 4000


class ProcessDied(PermanentError):
    """A component ended, or never became ready; the message has the end of its log."""


@dataclass(frozen=True)
class Record:
    """What a pid file holds: the start time tells a reused pid from ours."""

    pid: int
    create_time: float


@dataclass(frozen=True)
class Program:
    """One long-running program of a home; the object holds no state, the pid file does."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    home: Path

    @property
    def mark(self) -> str:
        """The value of `PACHON_PROCESS` in every process of this program."""
        return f"{self.home}:{self.name}"

    @property
    def pid_file(self) -> Path:
        """Where the process leader is recorded."""
        return self.home / "run" / f"{self.name}.pid"

    @property
    def log_file(self) -> Path:
        """Output and errors of every start, appended."""
        return self.home / "log" / f"{self.name}.log"

    def start(self) -> int:
        """Start unless alive; what an earlier, killed life left behind is ended first. Returns the leader's pid."""
        if (process := self.leader()) is not None:
            return process.pid
        end(self.remains())
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            child = subprocess.Popen(
                self.argv,
                env={**self.env, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                start_new_session=True,
            )
        _write_record(self.pid_file, child.pid)
        # Our child only until we exit: Popen must not warn about it, and a death is noticed by `leader`.
        child.returncode = 0
        return child.pid

    def leader(self) -> psutil.Process | None:
        """The running leader that the pid file names, or None."""
        return _read_leader(self.pid_file)

    def remains(self) -> list[psutil.Process]:
        """Every process of this program that lives, leader included."""
        found = {p.pid: p for p in marked(self.mark)}
        if (leader := self.leader()) is not None:
            found.update({p.pid: p for p in (leader, *_children(leader))})
        return list(found.values())

    def stop(self, grace_s: float = 10.0) -> int:
        """End the program and all that came from it: SIGTERM, then SIGKILL after `grace_s`. Returns how many were ended."""
        count = end(self.remains(), grace_s)
        count += end(marked(self.mark), grace_s)
        self.pid_file.unlink(missing_ok=True)
        return count

    def check(self) -> None:
        """Raise `ProcessDied`, with the end of the log, unless the leader is alive."""
        if self.leader() is None:
            raise ProcessDied(f"{self.name} is not running; the end of {self.log_file}:\n{self.tail()}")

    def tail(self, size: int = TAIL_BYTES) -> str:
        """The last `size` bytes of the log, as text."""
        return tail(self.log_file, size)


def tail(path: Path, size: int = TAIL_BYTES) -> str:
    """The last `size` bytes of a file as text; a note if there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return f"(no log at {path})"


def marked(prefix: str) -> list[psutil.Process]:
    """Processes of this user whose `PACHON_PROCESS` is `prefix`, or begins with it when it ends in a colon."""
    found = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(MARK)
        except (psutil.Error, OSError):
            continue  # gone, or another user's
        if value is not None and (value == prefix or (prefix.endswith(":") and value.startswith(prefix))):
            found.append(process)
    return [p for p in found if p.pid != os.getpid()]


def end(processes: Sequence[psutil.Process], grace_s: float = 10.0) -> int:
    """SIGTERM, wait, SIGKILL what is left, wait; returns how many there were."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace_s)
    return len(processes)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        children: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return children


def _write_record(path: Path, pid: int) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"pid": pid, "create_time": psutil.Process(pid).create_time()}))
    temporary.replace(path)


def _read_leader(path: Path) -> psutil.Process | None:
    try:
        record = Record(**json.loads(path.read_text()))
        process = psutil.Process(record.pid)
        if abs(process.create_time() - record.create_time) > 1.0 or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except (FileNotFoundError, ValueError, TypeError, psutil.NoSuchProcess):
        return None
    return process

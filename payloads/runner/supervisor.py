"""The warm parent: loads everything once, forks a child for the quanta, and goes on with a new one when a child dies."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.endpoint import Endpoint
from backbone.endpoints import open_endpoint, use_profiles
from backbone.errors import ObjectExists, TransientError
from backbone.garbage import freeze, rss_mb
from payloads.runner import child
from payloads.runner.failures import of_death
from payloads.runner.frames import Frame, Reader
from payloads.runner.meter import process_began
from payloads.runner.report import Reporter
from workflow.job import EXIT_BROKEN, EXIT_PREEMPTED, EXIT_STORAGE, NULL, Failure, JobMessage, Outcome, Place, begun_key

_LOG = logging.getLogger(__name__)
_WATCH_S = 0.2
_STARTS = 3


def run_job(job: JobMessage, *, stopping: Stopping | None = None, began: float | None = None) -> int:
    """Do a job; returns its exit code. A quantum's failure is no failure of the job.

    `stopping`: whether the process was asked to end, where others listen too; `began`: when the job did, if not with its process.
    """
    endpoint = opened(job.endpoint)
    if not _is_first(endpoint, job.attempt):
        _LOG.warning("job %s had begun before and was started anew: what is left of it is for another attempt", job.attempt)
        return EXIT_PREEMPTED
    reporter = Reporter(job, endpoint, began=began)
    stopping = stopping or Stopping().install()
    reporter.tick(None)
    try:
        work = _loaded(job, endpoint)
    except TransientError:
        raise
    except Exception as error:
        _LOG.exception("job %s cannot begin", job.attempt)
        reporter.close(f"cannot begin: {type(error).__name__}: {error}")
        return EXIT_BROKEN
    return Supervisor(work, reporter, stopping).run()


def _is_first(endpoint: Endpoint, attempt: str) -> bool:
    """Whether no other process has begun this attempt: a second one would overwrite what was accepted of the first."""
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "process": process_began(os.getpid())}).encode()
    try:
        endpoint.put(begun_key(attempt), mine, create_only=True)
    except ObjectExists:
        return endpoint.get(begun_key(attempt)) == mine  # an endpoint whose answer was lost is asked again
    return True


def _loaded(job: JobMessage, endpoint: Endpoint) -> child.Work:
    if job.graph_key.startswith(NULL):
        from payloads.runner.null import NullWork

        return NullWork(job)
    from payloads.runner.quanta import load  # the Butler costs 2 s to import, and the null payload has none

    return load(job, endpoint)


def opened(place: Place) -> Endpoint:
    """The site's endpoint; Butler, which opens it by itself, is told of the same keys."""
    credentials = Path(place.credentials) if place.credentials else None
    if credentials:
        use_profiles(credentials)
    return open_endpoint(place.uri, name=place.name, url=place.url, credentials=credentials)


class Stopping:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> Stopping:
        """Listen to SIGTERM."""
        signal.signal(signal.SIGTERM, self)
        return self

    def __call__(self, _signal: int, _frame: Any) -> None:
        """Of the signal."""
        self.asked = True


class Supervisor:
    """Watches one child at a time."""

    def __init__(self, work: child.Work, reporter: Reporter, stopping: Stopping) -> None:
        self._work, self._reporter, self._stopping = work, reporter, stopping
        self._todo = list(work.order)
        self._current: str | None = None
        self._begun = time.monotonic()
        self._rss_mb = 0.0
        self._killed_for: Failure | None = None
        self._broken = ""
        self._judged = 0.0

    def run(self) -> int:
        """Until every quantum has an outcome or cannot have one, or the job is told to stop."""
        freeze()
        bad_starts = 0
        while self._todo and not self._stopping.asked and bad_starts < _STARTS:
            before = len(self._work.done)
            exit_code = self._watch(*self._fork())
            self._bury(exit_code)
            bad_starts = bad_starts + 1 if len(self._work.done) == before and exit_code else 0
        return self._end(bad_starts)

    def _end(self, bad_starts: int) -> int:
        reason, code = "", 0
        if self._stopping.asked:
            reason, code = "told to stop", EXIT_PREEMPTED
        elif bad_starts >= _STARTS:
            reason, code = f"cannot begin: {self._broken or 'its process dies before the first quantum'}", EXIT_BROKEN
        try:
            self._reporter.close(reason)
        except TransientError:
            return EXIT_STORAGE
        return code

    def _fork(self) -> tuple[int, Reader]:
        receiver, sender = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(receiver)
                child.run(self._work, self._todo, sender)
                code = 0
            except BaseException:
                _LOG.exception("job %s: the child failed outside any task", self._work.job.attempt)
            finally:
                os._exit(code)
        os.close(sender)
        self._current, self._killed_for, self._rss_mb = None, None, 0.0
        self._begun = time.monotonic()
        return pid, Reader(receiver)

    def _watch(self, pid: int, reader: Reader) -> int:
        """Until the child is gone; its exit code, negative for a signal."""
        while not reader.ended:
            for frame in reader.read(_WATCH_S):
                self._hear(frame)
            if time.monotonic() - self._judged >= _WATCH_S:
                self._judge(pid)
            self._reporter.tick(self._current)
        reader.close()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _hear(self, frame: Frame) -> None:
        if frame.broken:
            self._broken = frame.broken
            return
        if frame.ended is not None:
            self._record(frame.ended, frame.outcome, frame.members)
        self._current, self._begun, self._rss_mb = frame.begun, time.monotonic(), 0.0

    def _record(self, quantum: str, outcome: bytes, members: Mapping[str, bytes]) -> None:
        self._work.done[quantum] = outcome
        self._current = None
        self._reporter.add(outcome, members)

    def _judge(self, pid: int) -> None:
        """Stop a child that is over a limit, or told to."""
        self._judged = time.monotonic()
        self._rss_mb = max(self._rss_mb, rss_mb(pid))
        if self._killed_for:
            return
        if self._stopping.asked:
            self._killed_for = "preempted"
        elif self._rss_mb > self._work.job.memory_mb:
            self._killed_for = "out_of_memory"
        elif self._current and time.monotonic() - self._begun > self._work.job.time_limit_s:
            self._killed_for = "timeout"
        if self._killed_for:
            os.kill(pid, signal.SIGKILL)

    def _bury(self, exit_code: int) -> None:
        """After a child's end: the quantum that it was at is the victim, what can still run is left to do."""
        if self._current is not None:
            failure, words = of_death(
                exit_code, rss_mb=self._rss_mb, limit_mb=self._work.job.memory_mb, killed_for=self._killed_for
            )
            wall_s = round(time.monotonic() - self._begun, 5)
            victim = Outcome(
                quantum=self._current, state="failed", failure_class=failure, error=words, wall_s=wall_s, peak_mb=self._rss_mb
            )
            self._record(self._current, victim.model_dump_json(exclude_defaults=True).encode(), {})
        self._todo = [] if exit_code == 0 else [q for q in self._todo if q not in self._work.done]

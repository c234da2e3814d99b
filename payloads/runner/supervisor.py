"""The warm parent: loads everything once, forks a child for the quanta, and goes on with a new one when a child dies."""

from __future__ import annotations

import gc
import logging
import os
import signal
import tempfile
import time
import uuid
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import networkx as nx
from lsst.daf.butler import Config
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

from backbone.endpoint import Endpoint
from backbone.endpoints import open_endpoint
from backbone.errors import TransientError
from payloads.runner import child
from payloads.runner.failures import of_death
from payloads.runner.report import Reporter
from workflow.job import EXIT_BROKEN, EXIT_PREEMPTED, EXIT_STORAGE, Failure, JobMessage, Outcome

_LOG = logging.getLogger(__name__)
_WATCH_S = 0.2
_STARTS = 3


def run_job(job: JobMessage) -> int:
    """Do a job; returns the process's exit code. A quantum's failure is no failure of the job."""
    endpoint = open_endpoint(job.endpoint.uri, name=job.endpoint.name, **({"url": job.endpoint.url} if job.endpoint.url else {}))
    reporter = Reporter(job, endpoint)
    stopping = _Stopping()
    signal.signal(signal.SIGTERM, stopping)
    reporter.tick(None)
    try:
        work = load(job, endpoint)
    except TransientError:
        raise
    except Exception as error:
        _LOG.exception("job %s cannot begin", job.attempt)
        reporter.close(f"cannot begin: {type(error).__name__}: {error}")
        return EXIT_BROKEN
    return Supervisor(work, reporter, stopping).run()


class _Stopping:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _signal: int, _frame: Any) -> None:
        self.asked = True


def load(job: JobMessage, endpoint: Endpoint) -> child.Work:
    """Graph and configuration of a job, read from its endpoint; the tasks' classes are imported by that."""
    with tempfile.TemporaryDirectory(prefix="pachon-job-") as folder:
        graph_path, config_path = Path(folder) / "graph.qg", Path(folder) / "butler.yaml"
        endpoint.fetch(job.graph_key, graph_path)
        endpoint.fetch(job.config_key, config_path)
        config = Config(str(config_path))
        graph = PredictedQuantumGraph.read_execution_quanta(str(graph_path), quantum_ids=[uuid.UUID(q) for q in job.quanta])
    quanta = graph.build_execution_quanta()
    nodes = graph.quantum_only_xgraph
    wanted = set(job.quanta)
    order = [str(q) for q in nx.topological_sort(nodes) if str(q) in wanted]
    return child.Work(
        job=job,
        graph=graph,
        quanta={q: quanta[uuid.UUID(q)] for q in order},
        labels={q: nodes.nodes[uuid.UUID(q)]["task_label"] for q in order},
        parents={q: [str(p) for p in nodes.predecessors(uuid.UUID(q)) if str(p) in wanted] for q in order},
        config=config,
        root=endpoint.root,
    )


class Supervisor:
    """Watches one child at a time."""

    def __init__(self, work: child.Work, reporter: Reporter, stopping: _Stopping) -> None:
        self._work, self._reporter, self._stopping = work, reporter, stopping
        self._todo = list(work.quanta)
        self._current: str | None = None
        self._begun = time.monotonic()
        self._rss_mb = 0.0
        self._killed_for: Failure | None = None
        self._broken = ""
        self._peer: Connection | None = None

    def run(self) -> int:
        """Until every quantum has an outcome or cannot have one, or the job is told to stop."""
        gc.collect()
        gc.freeze()  # else the collector touches every page, and the child copies them all
        bad_starts = 0
        while self._todo and not self._stopping.asked and bad_starts < _STARTS:
            before = len(self._work.done)
            pid = self._fork()
            exit_code = self._watch(pid)
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

    def _fork(self) -> int:
        receiver, sender = Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                receiver.close()
                child.run(self._work, self._todo, sender)
                code = 0
            except BaseException:
                _LOG.exception("job %s: the child failed outside any task", self._work.job.attempt)
            finally:
                os._exit(code)
        sender.close()
        self._peer, self._current, self._killed_for, self._rss_mb = receiver, None, None, 0.0
        self._begun = time.monotonic()
        return pid

    def _watch(self, pid: int) -> int:
        """Until the child is gone; its exit code, negative for a signal."""
        assert self._peer is not None  # noqa: S101 (for the type checker)
        while True:
            try:
                if self._peer.poll(_WATCH_S):
                    self._hear(self._peer.recv())
            except (EOFError, OSError):
                break
            self._judge(pid)
            self._reporter.tick(self._current)
        self._peer.close()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _hear(self, message: child.Begun | child.Ended | child.Broken) -> None:
        if isinstance(message, child.Begun):
            self._current, self._begun, self._rss_mb = message.quantum, time.monotonic(), 0.0
        elif isinstance(message, child.Broken):
            self._broken = message.error
        else:
            self._record(message.outcome, message.members)

    def _record(self, outcome: Outcome, members: dict[str, bytes]) -> None:
        self._work.done[outcome.quantum] = outcome
        self._current = None
        self._reporter.add(outcome, members)

    def _judge(self, pid: int) -> None:
        """Stop a child that is over a limit, or told to."""
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
            self._record(victim, {})
        self._todo = [] if exit_code == 0 else [q for q in self._todo if q not in self._work.done]


def rss_mb(pid: int) -> float:
    """Resident memory of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    except OSError:
        return 0.0

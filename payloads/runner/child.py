"""The forked process that runs quanta in sequence and hands each outcome to its parent at once.

Database engines, threads and S3 clients are made here and only here: none survives a fork.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from lsst.daf.butler import Config
from lsst.pipe.base import TaskFactory
from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor

from backbone.butler import attempt_config
from payloads.runner.chunk import ChunkButler
from payloads.runner.failures import classify, describe
from workflow.job import JobMessage, Outcome, from_json, to_json

_PR_SET_PDEATHSIG = 1
_SLACK = 2
"""Of address space over memory: libraries reserve what they never touch. What really uses more, the parent stops."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A quantum begins: if the child dies now, this is the victim."""

    quantum: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A quantum has ended; `members` go into the segment's zip."""

    outcome: Outcome
    members: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The child could not begin at all."""

    error: str


@dataclass(kw_only=True)
class Work:
    """What a child inherits from its parent by the fork."""

    job: JobMessage
    graph: Any
    quanta: dict[str, Any]
    labels: dict[str, str]
    parents: dict[str, list[str]]
    config: Config
    root: str
    """The endpoint's root."""
    done: dict[str, Outcome] = field(default_factory=dict)


def run(work: Work, todo: list[str], pipe: Connection) -> None:
    """Run `todo` in order; never returns normally to the parent's code (the caller exits)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    limit = _SLACK * work.job.memory_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        runner = _Runner(work)
    except Exception as error:
        pipe.send(Broken(error=describe(error)))
        os._exit(1)
    for quantum in todo:
        if runner.blocked(quantum):
            continue
        pipe.send(Begun(quantum=quantum))
        pipe.send(runner.run(quantum))
    pipe.close()


class _Runner:
    def __init__(self, work: Work) -> None:
        self._work = work
        shipped = from_json(work.job.records)
        self._maker: dict[str, str] = {}
        self._absent = set(work.job.absent)
        self._failed = {q for q, outcome in work.done.items() if outcome.state == "failed"}
        for name, outcome in work.done.items():
            if outcome.state == "succeeded":
                shipped.update(from_json(outcome.records))
                self._made(name, outcome)
        self._butler = ChunkButler(
            attempt_config(work.config, work.root, work.job.attempt),
            work.quanta.values(),
            universe=work.graph.pipeline_graph.universe,
            dataset_types={n.name: n.dataset_type for n in work.graph.pipeline_graph.dataset_types.values()},
            shipped=shipped,
        )
        self._executor = SingleQuantumExecutor(
            limited_butler_factory=lambda _: self._butler, task_factory=TaskFactory(), assume_no_existing_outputs=True
        )

    def _made(self, quantum: str, outcome: Outcome) -> None:
        if outcome.records:
            self._maker.update((str(dataset), quantum) for dataset in from_json(outcome.records).records)
        self._absent.update(outcome.unwritten)

    def blocked(self, quantum: str) -> bool:
        """Whether a parent in this job failed, or was itself blocked: then the quantum is left to a later job."""
        blocked = any(parent in self._failed for parent in self._work.parents[quantum])
        if blocked:
            self._failed.add(quantum)
        return blocked

    def run(self, name: str) -> Ended:
        """Execute one quantum and measure it."""
        quantum = self._work.quanta[name]
        inputs = [ref for refs in quantum.inputs.values() for ref in refs]
        reads = tuple(sorted({self._maker[str(ref.id)] for ref in inputs if str(ref.id) in self._maker}))
        _reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        verdict = self._execute(name, quantum, inputs)
        data, members = self._butler.take()
        written = {str(dataset) for dataset in data.records}
        unwritten: tuple[str, ...] = ()
        if verdict["state"] == "succeeded":
            outputs = (str(ref.id) for refs in quantum.outputs.values() for ref in refs)
            unwritten = tuple(sorted(set(outputs) - written))
        else:
            self._failed.add(name)
            self._butler.forget(data.records)
        outcome = Outcome(
            quantum=name,
            reads=reads,
            unwritten=unwritten,
            wall_s=round(time.perf_counter() - wall, 5),
            cpu_s=round(time.process_time() - cpu, 5),
            peak_mb=round(_peak_mb(), 1),
            records=to_json(data) if data.records else {},
            **verdict,
        )
        if outcome.state == "succeeded":
            self._made(name, outcome)
        return Ended(outcome=outcome, members=members)

    def _execute(self, name: str, quantum: Any, inputs: list[Any]) -> dict[str, Any]:
        # pipe_base takes an absent required input for NoWorkFound, that is for a success without outputs: look before.
        missing = [ref for ref in inputs if ref.id not in self._butler.known and str(ref.id) not in self._absent]
        if missing:
            words = ", ".join(f"{ref.datasetType.name} {ref.dataId}" for ref in missing[:5])
            return {"state": "failed", "failure_class": "missing_input", "error": f"{len(missing)} inputs are not there: {words}"}
        task = self._work.graph.pipeline_graph.tasks[self._work.labels[name]]
        try:
            result = self._executor.execute(task, quantum)
        except (Exception, SystemExit) as error:  # what it wrote stays under the attempt's prefix, unaccepted, to be swept
            return {"state": "failed", "failure_class": classify(error), "error": describe(error)}
        return {"state": "succeeded", "no_work": bool(result.adjusted_no_work)}


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_mb() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

"""Quanta of a graph: read for the job alone, and executed through one Butler."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx
from lsst.daf.butler import Config
from lsst.pipe.base import TaskFactory
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor

from backbone.butler import attempt_config
from backbone.endpoint import Endpoint
from backbone.garbage import uncollected
from payloads.runner import usage
from payloads.runner.cached import open_cache
from payloads.runner.child import Runner, Work
from payloads.runner.chunk import ChunkButler
from payloads.runner.failures import classify, describe
from payloads.runner.meter import Meter
from workflow.job import JobMessage, Outcome, from_json, to_json


class GraphWork(Work):
    """A job's part of a graph."""

    def __init__(self, job: JobMessage, graph: Any, config: Config, root: str) -> None:
        """`root`: the endpoint's."""
        nodes = graph.quantum_only_xgraph
        wanted = set(job.quanta)
        super().__init__(job, tuple(str(q) for q in nx.topological_sort(nodes) if str(q) in wanted))
        made = graph.build_execution_quanta()
        self.graph, self.config, self.root = graph, config, root
        self.quanta = {q: made[uuid.UUID(q)] for q in self.order}
        self.labels = {q: nodes.nodes[uuid.UUID(q)]["task_label"] for q in self.order}
        self.parents = {q: [str(p) for p in nodes.predecessors(uuid.UUID(q)) if str(p) in wanted] for q in self.order}

    def begin(self) -> Runner:
        """Makes the Butler."""
        return _Runner(self)


def load(job: JobMessage, endpoint: Endpoint) -> GraphWork:
    """Graph and configuration of a job, read from its endpoint; the tasks' classes are imported by that."""
    with uncollected(), tempfile.TemporaryDirectory(prefix="pachon-job-") as folder:
        graph_path, config_path = Path(folder) / "graph.qg", Path(folder) / "butler.yaml"
        endpoint.fetch(job.graph_key, graph_path)
        endpoint.fetch(job.config_key, config_path)
        config = Config(str(config_path))
        graph = PredictedQuantumGraph.read_execution_quanta(str(graph_path), quantum_ids=[uuid.UUID(q) for q in job.quanta])
        return GraphWork(job, graph, config, endpoint.root)


class _Runner:
    def __init__(self, work: GraphWork) -> None:
        usage.install()
        self._work = work
        place = work.job.endpoint
        shipped = from_json(work.job.records)
        self._maker: dict[Any, str] = {}
        self._absent = set(work.job.absent)
        self._failed: set[str] = set()
        for outcome in work.outcomes():
            if outcome.state == "failed":
                self._failed.add(outcome.quantum)
            elif outcome.records:
                records = from_json(outcome.records)
                shipped.update(records)
                self._made(outcome, records.records)
        self._butler = ChunkButler(
            attempt_config(work.config, work.root, work.job.attempt),
            work.quanta.values(),
            universe=work.graph.pipeline_graph.universe,
            dataset_types={n.name: n.dataset_type for n in work.graph.pipeline_graph.dataset_types.values()},
            shipped=shipped,
            cache=open_cache(place.cache, place) if place.cache else None,
        )
        self._executor = SingleQuantumExecutor(
            limited_butler_factory=lambda _: self._butler, task_factory=TaskFactory(), assume_no_existing_outputs=True
        )

    def _made(self, outcome: Outcome, datasets: Mapping[Any, Any]) -> None:
        self._maker.update(dict.fromkeys(datasets, outcome.quantum))
        self._absent.update(outcome.unwritten)

    def blocked(self, quantum: str) -> bool:
        """Whether a parent in this job failed, or was itself blocked: then the quantum is left to a later job."""
        blocked = any(parent in self._failed for parent in self._work.parents[quantum])
        if blocked:
            self._failed.add(quantum)
        return blocked

    def run(self, quantum: str) -> tuple[Outcome, Mapping[str, bytes]]:
        """Execute one quantum and measure it."""
        about = self._work.quanta[quantum]
        inputs = [ref for refs in about.inputs.values() for ref in refs]
        reads = tuple(sorted({self._maker[ref.id] for ref in inputs if ref.id in self._maker}))
        meter = Meter()
        verdict = self._execute(quantum, about, inputs)
        data, members = self._butler.take()
        unwritten: tuple[str, ...] = ()
        if verdict["state"] == "succeeded":
            outputs = {ref.id for refs in about.outputs.values() for ref in refs}
            unwritten = tuple(sorted(str(dataset) for dataset in outputs - set(data.records)))
        else:
            self._failed.add(quantum)
            self._butler.forget(data.records)
        outcome = Outcome(
            quantum=quantum,
            reads=reads,
            unwritten=unwritten,
            records=to_json(data) if data.records else {},
            **meter.read(),
            **verdict,
        )
        if outcome.state == "succeeded":
            self._made(outcome, data.records)
        return outcome, members

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

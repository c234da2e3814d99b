"""The bound: two warm processes that only run quanta, each through one QuantumBackedButler that its quanta share.

As stock pipe_base does it (metadata and log written as files, records in the Butler's own SQLite), without planning, ledger,
acceptance or publication. A process is warm when it has imported everything, read the graph and made its Butler.
"""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

from lsst.daf.butler import Butler, QuantumBackedButler
from lsst.daf.butler.datastore.record_data import DatastoreRecordData
from lsst.pipe.base import TaskFactory
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
from lsst.pipe.base.separable_pipeline_executor import SeparablePipelineExecutor
from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor


class _Shared:
    """A Butler that its user must not close."""

    def __init__(self, butler: QuantumBackedButler) -> None:
        self._butler = butler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._butler, name)

    def close(self) -> None:
        """Nothing: the next quantum needs it."""


def bound(root: Path, pipeline: str, processes: int = 2) -> float:
    """Quanta a second of all quanta of a pipeline over the collection `in`, from the first's beginning to the last's end."""
    graph_path = _planned(root, pipeline)
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(processes + 1), context.Event()
    done = context.SimpleQueue()
    workers = [context.Process(target=_work, args=(root, graph_path, n, processes, ready, go, done)) for n in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.monotonic()
    go.set()
    quanta = sum(done.get() for _ in workers)
    took = time.monotonic() - began
    for worker in workers:
        worker.join()
    return quanta / took


def _planned(root: Path, pipeline: str) -> Path:
    butler = Butler.from_config(str(root), writeable=True)
    butler.collections.register("bound")
    client = Butler.from_config(butler=butler, collections=["bound", "in"], run="bound")
    executor = SeparablePipelineExecutor(client)
    components = executor.make_quantum_graph_builder(executor.make_pipeline(pipeline)).finish(
        output=None, attach_datastore_records=True
    )
    path = root.parent / "bound.qg"
    components.write(str(path))
    graph = components.assemble()
    graph.pipeline_graph.register_dataset_types(client)
    graph.init_output_run(client)
    return path


def _work(root: Path, graph_path: Path, part: int, parts: int, ready: Any, go: Any, done: Any) -> None:
    graph = PredictedQuantumGraph.read_execution_quanta(str(graph_path))
    quanta = graph.build_execution_quanta()
    mine = sorted(quanta)[part::parts]
    records = DatastoreRecordData.merge_mappings(*[quanta[q].datastore_records or {} for q in mine])
    butler = _Shared(
        QuantumBackedButler.from_predicted(
            config=str(root),
            predicted_inputs=[ref.id for q in mine for refs in quanta[q].inputs.values() for ref in refs],
            predicted_outputs=[ref.id for q in mine for refs in quanta[q].outputs.values() for ref in refs],
            dimensions=graph.pipeline_graph.universe,
            datastore_records=records,
            dataset_types={n.name: n.dataset_type for n in graph.pipeline_graph.dataset_types.values()},
        )
    )
    executor = SingleQuantumExecutor(
        limited_butler_factory=lambda _: butler, task_factory=TaskFactory(), assume_no_existing_outputs=True
    )
    nodes = graph.quantum_only_xgraph.nodes
    ready.wait()
    go.wait()
    for quantum in mine:
        executor.execute(graph.pipeline_graph.tasks[nodes[quantum]["task_label"]], quanta[quantum], quantum_id=quantum)
    done.put(len(mine))

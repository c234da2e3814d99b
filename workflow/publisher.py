"""Brings the Butler registry forward from the outbox.

Killed anywhere, the next run does what is left: the registry's transaction is all or nothing, and what it already knows is left
out. The datastore records go in as the job wrote them: they keep size and SHA-256, take members of zips, and touch no file.
"""

from __future__ import annotations

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from lsst.daf.butler.datastore.record_data import DatastoreRecordData
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
from sqlalchemy.exc import OperationalError

from backbone.butler import DATASTORE
from backbone.errors import TransientError
from workflow import stage_out
from workflow.campaign import Work
from workflow.job import merged
from workflow.ledger.tables import accepted, accepted_outcome, group, outbox, outcome, quantum
from workflow.planner import output_refs

_LOG = logging.getLogger(__name__)
_REFS = 60_000  # dataset refs that are kept in memory, some 2 kB each
Hook = Callable[[str], None]


class RefCache:
    """Dataset refs of graphs, by dataset id: the registry needs them, the ledger does not hold them."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[str, dict[Any, Any]] = OrderedDict()
        self._planned: dict[str, Any] = {}

    def of(self, work: Work, graph_key: str) -> dict[Any, Any]:
        """Every output ref of a graph."""
        self.prepare()
        if graph_key not in self._graphs:
            self._keep(graph_key, _read_refs(work, graph_key))
        self._graphs.move_to_end(graph_key)
        return self._graphs[graph_key]

    def planned(self, graph_key: str, graph: Any) -> None:
        """A graph that has just been made, and need not be read."""
        self._planned[graph_key] = graph

    def prepare(self) -> None:
        """Take the refs out of graphs that were just made: once their jobs are on their way, for it takes a while."""
        while self._planned:
            graph_key, graph = self._planned.popitem()
            self._keep(graph_key, output_refs(graph))

    def _keep(self, graph_key: str, refs: dict[Any, Any]) -> None:
        """The least used of many are dropped."""
        self._graphs[graph_key] = refs
        total = sum(map(len, self._graphs.values()))
        while total > _REFS and len(self._graphs) > 1:
            total -= len(self._graphs.popitem(last=False)[1])


def _nothing(_where: str) -> None:
    pass


def _read_refs(work: Work, graph_key: str) -> dict[Any, Any]:
    with tempfile.TemporaryDirectory(prefix="pachon-publish-") as folder:
        path = Path(folder) / "graph.qg"
        work.context.archive.fetch(graph_key, path)
        graph = PredictedQuantumGraph.read_execution_quanta(str(path))
    return output_refs(graph)


def publish(work: Work, refs: RefCache, *, hook: Hook | None = None) -> int:
    """Publish everything that is accepted; returns how many quanta. `hook` is told how far it is (tests die there)."""
    total, hook = 0, hook or _nothing
    stage_out.send_out(work, lambda graph_key: refs.of(work, graph_key))
    while rows := _unpublished(work):
        known: dict[Any, Any] = {}
        for graph_key in {r.graph_key for r in rows}:
            known |= refs.of(work, graph_key)
        try:
            into_registry(work.context.butler, merged(r.records for r in rows), known, hook)
        except OperationalError as error:
            raise TransientError(f"campaign {work.name}: the registry did not answer while publishing: {error.orig}") from error
        hook("committed")
        with work.lock.begin() as connection:
            among = work.context.ledger.among(outbox.c.quantum, [r.quantum for r in rows])
            connection.execute(outbox.update().where(among).values(published=work.context.clock.now()))
        total += len(rows)
    return total


def _unpublished(work: Work) -> list[Any]:
    same = sa.and_(
        group.c.campaign == quantum.c.campaign,
        group.c.step == quantum.c.step,
        group.c.generation == quantum.c.generation,
        group.c.name == quantum.c.group_,
    )
    return work.context.ledger.all(
        sa.select(outbox.c.seq, outbox.c.quantum, outcome.c.records, group.c.graph_key)
        .join(accepted, accepted.c.quantum == outbox.c.quantum)
        .join(outcome, accepted_outcome())
        .join(quantum, quantum.c.id == outbox.c.quantum)
        .join(group, same)
        .where(outbox.c.campaign == work.name, outbox.c.published.is_(None), stage_out.publishable(work.context))
        .order_by(outbox.c.seq)
        .limit(work.context.engine.publish_batch)
    )


def into_registry(butler: Any, data: DatastoreRecordData, refs: dict[Any, Any], hook: Hook) -> None:
    """Datasets and their datastore records in one transaction of the registry; those it knows already are left out."""
    known = butler._datastore.knows_these([refs[dataset] for dataset in data.records])
    new = [ref for ref, is_known in known.items() if not is_known]
    by_kind: dict[Any, list[Any]] = {}
    for ref in new:
        by_kind.setdefault((ref.run, ref.datasetType.dimensions), []).append(ref)
    reads_records = butler.registry.obsCoreTableManager is not None
    with butler.transaction():
        for some in by_kind.values():
            butler.registry._importDatasets(some, expand=reads_records)
        hook("registry written")
        if new:  # import_records alone cannot be repeated: it inserts
            butler._datastore.import_records({DATASTORE: data.subset({ref.id for ref in new})})
        hook("uncommitted")

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
from workflow.campaign import Work
from workflow.job import merged
from workflow.ledger.tables import accepted, accepted_outcome, group, outbox, outcome, quantum

_LOG = logging.getLogger(__name__)
_GRAPHS = 4  # whose dataset refs are kept in memory
Hook = Callable[[str], None]


class RefCache:
    """Expanded dataset refs of graphs, by dataset id: the registry needs them, the ledger does not hold them."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[str, dict[Any, Any]] = OrderedDict()

    def of(self, work: Work, graph_key: str) -> dict[Any, Any]:
        """Every output ref of a graph."""
        if graph_key not in self._graphs:
            self._graphs[graph_key] = _read_refs(work, graph_key)
            while len(self._graphs) > _GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(graph_key)
        return self._graphs[graph_key]


def _nothing(_where: str) -> None:
    pass


def _read_refs(work: Work, graph_key: str) -> dict[Any, Any]:
    with tempfile.TemporaryDirectory(prefix="pachon-publish-") as folder:
        path = Path(folder) / "graph.qg"
        work.context.archive.fetch(graph_key, path)
        graph = PredictedQuantumGraph.read_execution_quanta(str(path))
    quanta = graph.build_execution_quanta().values()
    return {ref.id: ref for quantum in quanta for refs in quantum.outputs.values() for ref in refs}


def publish(work: Work, refs: RefCache, *, hook: Hook | None = None) -> int:
    """Publish everything that is accepted; returns how many quanta. `hook` is told how far it is (tests die there)."""
    total, hook = 0, hook or _nothing
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
        .where(outbox.c.campaign == work.name, outbox.c.published.is_(None))
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
    with butler.transaction():
        for some in by_kind.values():
            butler.registry._importDatasets(some, expand=False)
        hook("registry written")
        if new:  # import_records alone cannot be repeated: it inserts
            butler._datastore.import_records({DATASTORE: data.subset({ref.id for ref in new})})
        hook("uncommitted")

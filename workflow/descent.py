"""What descends from quanta: within a step by the ledger's edges, into later steps by the datasets that their graphs read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.context import Context
from workflow.job import from_json
from workflow.ledger import Ledger
from workflow.ledger.tables import accepted, accepted_outcome, calibration_use, edge, group, outcome, quantum, step

_BATCH = 2000


def batches(ids: Iterable[str]) -> Iterator[list[str]]:
    """In parts of a size that a statement can carry."""
    some = list(ids)
    for n in range(0, len(some), _BATCH):
        yield some[n : n + _BATCH]


def descendants(context: Context, connection: Connection, campaign: str, chosen: set[str]) -> set[str]:
    """Current quanta of the campaign that depend on any of `chosen`, however indirectly, in whatever step; without `chosen`."""
    steps = [
        r.name for r in connection.execute(sa.select(step.c.name).where(step.c.campaign == campaign).order_by(step.c.ordinal))
    ]
    found = set(chosen)
    for number, name in enumerate(steps):
        if number and (made := datasets_of(context.ledger, connection, found)):
            found |= _readers(context, connection, campaign, name, made)
        found |= _below(context.ledger, connection, found)
    return found - chosen


def _below(ledger: Ledger, connection: Connection, ids: set[str]) -> set[str]:
    """By edges, which are within steps."""
    found: set[str] = set()
    for some in batches(ids):
        tree = sa.select(edge.c.child).where(ledger.among(edge.c.parent, some)).cte("tree", recursive=True)
        tree = tree.union(sa.select(edge.c.child).join(tree, edge.c.parent == tree.c.child))
        rows = connection.execute(sa.select(quantum.c.id).where(quantum.c.id.in_(sa.select(tree.c.child)), quantum.c.current))
        found |= {r.id for r in rows}
    return found


def datasets_of(ledger: Ledger, connection: Connection, ids: Iterable[str]) -> set[Any]:
    """Dataset ids (UUID) that accepted attempts of these quanta wrote."""
    found: set[Any] = set()
    for some in batches(ids):
        rows = connection.execute(
            sa.select(outcome.c.records)
            .join(accepted, accepted_outcome())
            .where(ledger.among(accepted.c.quantum, some), outcome.c.records.is_not(None))
        )
        for row in rows:
            found.update(from_json(row.records).records)
    return found


def _readers(context: Context, connection: Connection, campaign: str, step_name: str, made: set[Any]) -> set[str]:
    """Current quanta of a step whose graphs read any of the datasets: graph after graph, never all at once."""
    where = (group.c.campaign == campaign, group.c.step == step_name)
    keys = [r.graph_key for r in connection.execute(sa.select(group.c.graph_key).where(*where))]
    found: set[str] = set()
    for key in keys:
        found |= {str(q) for q in _reading(context, key, made)}
    return {q for some in batches(found) for q in _current(context.ledger, connection, some)}


def _current(ledger: Ledger, connection: Connection, ids: Sequence[str]) -> list[str]:
    return [r.id for r in connection.execute(sa.select(quantum.c.id).where(ledger.among(quantum.c.id, ids), quantum.c.current))]


def _reading(context: Context, key: str, made: set[Any]) -> Iterator[Any]:
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

    with tempfile.TemporaryDirectory(prefix="pachon-descent-") as folder:
        path = Path(folder) / "graph.qg"
        context.archive.fetch(key, path)
        graph = PredictedQuantumGraph.read_execution_quanta(str(path))
    nodes = graph.bipartite_xgraph
    for dataset in made:
        if dataset in nodes:
            yield from nodes.successors(dataset)


def users_elsewhere(ledger: Ledger, connection: Connection, campaign: str, made: set[Any]) -> dict[str, int]:
    """Quanta of other campaigns that were given any of the datasets as a calibration, by campaign: a person must decide there."""
    found: dict[str, int] = {}
    for some in batches(str(d) for d in made):
        rows = connection.execute(
            sa.select(quantum.c.campaign, sa.func.count(sa.distinct(quantum.c.id)).label("n"))
            .join(calibration_use, calibration_use.c.quantum == quantum.c.id)
            .where(ledger.among(calibration_use.c.dataset, some), quantum.c.campaign != campaign, quantum.c.current)
            .group_by(quantum.c.campaign)
        )
        for row in rows:
            found[row.campaign] = found.get(row.campaign, 0) + row.n
    return found

"""Acceptance: the one transaction that makes a quantum done, and the rules by which an outcome may do that.

A quantum that read what its own job wrote is accepted only where that parent is accepted from the same job: else two attempts
could be woven into one result whose inputs nobody kept. Any repeat is a no-op, and the database allows one accepted attempt per
quantum.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.job import Outcome
from workflow.ledger import Ledger
from workflow.ledger.tables import accepted, edge, outbox, quantum
from workflow.states import QUANTUM_TABLE, QuantumState, sources


def accept(
    ledger: Ledger, connection: Connection, *, campaign: str, job: str, outcomes: Sequence[Outcome], now: float = 0.0
) -> dict[str, Any]:
    """Accept what may be accepted of one job's outcomes, given in the order of their execution.

    Returns the quanta: id → row of `label` and `memory_mb`. What wrote nothing has nothing to be published, and is so at once.
    """
    if not outcomes:
        return {}
    before, after = sources(QUANTUM_TABLE, "accept")
    open_now = {
        r.id: r
        for r in connection.execute(
            sa.select(quantum.c.id, quantum.c.label, quantum.c.memory_mb)
            .where(
                ledger.among(quantum.c.id, [o.quantum for o in outcomes if o.state == "succeeded"]),
                quantum.c.current,
                quantum.c.state.in_(before),
            )
            .with_for_update()
        )
    }
    done = _accepted(ledger, connection, {read for o in outcomes for read in o.reads})
    new: dict[str, Any] = {}
    empty: set[str] = set()
    for outcome in outcomes:
        # Open and accepted exclude each other: one transaction changes both.
        may = outcome.state == "succeeded" and outcome.quantum in open_now and outcome.quantum not in new
        if may and all(done.get(read) == job for read in outcome.reads):
            done[outcome.quantum] = job
            new[outcome.quantum] = open_now[outcome.quantum]
            if not outcome.records:
                empty.add(outcome.quantum)
    if new:
        rows = [{"campaign": campaign, "quantum": q, "job": job, "published": now if q in empty else None} for q in new]
        ledger.insert_many(connection, accepted, [{"quantum": q, "job": job} for q in new])
        ledger.insert_many(connection, outbox, rows)
        connection.execute(quantum.update().where(ledger.among(quantum.c.id, new)).values(state=after, job=None))
        ready_children(connection, sa.select(accepted.c.quantum).where(ledger.among(accepted.c.quantum, new)))
    return new


def _accepted(ledger: Ledger, connection: Connection, ids: Set[str]) -> dict[str, str]:
    """The accepted job of each quantum that has one."""
    if not ids:
        return {}
    query = sa.select(accepted.c.quantum, accepted.c.job).where(ledger.among(accepted.c.quantum, ids))
    return {r.quantum: r.job for r in connection.execute(query)}


def ready_children(connection: Connection, new: sa.Select[Any]) -> None:
    """Children of newly accepted quanta, given as a query of their ids, wait no more where they waited for nothing else."""
    before, after = sources(QUANTUM_TABLE, "ready")
    parent = quantum.alias("parent")
    children = sa.select(edge.c.child).where(edge.c.parent.in_(new))
    open_parent = (
        sa.select(edge.c.parent)
        .join(parent, parent.c.id == edge.c.parent)
        .where(edge.c.child == quantum.c.id, parent.c.state != QuantumState.SUCCEEDED)
        .correlate(quantum)
    )
    connection.execute(
        quantum.update().where(quantum.c.id.in_(children), quantum.c.state.in_(before), ~open_parent.exists()).values(state=after)
    )

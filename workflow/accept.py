"""Acceptance: the one transaction that makes a quantum done, and the rules by which an outcome may do that.

A quantum that read what its own job wrote is accepted only where that parent is accepted from the same job: else two attempts
could be woven into one result whose inputs nobody kept. Any repeat is a no-op, and the database allows one accepted attempt per
quantum.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.job import Outcome
from workflow.ledger import Ledger
from workflow.ledger.tables import accepted, edge, outbox, quantum
from workflow.states import QUANTUM_TABLE, QuantumState, sources


def accept(ledger: Ledger, connection: Connection, *, campaign: str, job: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Accept what may be accepted of one job's outcomes, given in the order of their execution; returns the quanta."""
    before, after = sources(QUANTUM_TABLE, "accept")
    ids = {o.quantum for o in outcomes} | {read for o in outcomes for read in o.reads}
    done = {
        r.quantum: r.job
        for r in connection.execute(sa.select(accepted.c.quantum, accepted.c.job).where(ledger.among(accepted.c.quantum, ids)))
    }
    open_now = {
        r.id
        for r in connection.execute(
            sa.select(quantum.c.id)
            .where(ledger.among(quantum.c.id, ids), quantum.c.current, quantum.c.state.in_(before))
            .with_for_update()
        )
    }
    new: list[str] = []
    for outcome in outcomes:
        may = outcome.state == "succeeded" and outcome.quantum in open_now and outcome.quantum not in done
        if may and all(done.get(read) == job for read in outcome.reads):
            done[outcome.quantum] = job
            new.append(outcome.quantum)
    if new:
        ledger.insert_many(connection, accepted, [{"quantum": q, "job": job} for q in new])
        ledger.insert_many(connection, outbox, [{"campaign": campaign, "quantum": q, "job": job} for q in new])
        connection.execute(quantum.update().where(ledger.among(quantum.c.id, new)).values(state=after, job=None))
        _ready(ledger, connection, new)
    return new


def _ready(ledger: Ledger, connection: Connection, new: Sequence[str]) -> None:
    """Children of newly accepted quanta wait no more, where they waited for nothing else."""
    before, after = sources(QUANTUM_TABLE, "ready")
    parent = quantum.alias("parent")
    children = sa.select(edge.c.child).where(ledger.among(edge.c.parent, new))
    open_parent = (
        sa.select(edge.c.parent)
        .join(parent, parent.c.id == edge.c.parent)
        .where(edge.c.child == quantum.c.id, parent.c.state != QuantumState.SUCCEEDED)
        .correlate(quantum)
    )
    connection.execute(
        quantum.update().where(quantum.c.id.in_(children), quantum.c.state.in_(before), ~open_parent.exists()).values(state=after)
    )

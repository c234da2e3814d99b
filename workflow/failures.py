"""What becomes of a quantum whose attempt failed: another try within a budget, or its end and that of its descendants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.campaign import Work
from workflow.job import Outcome
from workflow.ledger.tables import edge, outcome, quantum
from workflow.states import QUANTUM_IN_JOB, QUANTUM_TABLE, FailureClass, sources


def judge(work: Work, connection: Connection, job: Any, failed: Sequence[Outcome]) -> None:
    """Give back or end the quanta of failed outcomes, which the ledger has already. What another job has by now stays its."""
    ledger = work.context.ledger
    ids = [o.quantum for o in failed]
    mine = {
        r.id
        for r in connection.execute(
            sa.select(quantum.c.id).where(
                ledger.among(quantum.c.id, ids), quantum.c.job == job.id, quantum.c.state.in_(QUANTUM_IN_JOB)
            )
        )
    }
    counted = {
        (r.quantum, r.failure_class): r.n
        for r in connection.execute(
            sa.select(outcome.c.quantum, outcome.c.failure_class, sa.func.count().label("n"))
            .where(ledger.among(outcome.c.quantum, mine), outcome.c.state == "failed", ~outcome.c.forgiven)
            .group_by(outcome.c.quantum, outcome.c.failure_class)
        )
    }
    again: list[str] = []
    grown: list[str] = []
    ended: list[str] = []
    engine = work.context.engine
    for one in failed:
        if one.quantum not in mine:
            continue
        failure = FailureClass(one.failure_class or FailureClass.INFRASTRUCTURE)
        out_of_memory = failure is FailureClass.OUT_OF_MEMORY
        exhausted = counted[one.quantum, failure.value] > work.production.retries.budget(failure)
        if exhausted or (out_of_memory and job.memory_mb >= engine.memory_max_mb):
            ended.append(one.quantum)
        else:
            (grown if out_of_memory else again).append(one.quantum)
    give_back(work, connection, again)
    give_back(work, connection, grown, memory_mb=min(engine.memory_max_mb, math.ceil(job.memory_mb * engine.memory_growth)))
    move(work, connection, "exhaust", ended)
    prune(work, connection, ended)


def move(work: Work, connection: Connection, event: str, ids: Sequence[str], **values: Any) -> None:
    """Move quanta by the table, in one statement; those in another state by now are left alone."""
    if ids:
        before, after = sources(QUANTUM_TABLE, event)
        where = (work.context.ledger.among(quantum.c.id, ids), quantum.c.state.in_(before))
        connection.execute(quantum.update().where(*where).values(state=after, job=None, **values))


def give_back(work: Work, connection: Connection, ids: Sequence[str], **values: Any) -> None:
    """Let quanta be dispatched again."""
    move(work, connection, "give_back", ids, **values)


def prune(work: Work, connection: Connection, ended: Sequence[str]) -> None:
    """Give up all descendants of quanta that failed for good."""
    if not ended:
        return
    among = work.context.ledger.among
    below = sa.select(edge.c.child).where(among(edge.c.parent, ended)).cte("below", recursive=True)
    below = below.union(sa.select(edge.c.child).join(below, edge.c.parent == below.c.child))
    before, after = sources(QUANTUM_TABLE, "prune")
    connection.execute(
        quantum.update()
        .where(quantum.c.id.in_(sa.select(below.c.child)), quantum.c.state.in_(before))
        .values(state=after, job=None)
    )

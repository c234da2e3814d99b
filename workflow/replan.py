"""Plans again what a hot fix has made invalid, as a new generation of its step in a RUN of its own.

What stays valid is left where it is: the graph builder skips quanta whose outputs are in the older RUNs, and reads those. Hence
the order: first nothing of the step is in a job and all that is accepted is published, then the outputs of what is no longer
current leave the registry, then groups are planned. Killed anywhere, the next round does the rest. A generation never has a
quantum that the step did not have before.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.campaign import Work
from workflow.descent import batches, datasets_of
from workflow.errors import PlanError
from workflow.ledger.counts import tallied
from workflow.ledger.tables import backlog, outbox, quantum, step, tally
from workflow.planner import PlannedGroup
from workflow.rescue import UNPLANNED
from workflow.states import QUANTUM_IN_JOB, QUANTUM_TABLE, QuantumState, sources

Key = tuple[str, str]
"""Task label and data ID."""


def waits(work: Work, row: Any) -> str:
    """What a step must wait for before it is planned again; empty if for nothing."""
    in_jobs = _count(work, row, QUANTUM_IN_JOB)
    if in_jobs:
        return f"hot fix: {in_jobs} quanta that it does not concern are still in jobs"
    where = (outbox.c.campaign == work.name, outbox.c.published.is_(None))
    if work.context.ledger.all(sa.select(outbox.c.seq).where(*where).limit(1)):
        return "hot fix: what is accepted is being published"
    return ""


def _count(work: Work, row: Any, states: frozenset[QuantumState] | None = None) -> int:
    query = tallied(tally.c.state).where(tally.c.campaign == work.name, tally.c.step == row.name)
    return sum(int(r.n) for r in work.context.ledger.all(query) if states is None or r.state in states)


def begin(work: Work, row: Any) -> None:
    """Withdraw what is no longer current, and take what has not run out of its old generation."""
    _withdraw(work)
    mine = (quantum.c.campaign == work.name, quantum.c.step == row.name)
    waiting = (QuantumState.UNREADY, QuantumState.READY, QuantumState.HELD)
    _, deleted = sources(QUANTUM_TABLE, "cancel")
    older = (*mine, quantum.c.current, quantum.c.generation < row.generation, quantum.c.state.in_(waiting))
    stale = sa.select(quantum.c.id).where(*mine, ~quantum.c.current)
    with work.lock.begin() as connection:
        connection.execute(quantum.update().where(*older).values(current=False, state=deleted))
        connection.execute(backlog.delete().where(backlog.c.campaign == work.name, backlog.c.quantum.in_(stale)))


def _withdraw(work: Work) -> None:
    """Out of the registry, from every collection; records and files of the attempts stay, in the ledger and at their keys."""
    from lsst.daf.butler.registry.interfaces import FakeDatasetRef

    ledger, butler = work.context.ledger, work.context.butler
    with ledger.read() as connection:
        gone = [
            r.id
            for r in connection.execute(
                sa.select(quantum.c.id).where(
                    quantum.c.campaign == work.name, ~quantum.c.current, quantum.c.state == QuantumState.SUCCEEDED
                )
            )
        ]
    for some in batches(gone):
        with ledger.read() as connection:
            ids = datasets_of(ledger, connection, some)
        if ids:
            work.lock.renew()
            with butler.transaction():
                butler._datastore.forget([FakeDatasetRef(i) for i in ids])
                butler._registry._managers.datasets.delete(list(ids))


def wanted(work: Work, row: Any) -> dict[str, dict[Key, Any]] | None:
    """What must be planned again, by group: keys that have no current quantum. None where all of the step must be planned."""
    if row.coverage is None:
        return None
    here = quantum.alias("here")
    same = [here.c[name] == quantum.c[name] for name in ("campaign", "step", "label", "data_id")]
    rows = work.context.ledger.all(
        sa.select(quantum.c.label, quantum.c.data_id, quantum.c.group_, quantum.c.ordinal, quantum.c.generation)
        .where(
            quantum.c.campaign == work.name,
            quantum.c.step == row.name,
            ~quantum.c.current,
            ~sa.exists().where(*same, here.c.current),
        )
        .order_by(quantum.c.generation)
    )
    by_group: dict[str, dict[Key, Any]] = {}
    of: dict[Key, Any] = {(r.label, r.data_id): r for r in rows}  # of several generations the newest
    for key, one in of.items():
        by_group.setdefault(one.group_, {})[key] = one
    return by_group


def narrowed(planned: PlannedGroup, keys: Mapping[Key, Any]) -> PlannedGroup | None:
    """The planned group with only those of its quanta that are wanted and whose parents are; None if that leaves nothing."""
    parents: dict[str, list[str]] = {}
    for one in planned.edges:
        parents.setdefault(one["child"], []).append(one["parent"])
    kept: set[str] = set()
    for row in planned.quanta:  # parents before children
        if (row["label"], row["data_id"]) in keys and all(parent in kept for parent in parents.get(row["id"], ())):
            kept.add(row["id"])
    if not kept:
        return None
    return replace(
        planned,
        row={**planned.row, "quanta": len(kept)},
        quanta=[row for row in planned.quanta if row["id"] in kept],
        edges=[one for one in planned.edges if one["child"] in kept],
        calibrations=[one for one in planned.calibrations if one["quantum"] in kept],
    )


def settle(work: Work, connection: Connection, row: Any) -> None:
    """What could not be planned again becomes FAILED, so that it is counted; then the coverage must be what it was.

    In the transaction that makes the step RUNNING. PlanError if the step would have more quanta, or fewer, than when it was first
    planned.
    """
    left = wanted(work, row) if row.coverage is not None else None
    rows = [
        {
            "id": str(uuid.uuid4()),
            "campaign": work.name,
            "step": row.name,
            "label": label,
            "data_id": data_id,
            "generation": row.generation,
            "current": True,
            "group_": group,
            "ordinal": UNPLANNED,
            "state": QuantumState.FAILED.value,
        }
        for group, keys in (left or {}).items()
        for label, data_id in keys
    ]
    work.context.ledger.insert_many(connection, quantum, rows)
    here = (tally.c.campaign == work.name, tally.c.step == row.name)
    total = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(tally.c.n), 0)).where(*here)).scalar_one()
    if row.coverage is None:
        where = (step.c.campaign == work.name, step.c.name == row.name)
        connection.execute(step.update().where(*where).values(coverage=int(total)))
    elif int(total) != row.coverage:
        raise PlanError(
            f"campaign {work.name}, step {row.name}: generation {row.generation} would make it {total} quanta, it has "
            f"{row.coverage}: nothing may change a step's coverage. Report this, with the ledger's row of the hot fix"
        )

"""Sends quanta to pools as jobs. The ledger knows of a job before any pool does, and submission is idempotent by the job's id."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow import stats
from workflow.campaign import Work
from workflow.chunking import Chunk, Waiting, chunks, target
from workflow.errors import PoolUnavailable
from workflow.job import JobMessage, merged, to_json
from workflow.ledger.tables import accepted, accepted_outcome, attempt, edge, group, job, outcome, quantum
from workflow.lock import LockLost
from workflow.pools.pool import Resources
from workflow.states import JOB_TABLE, QUANTUM_TABLE, JobState, QuantumState, follow, sources
from workflow.stats import LabelStats

_LOG = logging.getLogger(__name__)
_HEADROOM = 1.3  # of memory over the largest peak seen


def dispatch(work: Work, step_row: Any) -> None:
    """Fill free slots with jobs of a step's quanta."""
    slots = {site: n for site, pool in work.context.pools.items() if (n := pool.capacity() - _prepared(work, site)) > 0}
    free = sum(slots.values())
    if not free:
        return
    with work.context.ledger.read() as connection:
        learned = stats.read(connection, work.production.production)
    for group_row in _groups_with_work(work, step_row):
        waiting, parents = _waiting(work, group_row, learned)
        chunk = work.step(step_row.name).chunk
        total_s = sum(w.expected_s for w in waiting)
        size_s = target(chunk.target_s, work.context.engine.shortest_job_s, total_s, free)
        for one in chunks(waiting, parents, target_s=size_s, max_quanta=chunk.max_quanta)[:free]:
            site = max(slots, key=lambda name: slots[name])
            _prepare(work, group_row, one, site)
            slots[site] -= 1
            free -= 1
        if not free:
            break


def _prepared(work: Work, site: str) -> int:
    """Jobs that the pool does not know yet."""
    where = (job.c.site == site, job.c.state == JobState.PREPARED)
    return int(work.context.ledger.all(sa.select(sa.func.count()).select_from(job).where(*where))[0][0])


def _groups_with_work(work: Work, step_row: Any) -> list[Any]:
    open_quanta = sa.exists().where(
        quantum.c.campaign == group.c.campaign,
        quantum.c.step == group.c.step,
        quantum.c.group_ == group.c.name,
        quantum.c.generation == group.c.generation,
        quantum.c.current,
        quantum.c.state.in_((QuantumState.UNREADY, QuantumState.READY)),
    )
    where = (group.c.campaign == work.name, group.c.step == step_row.name, open_quanta)
    return work.context.ledger.all(sa.select(group).where(*where).order_by(group.c.planned, group.c.name))


def _waiting(work: Work, group_row: Any, learned: dict[str, LabelStats]) -> tuple[list[Waiting], dict[str, list[str]]]:
    mine = (
        quantum.c.campaign == work.name,
        quantum.c.step == group_row.step,
        quantum.c.group_ == group_row.name,
        quantum.c.generation == group_row.generation,
        quantum.c.current,
        quantum.c.state.in_((QuantumState.UNREADY, QuantumState.READY)),
    )
    parent = quantum.alias("parent")
    ledger = work.context.ledger
    rows = ledger.all(sa.select(quantum.c.id, quantum.c.label, quantum.c.memory_mb).where(*mine).order_by(quantum.c.ordinal))
    open_edges = ledger.all(
        sa.select(edge.c.child, edge.c.parent)
        .join(quantum, quantum.c.id == edge.c.child)
        .join(parent, parent.c.id == edge.c.parent)
        .where(*mine, parent.c.state != QuantumState.SUCCEEDED)
    )
    parents: dict[str, list[str]] = {}
    for one in open_edges:
        parents.setdefault(one.child, []).append(one.parent)
    engine, default_mb = work.context.engine, work.step(group_row.step).memory_mb
    waiting = []
    for row in rows:
        known = learned.get(row.label, LabelStats())
        least = max(default_mb or engine.memory_mb, int(known.peak_mb * _HEADROOM), known.memory_mb or 0)
        waiting.append(
            Waiting(
                id=row.id,
                expected_s=known.wall_s if known.samples else engine.first_quantum_s,
                memory_mb=min(engine.memory_max_mb, max(least, row.memory_mb or 0)),
            )
        )
    return waiting, parents


def _prepare(work: Work, group_row: Any, chunk: Chunk, site: str) -> None:
    """A job into the ledger: from here on it will be submitted, by this engine or the next."""
    now, name = work.context.clock.now(), str(uuid.uuid4())
    limit_s = work.step(group_row.step).time_limit_s or work.context.engine.time_limit_s
    before, after = sources(QUANTUM_TABLE, "dispatch")
    ledger = work.context.ledger
    with work.lock.begin() as connection:
        taken = connection.execute(
            quantum.update()
            .where(ledger.among(quantum.c.id, chunk.quanta), quantum.c.state.in_(before), quantum.c.current)
            .values(state=after, job=name)
        ).rowcount
        if taken != len(chunk.quanta):
            raise LockLost(
                f"campaign {work.name}: {len(chunk.quanta) - taken} quanta of a new job changed meanwhile; looking again"
            )
        row = {
            "id": name,
            "campaign": work.name,
            "step": group_row.step,
            "generation": group_row.generation,
            "group_": group_row.name,
            "site": site,
            "owner": work.owner,
            "state": JobState.PREPARED.value,
            "memory_mb": chunk.memory_mb,
            "time_limit_s": limit_s,
            "quanta": len(chunk.quanta),
            "created": now,
            "lease_expires": now + work.context.engine.lease_s,
        }
        connection.execute(job.insert(), [row])
        attempts = [{"quantum": q, "job": name, "ordinal": n} for n, q in enumerate(chunk.quanta)]
        ledger.insert_many(connection, attempt, attempts)


def submit_prepared(work: Work) -> None:
    """Submit, or adopt, every job that is in the ledger and perhaps not yet in its pool."""
    where = (job.c.campaign == work.name, job.c.state == JobState.PREPARED)
    for row in work.context.ledger.all(sa.select(job).where(*where).order_by(job.c.created)):
        path = _message_path(work, row.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(message(work, row).model_dump_json())
        try:
            pool_job = work.context.pools[row.site].submit(row.id, path, Resources(memory_mb=row.memory_mb))
        except PoolUnavailable as error:
            _LOG.warning("campaign %s: job %s is not submitted yet: %s", work.name, row.id, error)
            continue
        finally:
            path.unlink(missing_ok=True)
        with work.lock.begin() as connection:
            connection.execute(
                job.update()
                .where(job.c.id == row.id)
                .values(
                    state=follow(JOB_TABLE, JobState.PREPARED, "submit").value,
                    pool_job=pool_job,
                    lease_expires=work.context.clock.now() + work.context.engine.lease_s,
                )
            )
        _LOG.info("campaign %s: job %s with %d quanta of %s went to %s", work.name, row.id, row.quanta, row.step, row.site)


def _message_path(work: Work, name: str) -> Path:
    return work.context.settings.run_dir / "messages" / f"{name}.json"


def message(work: Work, row: Any) -> JobMessage:
    """A job's message, from the ledger alone."""
    with work.context.ledger.read() as connection:
        quanta = [
            r.quantum
            for r in connection.execute(sa.select(attempt.c.quantum).where(attempt.c.job == row.id).order_by(attempt.c.ordinal))
        ]
        groups = connection.execute(
            sa.select(group).where(
                group.c.campaign == row.campaign,
                group.c.step == row.step,
                group.c.generation == row.generation,
                group.c.name == row.group_,
            )
        ).one()
        bodies, unwritten = _accepted_parents(work, connection, quanta)
    engine = work.context.engine
    return JobMessage(
        attempt=row.id,
        graph_key=groups.graph_key,
        config_key=groups.config_key,
        quanta=tuple(quanta),
        records=to_json(merged([groups.init_records, *bodies])),
        absent=tuple(unwritten),
        endpoint=work.context.place(row.site),
        flush_s=engine.flush_s,
        heartbeat_s=engine.heartbeat_s,
        memory_mb=row.memory_mb,
        time_limit_s=row.time_limit_s,
    )


def _accepted_parents(work: Work, connection: Connection, quanta: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Records of what the quanta read of other quanta, as accepted, and what those rightly did not write."""
    among = work.context.ledger.among
    parents = sa.select(edge.c.parent).where(among(edge.c.child, quanta)).distinct()
    rows = connection.execute(
        sa.select(outcome.c.records, outcome.c.unwritten).join(accepted, accepted_outcome()).where(outcome.c.quantum.in_(parents))
    ).all()
    return [r.records for r in rows if r.records], [dataset for r in rows for dataset in r.unwritten]

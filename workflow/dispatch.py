"""Sends quanta to pools as jobs. The ledger knows of a job before any pool does, and submission is idempotent by the job's id."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import PermanentError
from workflow import stats, window
from workflow.campaign import Work
from workflow.chunking import Chunk, chunks, target
from workflow.errors import PoolUnavailable
from workflow.hosts import Avoided
from workflow.job import JobMessage, merged, to_json
from workflow.ledger.tables import accepted, accepted_outcome, attempt, edge, group, job, outcome, quantum
from workflow.lock import LockLost
from workflow.placement import Broker, Words
from workflow.pools.pool import JobRequest, Resources
from workflow.states import JOB_TABLE, QUANTUM_TABLE, JobState, follow, sources

_LOG = logging.getLogger(__name__)
_SUBMITTED_AT_ONCE = 500


def dispatch(work: Work, step_row: Any) -> None:
    """Fill free slots with jobs of a step's quanta."""
    slots = {
        site: n
        for site, pool in work.context.pools.items()
        if (n := pool.capacity(work.production.priority_class) - _prepared(work, site)) > 0
    }
    free = sum(slots.values())
    broker = Broker(work, step_row, slots)
    if not free:
        if broker.looks_ahead:
            broker.look_ahead(window.open_groups(work, step_row))
        return
    with work.context.ledger.read() as connection:
        learned = stats.read(connection, work.production.production)
    for group_row in window.open_groups(work, step_row):
        sites = [name for name in broker.sites_of(group_row) if slots.get(name, 0) > 0]
        room = sum(slots[name] for name in sites)
        if not room and broker.has_asked_enough:
            break  # else every group that waits would be looked at in every round
        if not room:
            continue
        chunk = work.step(step_row.name).chunk
        waiting, parents, more = window.window(work, group_row, learned, window.size(chunk.max_quanta, room))
        total_s = math.inf if more else sum(w.expected_s for w in waiting)
        size_s = target(chunk.target_s, work.context.engine.shortest_job_s, total_s, room)
        for one in chunks(waiting, parents, target_s=size_s, max_quanta=chunk.max_quanta)[:room]:
            site = max(sites, key=lambda name: slots[name])
            _prepare(work, group_row, one, site)
            slots[site] -= 1
            free -= 1
        if not free:
            break
    broker.tell()


def _prepared(work: Work, site: str) -> int:
    """Jobs that the pool does not know yet."""
    where = (job.c.site == site, job.c.state == JobState.PREPARED, job.c.swept.is_(None))
    return int(work.context.ledger.all(sa.select(sa.func.count()).select_from(job).where(*where))[0][0])


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
    """Submit, or adopt, every job that is in the ledger and perhaps not yet in its pool; many in one request to the pool."""
    where = (job.c.campaign == work.name, job.c.state == JobState.PREPARED)
    rows = work.context.ledger.all(sa.select(job).where(*where).order_by(job.c.created))
    avoided, said = Avoided(work), Words(work)
    for site in dict.fromkeys(row.site for row in rows):
        mine = [row for row in rows if row.site == site]
        if site not in work.context.pools:
            _take_back(work, mine)
            continue
        for start in range(0, len(mine), _SUBMITTED_AT_ONCE):
            _submit(work, site, mine[start : start + _SUBMITTED_AT_ONCE], avoided, said)


def _take_back(work: Work, rows: Sequence[Any]) -> None:
    """Jobs of a site that was taken out of the settings before they were sent: `follow_jobs` gives their quanta back."""
    state = follow(JOB_TABLE, JobState.PREPARED, "kill").value
    with work.lock.begin() as connection:
        mine = (work.context.ledger.among(job.c.id, [row.id for row in rows]), job.c.state == JobState.PREPARED)
        connection.execute(job.update().where(*mine).values(state=state, lease_expires=work.context.clock.now()))


def _submit(work: Work, site: str, rows: Sequence[Any], avoided: Avoided, said: Words) -> None:
    requests: list[JobRequest] = []
    try:
        for row in rows:
            requests.append(_request(work, row, avoided, said))  # noqa: PERF401 - those that were made are removed, whatever comes
        taken = work.context.pools[site].submit_many(requests)
    except (PoolUnavailable, PermanentError) as error:  # of these jobs: what else there is to do does not wait for them
        level = logging.ERROR if isinstance(error, PermanentError) else logging.WARNING
        _LOG.log(level, "campaign %s: %d jobs are not submitted to %s yet: %s", work.name, len(rows), site, error)
        return
    finally:
        for request in requests:
            request.message.unlink(missing_ok=True)
    state, lease = follow(JOB_TABLE, JobState.PREPARED, "submit").value, work.context.clock.now() + work.context.engine.lease_s
    with work.lock.begin() as connection:
        unsent = (job.c.id == sa.bindparam("key"), job.c.state == JobState.PREPARED)  # an operator may have given it up meanwhile
        change = job.update().where(*unsent).values(state=state, lease_expires=lease, pool_job=sa.bindparam("taken"))
        connection.execute(change, [{"key": key, "taken": pool_job} for key, pool_job in taken.items()])
    for row in rows:
        _LOG.info("campaign %s: job %s with %d quanta of %s went to %s", work.name, row.id, row.quanta, row.step, row.site)


def _request(work: Work, row: Any, avoided: Avoided, said: Words) -> JobRequest:
    path = _message_path(work, row.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(message(work, row).model_dump_json())
    word = said.of(row.step, row.group_)
    asked = Resources(
        memory_mb=row.memory_mb,
        never_machines=tuple(dict.fromkeys((*avoided.at(row.site), *word.never_machines))),
        only_machines=word.only_machines,
        priority=work.priority,
        group=work.production.priority_class,
    )
    return JobRequest(key=row.id, message=path, resources=asked)


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
        interpreter=work.interpreter_of(row),
    )


def _accepted_parents(work: Work, connection: Connection, quanta: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Records of what the quanta read of other quanta, as accepted, and what those rightly did not write."""
    among = work.context.ledger.among
    parents = sa.select(edge.c.parent).where(among(edge.c.child, quanta)).distinct()
    rows = connection.execute(
        sa.select(outcome.c.records, outcome.c.unwritten).join(accepted, accepted_outcome()).where(outcome.c.quantum.in_(parents))
    ).all()
    return [r.records for r in rows if r.records], [dataset for r in rows for dataset in r.unwritten or ()]

"""Jobs after their dispatch: what their pools say, when their leases run out, how they end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import ObjectAbsent
from workflow.campaign import Work
from workflow.collect import add_outcomes, collect, heartbeat, is_all
from workflow.failures import judge, move
from workflow.job import EXIT_PREEMPTED, Failure, Outcome, Segment, begun_key
from workflow.ledger.tables import CHARGED, job, outcome, quantum
from workflow.pools.pool import POOL_ENDED, PoolJob, PoolState
from workflow.states import JOB_TABLE, QUANTUM_IN_JOB, CampaignState, JobState, follow, sources
from workflow.states import QUANTUM_TABLE as QUANTA

_LOG = logging.getLogger(__name__)
_INSTANTS = 1000  # quanta of a job, of which each then runs for an instant: that it does is not worth a write for each of them


def follow_jobs(work: Work) -> None:
    """One look at every job that has not ended: collect, renew or run out leases, judge the ends."""
    open_states = (JobState.SUBMITTED, JobState.RUNNING, JobState.LOST, JobState.KILLED)
    rows = work.context.ledger.all(
        sa.select(job).where(job.c.campaign == work.name, job.c.state.in_(open_states)).order_by(job.c.created)
    )
    seen = _polled(work, rows)  # before the segments are read: what an ended job wrote is then all there
    for row in rows:
        if row.id not in seen:
            _miss(work, row)
            continue
        segments = collect(work, row)
        pool_job = seen[row.id]
        if pool_job.state in POOL_ENDED:
            if is_all(work, segments):  # else there may be more of them: next round
                _end(work, row, pool_job, segments)
        else:
            _keep(work, row, pool_job, bool(segments))


def _polled(work: Work, rows: Sequence[Any]) -> Mapping[str, PoolJob]:
    by_site: dict[str, list[str]] = {}
    for row in rows:
        by_site.setdefault(row.site, []).append(row.id)
    seen: dict[str, PoolJob] = {}
    for site, keys in by_site.items():
        if site in work.context.pools:
            seen.update(work.context.pools[site].poll(keys))
    return seen


def _miss(work: Work, row: Any) -> None:
    """Of a job whose site was taken out of the settings nothing can be known: when its lease is over its quanta may run
    elsewhere. What it reported counts after all, where it is first, once the site is back.
    """
    if row.lease_expires > work.context.clock.now():
        return
    if row.state in (JobState.SUBMITTED, JobState.RUNNING):
        reason = "its site is no longer in the settings"
        _lose(work, row, PoolJob(key=row.id, state=PoolState.UNKNOWN, reason=reason))
    elif row.state == JobState.KILLED:
        with work.lock.begin() as connection:
            _release(work, connection, row, failure=None)


def _keep(work: Work, row: Any, seen: PoolJob, reported: bool) -> None:
    now, engine = work.context.clock.now(), work.context.engine
    changes: dict[str, Any] = {}
    state = JobState(row.state)
    starts = seen.state is PoolState.RUNNING and state is JobState.SUBMITTED
    if seen.state in (PoolState.UNKNOWN, PoolState.RUNNING) and not starts:
        # A pool may call a job running whose machine is long gone: what counts is that the job itself is heard of.
        if reported or row.lease_expires < now + engine.lease_s / 2:
            beat = heartbeat(work, row)
            if reported or beat != row.heartbeat:
                changes = {"heartbeat": beat, "lease_expires": now + engine.lease_s}
            elif row.lease_expires < now and state in (JobState.SUBMITTED, JobState.RUNNING):
                _lose(work, row, seen)
                return
    elif row.lease_expires < now + engine.lease_s / 2:
        changes = {"lease_expires": now + engine.lease_s}
    if starts:
        changes["state"] = follow(JOB_TABLE, state, "start").value
        changes |= {"started": now, "lease_expires": now + engine.lease_s}
    # A held job with a failure is one that its pool will not let go on by itself.
    hopeless = state in (JobState.LOST, JobState.KILLED) or (seen.state is PoolState.HELD and seen.failure is not None)
    if (hopeless and seen.state is not PoolState.UNKNOWN) or _is_evicted(work, row, seen):
        work.context.pools[row.site].kill(row.id, hard=row.lease_expires < now)
    if changes:
        with work.lock.begin() as connection:
            as_it_was = (job.c.id == row.id, job.c.state == row.state)  # an operator may have given it up meanwhile
            kept = connection.execute(job.update().where(*as_it_was).values(changes)).rowcount
            if kept and starts and row.quanta < _INSTANTS:
                before, after = sources(QUANTA, "start")
                connection.execute(
                    quantum.update().where(quantum.c.job == row.id, quantum.c.state.in_(before)).values(state=after)
                )


def _is_evicted(work: Work, row: Any, seen: PoolJob) -> bool:
    """Whether its process is gone and it waits for a slot only to end there, an attempt having one process: nobody waits for
    that, for it keeps what is left of its quanta.
    """
    if seen.state is not PoolState.PENDING or seen.failure is None:
        return False
    try:
        work.context.endpoint(row.site).info(begun_key(row.id))
    except ObjectAbsent:
        return False
    return True


def _lose(work: Work, row: Any, seen: PoolJob) -> None:
    """The lease is over and nobody knows: its quanta may run elsewhere. Late outcomes count where they are first."""
    _LOG.warning(
        "campaign %s: job %s at %s is given up, it was not heard of for too long; its pool says %s %s",
        work.name,
        row.id,
        row.site,
        seen.state.value,
        seen.reason,
    )
    with work.lock.begin() as connection:
        state = follow(JOB_TABLE, JobState(row.state), "lose")
        connection.execute(job.update().where(job.c.id == row.id).values(state=state.value))
        _release(work, connection, row, failure=("infrastructure", f"job {row.id} at {row.site} was not heard of for too long"))


def _end(work: Work, row: Any, seen: PoolJob, segments: Sequence[Segment]) -> None:
    reason = next((s.reason for s in segments if s.final), "")
    with work.lock.begin() as connection:
        failure: tuple[Failure, str] | None = None
        if not _made_progress(connection, row):
            preempted = seen.exit_code in (EXIT_PREEMPTED, -15)
            words = reason or f"job {row.id} at {row.site} ended ({_how(seen)}) before its first quantum did"
            failure = ("preempted" if preempted else seen.failure or "infrastructure", words)
        _release(work, connection, row, failure=failure)
        state = follow(JOB_TABLE, JobState(row.state), "end")
        connection.execute(
            job.update()
            .where(job.c.id == row.id)
            .values(state=state.value, ended=work.context.clock.now(), exit_code=seen.exit_code)
        )
    _LOG.info("campaign %s: job %s at %s ended (%s) %s", work.name, row.id, row.site, _how(seen), reason)


def _how(seen: PoolJob) -> str:
    return f"exit code {seen.exit_code} {seen.reason}".strip() if seen.state is PoolState.EXITED else f"gone: {seen.reason}"


def _made_progress(connection: Connection, row: Any) -> bool:
    return connection.execute(sa.select(outcome.c.quantum).where(outcome.c.job == row.id).limit(1)).first() is not None


def _release(work: Work, connection: Connection, row: Any, *, failure: tuple[Failure, str] | None) -> None:
    """Quanta that a job had and never reported. With a `failure` each is charged for it: jobs that do nothing, again and again,
    must come to an end; after a job that did something, what it left goes on without charge.
    """
    where = (quantum.c.job == row.id, quantum.c.state.in_(QUANTUM_IN_JOB))
    left = [r.id for r in connection.execute(sa.select(quantum.c.id).where(*where))]
    if not left:
        return
    killed = row.state == JobState.KILLED
    if work.state is CampaignState.CANCELLED:
        move(work, connection, "cancel", left)
    elif killed and work.state is CampaignState.PAUSED:
        move(work, connection, "hold", left)
    elif failure is None or killed:
        move(work, connection, "give_back", left)
    else:
        charged = [Outcome(quantum=q, state="failed", failure_class=failure[0], error=failure[1]) for q in left]
        add_outcomes(work, connection, row, charged, CHARGED)
        judge(work, connection, row, charged)


def kill_jobs(work: Work) -> None:
    """Kill every job of the campaign, once; `follow_jobs` sees to what they leave."""
    alive = (JobState.PREPARED, JobState.SUBMITTED, JobState.RUNNING)
    for row in work.context.ledger.all(sa.select(job).where(job.c.campaign == work.name, job.c.state.in_(alive))):
        if row.site in work.context.pools:
            work.context.pools[row.site].kill(row.id)
        with work.lock.begin() as connection:
            connection.execute(
                job.update()
                .where(job.c.id == row.id)
                .values(state=follow(JOB_TABLE, JobState(row.state), "kill").value, lease_expires=work.context.clock.now() + 60)
            )

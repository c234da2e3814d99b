"""Hosts that fail: noted once for each job, avoided for a while where it happens again and again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import ObjectAbsent, TransientError
from workflow.job import Outcome, heartbeat_key
from workflow.ledger.audit import host_failure
from workflow.ledger.tables import job as jobs
from workflow.rules import Hosts
from workflow.states import FailureClass, JobState

if TYPE_CHECKING:  # it brings the Butler, which readers of reports do without
    from workflow.campaign import Work


def note(connection: Connection, work: Work, job: Any, failed: Sequence[Outcome]) -> None:
    """Remember the host of a job with infrastructure failures. A job given up since its pool is silent says nothing about it."""
    bad = next((o for o in failed if o.failure_class in (None, FailureClass.INFRASTRUCTURE)), None)
    if bad is None:
        return
    now = connection.execute(sa.select(jobs.c.state, jobs.c.host).where(jobs.c.id == job.id)).one()
    if now.state == JobState.LOST:
        return
    host = now.host or _of_heartbeat(work, job)
    if host:
        row = {
            "job": job.id,
            "site": job.site,
            "host": host,
            "campaign": work.name,
            "at": work.context.clock.now(),
            "words": bad.error.partition("\n")[0][:500],
        }
        work.context.ledger.insert_new(connection, host_failure, [row])
        connection.execute(jobs.update().where(jobs.c.id == job.id).values(host=host))


def _of_heartbeat(work: Work, job: Any) -> str:
    """Of a job that died before its first segment; empty where it left no heartbeat either, or that cannot be read now."""
    try:
        return str(json.loads(work.context.endpoint(job.site).get(heartbeat_key(job.id))).get("host", ""))
    except (ObjectAbsent, TransientError, ValueError):
        return ""


class Avoided:
    """Hosts to keep away from in one round, asked for once for each site."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._known: dict[str, tuple[str, ...]] = {}

    def at(self, site: str) -> tuple[str, ...]:
        """Of this site."""
        if site not in self._known:
            with self._work.context.ledger.read() as connection:
                self._known[site] = avoided(connection, site, self._work.production.hosts, self._work.context.clock.now())
        return self._known[site]


def avoided(connection: Connection, site: str, rules: Hosts, now: float) -> tuple[str, ...]:
    """Hosts of a site to keep away from now, the worst first; at most half of those that were seen at work lately."""
    f = host_failure.c
    since = now - max(rules.within_s, rules.avoid_s) - rules.within_s
    times: dict[str, list[float]] = {}
    for row in connection.execute(sa.select(f.host, f.at).where(f.site == site, f.at > since).order_by(f.at)):
        times.setdefault(row.host, []).append(row.at)
    bad = {host: len(some) for host, some in times.items() if now < _until(some, rules)}
    if not bad:
        return ()
    seen = connection.execute(
        sa.select(sa.func.count(sa.distinct(jobs.c.host))).where(jobs.c.site == site, jobs.c.created > since)
    ).scalar_one()
    worst = sorted(bad, key=lambda host: (-bad[host], host))
    return tuple(worst[: int(seen) // 2])


def _until(times: Sequence[float], rules: Hosts) -> float:
    """When a host with failures at these times (sorted) may be used again; the past where it never had too many."""
    ends = [
        last + rules.avoid_s
        for first, last in zip(times, times[rules.failures - 1 :], strict=False)
        if last - first <= rules.within_s
    ]
    return max(ends, default=float("-inf"))

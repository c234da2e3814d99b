"""Moves the work of a campaign that has not started to another site, and changes what goes first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from workflow import words
from workflow.broker import Word
from workflow.context import Context
from workflow.errors import UnknownCampaign
from workflow.ledger import tables
from workflow.ledger.store import record
from workflow.ledger.tables import job
from workflow.pools.pool import PoolState
from workflow.states import JOB_TABLE, JobState, follow

_NOT_STARTED = (JobState.PREPARED, JobState.SUBMITTED)
_KILL_S = 60.0


@dataclass(frozen=True, kw_only=True)
class MoveReport:
    """Jobs that had not started elsewhere, and their quanta: given back, or with `dry_run` to be."""

    campaign: str
    to: str
    jobs: int
    quanta: int
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def move(
    context: Context, name: str, to: str, actor: str, *, step: str = "", group: str = "", why: str = "", dry_run: bool
) -> MoveReport:
    """From now on all that is not started goes to the site `to`; jobs that run elsewhere are left to end there.

    Jobs still waiting in other pools are given back, without charge. Raises as `words.say`.
    """
    site = context.settings.site(to).name
    where = [job.c.campaign == name, job.c.site != site, job.c.state.in_(_NOT_STARTED)]
    where += [job.c.step == step] if step else []
    where += [job.c.group_ == group] if group else []
    if not dry_run:
        words.say(context, name, Word(only=(site,)), actor=actor, step=step, group=group, why=why)
    waiting = _waiting(context, where)
    if not dry_run:
        expires = context.clock.now() + _KILL_S
        with context.ledger.begin() as connection:
            for row in waiting:  # the engine's next round tells the pool, as often as it must, and gives the quanta back
                state = follow(JOB_TABLE, JobState(row.state), "kill").value
                connection.execute(
                    job.update().where(job.c.id == row.id, job.c.state == row.state).values(state=state, lease_expires=expires)
                )
    return MoveReport(campaign=name, to=site, jobs=len(waiting), quanta=sum(r.quanta for r in waiting), dry_run=dry_run)


def _waiting(context: Context, where: list[Any]) -> list[Any]:
    """Jobs of which their pools say that they wait; what a pool does not say is left alone."""
    rows = context.ledger.all(sa.select(job.c.id, job.c.site, job.c.state, job.c.quanta).where(*where))
    found = [row for row in rows if row.state == JobState.PREPARED]
    for site in {row.site for row in rows} & context.pools.keys():
        sent = [row for row in rows if row.site == site and row.state == JobState.SUBMITTED]
        seen = context.pools[site].poll([row.id for row in sent]) if sent else {}
        found += [row for row in sent if seen[row.id].state in (PoolState.PENDING, PoolState.HELD)]
    return found


def prioritise(context: Context, name: str, priority: int, actor: str, *, why: str = "") -> int:
    """Set a campaign's priority, of jobs that wait in pools too; returns the old one. Between kinds of productions the kind
    decides, whatever the priority. UnknownCampaign if there is none.
    """
    table = tables.campaign
    with context.ledger.begin() as connection:
        old = connection.execute(sa.select(table.c.priority).where(table.c.name == name).with_for_update()).scalar_one_or_none()
        if old is None:
            raise UnknownCampaign(f"the ledger has no campaign {name!r}; `pachon campaign list` shows those it has")
        connection.execute(table.update().where(table.c.name == name).values(priority=priority))
        what = f"priority {old} → {priority}"
        record(connection, at=context.clock.now(), actor=actor, campaign=name, what=what, why=why)
    rows = context.ledger.all(sa.select(job.c.id, job.c.site).where(job.c.campaign == name, job.c.state == JobState.SUBMITTED))
    for site in {row.site for row in rows} & context.pools.keys():
        context.pools[site].change_priority([row.id for row in rows if row.site == site], priority)
    return int(old)

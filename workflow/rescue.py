"""What an operator does to quanta: give failed ones another life, let held ones go on."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import PermanentError
from workflow import stats
from workflow.context import Context
from workflow.ledger.counts import tallied
from workflow.ledger.store import record
from workflow.ledger.tables import UNFINISHED, campaign, outcome, quantum, step, tally
from workflow.states import CAMPAIGN_TABLE, QUANTUM_TABLE, STEP_TABLE, CampaignState, QuantumState, StepState, follow, sources
from workflow.status import CampaignStatus, RetryReport

UNPLANNED = -1
"""Ordinal of a quantum that its newest graph does not have: it must be planned again before it can run."""
_DEAD = (QuantumState.FAILED, QuantumState.PRUNED)


class RetryRefused(PermanentError):
    """More would run than the operator was shown."""


def retry(
    context: Context, status: CampaignStatus, actor: str, *, dry_run: bool, at_most: int | None = None, reason: str = ""
) -> RetryReport:
    """Failed quanta get their budgets anew, pruned ones wait for them again; nothing that succeeded is touched.

    A step that could not be planned is planned again. No quantum is ever added: rows change their state, and that is all. What
    would run is shown before by `dry_run`; RetryRefused if by now it is more than `at_most`.
    """
    with context.ledger.begin() as connection:
        # The row first, which every transaction of the engine renews its lock in: it sees all of this, or nothing.
        state = connection.execute(
            sa.select(campaign.c.state).where(campaign.c.name == status.name).with_for_update()
        ).scalar_one()
        event_state = follow(CAMPAIGN_TABLE, CampaignState(state), "retry")
        report = _report(connection, status, dry_run)
        with_quanta = {label.split("/")[0] for label in report.labels}
        if at_most is not None and report.quanta > at_most:
            raise RetryRefused(
                f"campaign {status.name}: {report.quanta} quanta would run, more than the {at_most} agreed to; look at it again"
            )
        if not dry_run and report.steps:
            before = _coverage(connection, status.name)
            _revive(connection, status.name)
            _steps(connection, status, with_quanta, set(report.steps) - with_quanta)
            connection.execute(
                campaign.update().where(campaign.c.name == status.name).values(state=event_state.value, reason="", ended=None)
            )
            if (after := _coverage(connection, status.name)) != before:  # rolls back
                raise RetryRefused(f"campaign {status.name}: a retry would change its quanta from {before} to {after}")
            what = f"retry of {report.quanta} quanta of {', '.join(report.steps)}"
            record(connection, at=context.clock.now(), actor=actor, campaign=status.name, what=what, why=reason)
    return report


def _report(connection: Connection, status: CampaignStatus, dry_run: bool) -> RetryReport:
    mine = (quantum.c.campaign == status.name, UNFINISHED, quantum.c.state.in_([s.value for s in _DEAD]))
    columns = (quantum.c.step, quantum.c.label, quantum.c.state)
    rows = connection.execute(
        sa.select(*columns, sa.func.count().label("n")).where(*mine, quantum.c.ordinal != UNPLANNED).group_by(*columns)
    ).all()
    unplanned = connection.execute(
        sa.select(sa.func.count()).select_from(quantum).where(*mine, quantum.c.ordinal == UNPLANNED)
    ).scalar_one()
    learned = stats.read(connection, status.production)
    labels: dict[str, dict[str, int]] = {}
    for row in rows:
        labels.setdefault(f"{row.step}/{row.label}", {})[row.state] = row.n
    with_quanta = {row.step for row in rows}
    not_whole = {s.name for s in status.steps if s.state is StepState.FAILED and s.name not in with_quanta}
    return RetryReport(
        campaign=status.name,
        failed=sum(r.n for r in rows if r.state == QuantumState.FAILED),
        pruned=sum(r.n for r in rows if r.state == QuantumState.PRUNED),
        steps=tuple(s.name for s in status.steps if s.name in with_quanta | not_whole),
        labels=labels,
        core_hours=sum(r.n * learned[r.label].wall_s for r in rows if r.label in learned) / 3600,
        unplanned=int(unplanned),
        dry_run=dry_run,
    )


def _coverage(connection: Connection, name: str) -> int:
    rows = connection.execute(tallied(tally.c.campaign).where(tally.c.campaign == name)).all()
    return sum(int(r.n) for r in rows)


def _revive(connection: Connection, name: str) -> None:
    mine = (quantum.c.campaign == name, UNFINISHED, quantum.c.ordinal != UNPLANNED)
    dead = sa.select(quantum.c.id).where(*mine, quantum.c.state == QuantumState.FAILED.value)
    connection.execute(outcome.update().where(outcome.c.quantum.in_(dead), outcome.c.state == "failed").values(forgiven=True))
    for before in _DEAD:
        after = follow(QUANTUM_TABLE, before, "retry")
        connection.execute(quantum.update().where(*mine, quantum.c.state == before.value).values(state=after.value, job=None))


def _steps(connection: Connection, status: CampaignStatus, with_quanta: set[str], unplanned: set[str]) -> None:
    rows = connection.execute(sa.select(step.c.name, step.c.state).where(step.c.campaign == status.name)).all()
    for row in rows:
        state = StepState(row.state)
        if row.name in with_quanta and state in (StepState.FAILED, StepState.SUCCEEDED):
            after = follow(STEP_TABLE, state, "retry")
        elif row.name in unplanned:  # also after an action that could not be done: groups that are planned are not planned again
            after = follow(STEP_TABLE, state, "replan")
        else:
            continue
        connection.execute(
            step.update()
            .where(step.c.campaign == status.name, step.c.name == row.name)
            .values(state=after.value, reason="", finished=0)
        )


def unhold(connection: Connection, name: str) -> None:
    """Held quanta of a campaign may be dispatched again."""
    before, after = sources(QUANTUM_TABLE, "resume")
    connection.execute(quantum.update().where(quantum.c.campaign == name, quantum.c.state.in_(before)).values(state=after))

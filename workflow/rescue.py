"""What an operator does to quanta: give failed ones another life, let held ones go on."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.context import Context
from workflow.ledger.store import record
from workflow.ledger.tables import campaign, outcome, quantum, step
from workflow.states import CAMPAIGN_TABLE, QUANTUM_TABLE, STEP_TABLE, QuantumState, StepState, follow, sources
from workflow.status import CampaignStatus, RetryReport


def retry(context: Context, status: CampaignStatus, actor: str, *, dry_run: bool) -> RetryReport:
    """Failed quanta get their budgets anew, pruned ones wait for them again; nothing that succeeded is touched.

    A step that could not be planned is planned again. The number of quanta is bounded by what had failed, and shown before by
    `dry_run`.
    """
    event_state = follow(CAMPAIGN_TABLE, status.state, "retry")
    failed, pruned = QuantumState.FAILED.value, QuantumState.PRUNED.value
    with context.ledger.begin() as connection:
        counts = connection.execute(
            sa.select(quantum.c.step, quantum.c.state, sa.func.count().label("n"))
            .where(quantum.c.campaign == status.name, quantum.c.current, quantum.c.state.in_((failed, pruned)))
            .group_by(quantum.c.step, quantum.c.state)
        ).all()
        with_quanta = {row.step for row in counts}
        unplanned = {s.name for s in status.steps if s.state is StepState.FAILED and s.name not in with_quanta}
        if not dry_run and (with_quanta or unplanned):
            _revive(connection, status.name)
            _steps(connection, status, with_quanta, unplanned)
            connection.execute(
                campaign.update().where(campaign.c.name == status.name).values(state=event_state.value, reason="", ended=None)
            )
            why = f"{sum(r.n for r in counts)} quanta of {', '.join(sorted(with_quanta | unplanned))}"
            record(connection, at=context.clock.now(), actor=actor, campaign=status.name, what="retry", why=why)
    return RetryReport(
        campaign=status.name,
        failed=sum(r.n for r in counts if r.state == failed),
        pruned=sum(r.n for r in counts if r.state == pruned),
        steps=tuple(s.name for s in status.steps if s.name in with_quanta | unplanned),
        dry_run=dry_run,
    )


def _revive(connection: Connection, name: str) -> None:
    dead = sa.select(quantum.c.id).where(
        quantum.c.campaign == name, quantum.c.current, quantum.c.state == QuantumState.FAILED.value
    )
    connection.execute(outcome.update().where(outcome.c.quantum.in_(dead), outcome.c.state == "failed").values(forgiven=True))
    for before in (QuantumState.FAILED, QuantumState.PRUNED):
        after = follow(QUANTUM_TABLE, before, "retry")
        connection.execute(
            quantum.update()
            .where(quantum.c.campaign == name, quantum.c.current, quantum.c.state == before.value)
            .values(state=after.value, job=None)
        )


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

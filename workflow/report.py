"""Reads campaigns out of the ledger: status, report, backlog. Batched: one query for many campaigns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.accounting import INFRASTRUCTURE, accounting
from workflow.context import Context
from workflow.errors import UnknownCampaign
from workflow.ledger.counts import tallied
from workflow.ledger.tables import backlog, campaign, job, outbox, outcome, quantum, step, tally
from workflow.states import CAMPAIGN_TERMINAL, QUANTUM_IN_JOB, CampaignState, QuantumState, StepState
from workflow.status import BacklogEntry, CampaignReport, CampaignStatus, LabelReport, StepStatus


def statuses(context: Context, names: Iterable[str] | None = None) -> dict[str, CampaignStatus]:
    """Status by name, of all campaigns or of those named that exist; a fixed number of queries however many they are."""
    wanted = None if names is None else sorted(set(names))
    with context.ledger.read() as connection:

        def rows(query: sa.Select[Any], column: sa.ColumnElement[str]) -> Sequence[sa.Row[Any]]:
            return connection.execute(query if wanted is None else query.where(column.in_(wanted))).all()

        campaigns = rows(sa.select(campaign).order_by(campaign.c.created, campaign.c.name), campaign.c.name)
        steps = rows(sa.select(step).order_by(step.c.ordinal), step.c.campaign)
        counts = rows(
            tallied(tally.c.campaign, tally.c.step, tally.c.state),
            tally.c.campaign,
        )
        unpublished = rows(
            sa.select(quantum.c.campaign, quantum.c.step, sa.func.count().label("n"))
            .join(outbox, outbox.c.quantum == quantum.c.id)
            .where(outbox.c.published.is_(None), quantum.c.current)
            .group_by(quantum.c.campaign, quantum.c.step),
            quantum.c.campaign,
        )
    by_step: dict[tuple[str, str], dict[str, int]] = {}
    for row in counts:
        by_step.setdefault((row.campaign, row.step), {})[row.state] = row.n
    waiting = {(r.campaign, r.step): r.n for r in unpublished}
    of: dict[str, list[Any]] = {}
    for row in steps:
        of.setdefault(row.campaign, []).append(row)
    return {
        c.name: CampaignStatus(
            name=c.name,
            production=c.production,
            state=CampaignState(c.state),
            owner=c.owner,
            reason=c.reason,
            steps=tuple(
                _step_status(c, row, by_step.get((c.name, row.name), {}), waiting.get((c.name, row.name), 0))
                for row in of.get(c.name, [])
            ),
        )
        for c in campaigns
    }


def _step_status(of: Any, row: Any, counts: dict[str, int], unpublished: int) -> StepStatus:
    state = StepState(row.state)
    paused = of.state == CampaignState.PAUSED and state in (StepState.READY, StepState.RUNNING)
    accepted = counts.get(QuantumState.SUCCEEDED, 0)
    return StepStatus(
        name=row.name,
        state=StepState.PAUSED if paused else state,
        expected=sum(counts.values()),
        accepted=accepted,
        published=accepted - unpublished,
        failed=counts.get(QuantumState.FAILED, 0) + counts.get(QuantumState.PRUNED, 0),
        running=sum(counts.get(s, 0) for s in QUANTUM_IN_JOB),
        reason=row.reason or ("" if row.released or state is not StepState.UNREADY else "not released"),
        released=bool(row.released),
    )


def status(context: Context, name: str) -> CampaignStatus:
    """Of one campaign; UnknownCampaign if there is none."""
    found = statuses(context, [name]).get(name)
    if found is None:
        raise UnknownCampaign(f"the ledger has no campaign {name!r}; `pachon campaign list` shows those it has")
    return found


def report(context: Context, name: str) -> CampaignReport:
    """Label × state with EXPECTED, in the order of the pipeline, failures by class, and the accounting."""
    current = status(context, name)
    with context.ledger.read() as connection:
        counts = connection.execute(tallied(tally.c.step, tally.c.label, tally.c.state).where(tally.c.campaign == name)).all()
        labels = {(r.step, r.label) for r in counts}
        place = {key: _place(connection, name, *key) for key in labels}
        errors = _errors(connection, name)
        row = connection.execute(sa.select(campaign).where(campaign.c.name == name)).one()
        books = accounting(connection, row, context.clock.now())
    order = {s.name: n for n, s in enumerate(current.steps)}
    by_label: dict[tuple[str, str], dict[str, int]] = {
        key: {state.value: 0 for state in QuantumState} for key in sorted(labels, key=lambda k: (order[k[0]], place[k], k[1]))
    }
    for r in counts:
        by_label[r.step, r.label][r.state] = int(r.n)
    rows = tuple(LabelReport(step=s, label=n, states=c, expected=sum(c.values())) for (s, n), c in by_label.items())
    return CampaignReport(campaign=current, labels=rows, errors=errors, accounting=books)


def _place(connection: Connection, name: str, step_name: str, label: str) -> int:
    """Where a label stands in its pipeline: the place of one of its quanta, of the same data ID for all labels that have it."""
    where = (quantum.c.campaign == name, quantum.c.step == step_name, quantum.c.label == label)
    return int(connection.execute(sa.select(quantum.c.ordinal).where(*where).order_by(quantum.c.data_id).limit(1)).scalar_one())


def _errors(connection: Connection, name: str) -> tuple[dict[str, Any], ...]:
    rows = connection.execute(
        sa.select(
            quantum.c.step,
            quantum.c.label,
            outcome.c.failure_class,
            sa.func.count().label("count"),
            sa.func.sum(outcome.c.wall_s).label("wall_s"),
            sa.func.max(outcome.c.error).label("example"),
            sa.func.max(sa.cast(outcome.c.quantum, sa.Text)).label("quantum"),
        )
        .join(job, job.c.id == outcome.c.job)
        .join(quantum, quantum.c.id == outcome.c.quantum)
        .where(job.c.campaign == name, quantum.c.current, outcome.c.state == "failed")
        .group_by(quantum.c.step, quantum.c.label, outcome.c.failure_class)
        .order_by(sa.func.count().desc(), quantum.c.step, quantum.c.label)
    )
    return tuple({**r._mapping, "payload": r.failure_class not in INFRASTRUCTURE} for r in rows)


def backlog_entries(context: Context, name: str | None) -> list[BacklogEntry]:
    """What was due and not done, of one campaign or of all."""
    query = sa.select(backlog).order_by(backlog.c.at, backlog.c.label, backlog.c.visit, backlog.c.detector)
    if name is not None:
        status(context, name)
        query = query.where(backlog.c.campaign == name)
    return [
        BacklogEntry(
            campaign=r.campaign,
            step=r.step,
            label=r.label,
            visit=r.visit,
            detector=r.detector,
            data_id=json.loads(r.data_id),
            reason=r.reason,
        )
        for r in context.ledger.all(query)
    ]


def live(context: Context) -> list[str]:
    """Campaigns that need the engine: those that have not ended, and those whose jobs have not, or were not swept."""
    c = campaign.c
    # No job is swept before it has ended: by the index over what is not swept, whatever ran in years.
    busy = sa.exists().where(job.c.campaign == c.name, job.c.swept.is_(None))
    ended = [state.value for state in CAMPAIGN_TERMINAL]
    return [
        r.name
        for r in context.ledger.all(
            sa.select(c.name).where(sa.or_(c.state.not_in(ended), busy)).order_by(c.priority.desc(), c.created)
        )
    ]

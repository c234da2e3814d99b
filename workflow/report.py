"""Reads campaigns out of the ledger: status, report, backlog. Batched: one query for many campaigns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from workflow.context import Context
from workflow.errors import UnknownCampaign
from workflow.ledger.tables import backlog, campaign, job, outbox, outcome, quantum, step
from workflow.states import CAMPAIGN_TERMINAL, QUANTUM_IN_JOB, CampaignState, JobState, QuantumState, StepState
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
            sa.select(quantum.c.campaign, quantum.c.step, quantum.c.state, sa.func.count().label("n"))
            .where(quantum.c.current)
            .group_by(quantum.c.campaign, quantum.c.step, quantum.c.state),
            quantum.c.campaign,
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
    """Label × state with EXPECTED, in the order of the pipeline, and failures by class."""
    current = status(context, name)
    here = (quantum.c.campaign == name, quantum.c.current)
    with context.ledger.read() as connection:
        counts = connection.execute(
            sa.select(
                quantum.c.step,
                quantum.c.label,
                quantum.c.state,
                sa.func.count().label("n"),
                sa.func.min(quantum.c.ordinal).label("o"),
            )
            .where(*here)
            .group_by(quantum.c.step, quantum.c.label, quantum.c.state)
        ).all()
        errors = connection.execute(
            sa.select(
                quantum.c.step,
                quantum.c.label,
                outcome.c.failure_class,
                sa.func.count().label("count"),
                sa.func.max(outcome.c.error).label("example"),
            )
            .join(outcome, outcome.c.quantum == quantum.c.id)
            .where(*here, outcome.c.state == "failed")
            .group_by(quantum.c.step, quantum.c.label, outcome.c.failure_class)
            .order_by(sa.func.count().desc(), quantum.c.step, quantum.c.label)
        ).all()
    order = {s.name: n for n, s in enumerate(current.steps)}
    by_label: dict[tuple[str, str], dict[str, int]] = {}
    for row in sorted(counts, key=lambda r: (order[r.step], r.o, r.label)):
        by_label.setdefault((row.step, row.label), {state.value: 0 for state in QuantumState})[row.state] = row.n
    labels = tuple(LabelReport(step=s, label=n, states=c, expected=sum(c.values())) for (s, n), c in by_label.items())
    return CampaignReport(campaign=current, labels=labels, errors=tuple(dict(r._mapping) for r in errors))


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
    """Campaigns that need the engine: those that have not ended, and those whose jobs have not."""
    c = campaign.c
    busy = sa.exists().where(job.c.campaign == c.name, sa.or_(job.c.state != JobState.ENDED, job.c.swept.is_(None)))
    ended = [state.value for state in CAMPAIGN_TERMINAL]
    return [r.name for r in context.ledger.all(sa.select(c.name).where(sa.or_(c.state.not_in(ended), busy)).order_by(c.created))]

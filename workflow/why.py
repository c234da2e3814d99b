"""Why is it not running, why here, why did it fail: from the ledger, the broker's decisions, and what pools themselves say.

Bounded: of many groups and jobs only the first are explained, and how many more there are is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from backbone.errors import PachonError
from workflow import words
from workflow.broker import Word
from workflow.context import Context
from workflow.errors import UnknownCampaign
from workflow.ledger.tables import action, group, job, outcome, placement, quantum, site_word
from workflow.report import status
from workflow.states import CAMPAIGN_TERMINAL, CampaignState, JobState, QuantumState, StepState
from workflow.status import CampaignStatus, StepStatus

MOST = 20  # groups, and jobs of one group, that are explained
_AT_POOL = (JobState.PREPARED, JobState.SUBMITTED, JobState.RUNNING, JobState.LOST, JobState.KILLED)
_UNSENT = "it is not in the pool yet: the engine sends it in its next round; if not, HOME/log/engine.log says why"
Question = Literal["state", "not running", "here", "failed"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer: about what, to which question."""

    subject: str
    question: Question
    answer: str


@dataclass(frozen=True, kw_only=True)
class Why:
    """All answers about a campaign, or about one of its groups."""

    campaign: str
    state: str
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and strings."""
        return asdict(self)


def why(context: Context, name: str, group_name: str | None = None) -> Why:
    """Explain a campaign; with `group_name` (`STEP/GROUP`, or GROUP where that is clear) that group alone."""
    now = status(context, name)
    rows = _groups(context, name, group_name, now)
    findings = [] if group_name else [*_of_campaign(context, now), *_of_words(context, name), *_of_pools(context, now)]
    counts = _counts(context, rows[:MOST])
    for row in rows[:MOST]:
        findings += _of_group(context, row, counts.get((row.step, row.name, row.generation), {}))
    if len(rows) > MOST:
        said = f"these are {MOST} of them; name one with --group"
        findings.append(Finding(subject="other groups", question="not running", answer=said))
    findings += _failures(context, name, rows[:MOST] if group_name else None)
    return Why(campaign=name, state=now.state.value, findings=tuple(findings))


def _groups(context: Context, name: str, wanted: str | None, now: CampaignStatus) -> list[Any]:
    """The group that is asked for; or those of the steps at work that have something to do, one more than are explained."""
    query = sa.select(group).where(group.c.campaign == name).order_by(group.c.planned, group.c.name)
    if wanted:
        step, _, last = wanted.rpartition("/")
        chosen = query.where(group.c.name == last, *([group.c.step == step] if step else []))
        rows = context.ledger.all(chosen.order_by(group.c.generation.desc()))
        if not rows:
            raise UnknownCampaign(f"campaign {name} has no group {wanted!r} that is planned; write STEP/GROUP")
        return rows
    at_work = [s.name for s in now.steps if s.state in (StepState.READY, StepState.RUNNING, StepState.PAUSED)]
    has_work = (
        sa.exists()
        .where(
            quantum.c.campaign == group.c.campaign,
            quantum.c.step == group.c.step,
            quantum.c.group_ == group.c.name,
            quantum.c.generation == group.c.generation,
            quantum.c.current,
            quantum.c.state != QuantumState.SUCCEEDED,
        )
        .correlate(group)
    )
    return context.ledger.all(query.where(group.c.step.in_(at_work), has_work).limit(MOST + 1)) if at_work else []


def _of_campaign(context: Context, now: CampaignStatus) -> list[Finding]:
    last = context.ledger.all(sa.select(action).where(action.c.campaign == now.name).order_by(action.c.seq.desc()).limit(1))
    said = f" ({last[0].why})" if last and last[0].why not in ("", now.reason) else ""
    told = f"; last: {last[0].what} by {last[0].actor}{said}" if last else ""
    found = [Finding(subject=now.name, question="state", answer=f"{now.state.value} {now.reason}".strip() + told)]
    if now.state is CampaignState.FAILED:
        next_step = f"mend what failed, then `pachon campaign retry {now.name}` shows what would run, and --yes runs it"
        return [*found, Finding(subject=now.name, question="not running", answer=next_step)]
    if now.state in CAMPAIGN_TERMINAL:
        return found
    if now.state is CampaignState.PAUSED:
        resume = f"it is paused: `pachon campaign resume {now.name}` lets it go on"
        found.append(Finding(subject=now.name, question="not running", answer=resume))
    working = next((s for s in now.steps if s.state is not StepState.SUCCEEDED), None)
    if working is None:
        return found
    question: Question = "state" if working.running else "not running"
    return [*found, Finding(subject=f"step {working.name}", question=question, answer=_step_words(working))]


def _step_words(step: StepStatus) -> str:
    if not step.released:
        return "it is not released: an orchestrator or `pachon campaign release` must say so"
    if step.state in (StepState.UNREADY, StepState.READY):
        return (
            f"{step.reason or 'it is not planned yet'}: an engine plans it in its next round; is one running (`pachon status`)?"
        )
    counts = (
        f"{step.running} in jobs, {step.accepted} of {step.expected} accepted, {step.published} published, {step.failed} failed"
    )
    return f"{step.state.value}: {counts}{f'; {step.reason}' if step.reason else ''}"


def _of_words(context: Context, name: str) -> list[Finding]:
    found = []
    for row in context.ledger.all(sa.select(site_word).where(site_word.c.campaign == name)):
        scope = "/".join(part for part in (row.step, row.group_) if part) or "all of it"
        word = Word(
            only=tuple(row.only_sites),
            never=tuple(row.never_sites),
            only_machines=tuple(row.only_machines),
            never_machines=tuple(row.never_machines),
        )
        said = f"{words.in_words(word)}, says {row.actor}{f': {row.why}' if row.why else ''}"
        found.append(Finding(subject=scope, question="here", answer=said))
    return found


def _of_pools(context: Context, now: CampaignStatus) -> list[Finding]:
    if now.ended:
        return []
    found = []
    for site, pool in context.pools.items():
        try:
            free = pool.capacity()
            said = (
                f"it would take {free} more now"
                if free
                else "it takes no more jobs now: its slots are used, or it does not answer"
            )
        except PachonError as error:
            free, said = 0, f"it does not answer: {error}"
        found.append(Finding(subject=f"pool {site}", question="state" if free else "not running", answer=said))
    return found


def _counts(context: Context, rows: Sequence[Any]) -> dict[tuple[str, str, int], dict[str, int]]:
    """Quanta by state of each group: one look at the quanta of their steps, however many groups."""
    if not rows:
        return {}
    key = (quantum.c.step, quantum.c.group_, quantum.c.generation)
    groups = sa.or_(*(sa.and_(*(c == v for c, v in zip(key, (r.step, r.name, r.generation), strict=True))) for r in rows))
    query = sa.select(*key, quantum.c.state, sa.func.count().label("n")).group_by(*key, quantum.c.state)
    found: dict[tuple[str, str, int], dict[str, int]] = {}
    for r in context.ledger.all(query.where(quantum.c.campaign == rows[0].campaign, quantum.c.current, groups)):
        found.setdefault((r.step, r.group_, r.generation), {})[r.state] = r.n
    return found


def _of_group(context: Context, row: Any, counts: Mapping[str, int]) -> list[Finding]:
    subject = f"group {row.step}/{row.name}"
    states = [state for state in QuantumState if state in counts]
    found = [
        Finding(subject=subject, question="state", answer=", ".join(f"{counts[s]} {s}" for s in states) or "nothing current")
    ]
    same = (
        placement.c.campaign == row.campaign,
        placement.c.step == row.step,
        placement.c.generation == row.generation,
        placement.c.group_ == row.name,
    )
    placed = context.ledger.all(sa.select(placement).where(*same).order_by(placement.c.ordinal))
    found += [Finding(subject=subject, question="here", answer=_placed_words(one, one is placed[-1])) for one in placed]
    jobs = _jobs(context, row)
    if placed and placed[-1].waits:
        found.append(Finding(subject=subject, question="not running", answer=placed[-1].waits))
    elif QuantumState.READY in states and not jobs:
        found.append(Finding(subject=subject, question="not running", answer="it can run and waits for a free slot"))
    elif QuantumState.UNREADY in states and not jobs:
        found.append(Finding(subject=subject, question="not running", answer="what it reads of other quanta is not accepted yet"))
    return found + [_job_words(context, one, subject) for one in jobs]


def _placed_words(row: Any, counts: bool) -> str:
    return f"{row.reasons['reason']}{'' if counts else ' (until it was placed again)'}"


def _jobs(context: Context, row: Any) -> list[Any]:
    where = (
        job.c.campaign == row.campaign,
        job.c.step == row.step,
        job.c.generation == row.generation,
        job.c.group_ == row.name,
        job.c.state.in_(_AT_POOL),
    )
    return context.ledger.all(sa.select(job).where(*where).order_by(job.c.created).limit(MOST))


def _job_words(context: Context, row: Any, subject: str) -> Finding:
    try:
        said = _UNSENT if row.state == JobState.PREPARED else context.pools[row.site].why(row.id)
    except PachonError as error:
        said = f"the pool does not answer: {error}"
    except KeyError:
        said = "the site is no longer in the settings; when its lease is over its quanta go elsewhere"
    question: Question = "state" if row.state == JobState.RUNNING else "not running"
    answer = f"job {row.id} ({row.quanta} quanta, {row.state}) at {row.site}: {said}"
    return Finding(subject=subject, question=question, answer=answer)


def _failures(context: Context, name: str, rows: Sequence[Any] | None) -> Iterable[Finding]:
    """Failed attempts by step, task and class, most frequent first, with one example of each."""
    mine: list[sa.ColumnElement[bool]] = [quantum.c.campaign == name, quantum.c.current]
    if rows is not None:
        mine.append(sa.or_(*(sa.and_(quantum.c.step == r.step, quantum.c.group_ == r.name) for r in rows)))
    about = (quantum.c.step, quantum.c.label, outcome.c.failure_class, quantum.c.state)
    query = (
        sa.select(*about, sa.func.count().label("n"), sa.func.max(outcome.c.error).label("example"))
        .join(outcome, outcome.c.quantum == quantum.c.id)
        .where(*mine, outcome.c.state == "failed")
        .group_by(*about)
        .order_by(sa.func.count().desc(), quantum.c.step, quantum.c.label)
        .limit(MOST)
    )
    for row in context.ledger.all(query):
        words = (row.example or "").strip().splitlines()
        last = words[-1] if words else "without a word"
        after = {QuantumState.FAILED: "its budget is used up", QuantumState.SUCCEEDED: "later attempts succeeded"}.get(
            QuantumState(row.state), f"it is {row.state} again"
        )
        yield Finding(
            subject=f"{row.step}/{row.label}", question="failed", answer=f"{row.n} × {row.failure_class}, {after}: {last}"
        )

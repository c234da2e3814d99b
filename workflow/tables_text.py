"""Tables for people, as rich renderables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from workflow.states import CampaignState, QuantumState
from workflow.status import BacklogEntry, CampaignReport, CampaignStatus

_COLOUR = {"SUCCEEDED": "green", "FAILED": "red", "CANCELLED": "red", "RUNNING": "cyan", "PAUSED": "yellow"}


def _state(state: str) -> Text:
    return Text(state, style=_COLOUR.get(state, ""))


def attention(status: CampaignStatus) -> str:
    """The X of `bps report`: F failed, D deleted, H held, or nothing."""
    if status.state is CampaignState.FAILED or any(s.failed for s in status.steps):
        return "F"
    return {CampaignState.CANCELLED: "D", CampaignState.PAUSED: "H"}.get(status.state, "")


def percent(status: CampaignStatus) -> int:
    """Published quanta of those planned, of steps that are planned."""
    expected = sum(s.expected for s in status.steps)
    return 100 * sum(s.published for s in status.steps) // expected if expected else 0


def status_table(status: CampaignStatus) -> Table:
    """One campaign, a row for each step."""
    title = f"{status.name} ({status.production}): {status.state} {status.reason}".strip()
    table = Table(title=title, title_justify="left")
    for name in ("STEP", "STATE"):
        table.add_column(name)
    for name in ("EXPECTED", "RUNNING", "ACCEPTED", "PUBLISHED", "FAILED"):
        table.add_column(name, justify="right")
    table.add_column("REASON", overflow="fold")
    for s in status.steps:
        numbers = [str(n) for n in (s.expected, s.running, s.accepted, s.published, s.failed)]
        table.add_row(s.name, _state(s.state), *numbers, s.reason)
    return table


def list_table(found: Sequence[CampaignStatus]) -> Table:
    """Many campaigns, a row for each."""
    table = Table("X", "STATE", "%S", "CAMPAIGN", "PRODUCTION", "OPERATOR", "STEPS")
    for s in found:
        steps = " ".join(f"{step.name}:{step.state}" for step in s.steps)
        table.add_row(attention(s), _state(s.state), str(percent(s)), s.name, s.production, s.owner, steps)
    return table


def report_tables(report: CampaignReport) -> list[Table]:
    """Label × state with TOTAL first, then failures by class."""
    states = [state.value for state in QuantumState]
    table = Table(title=f"{report.campaign.name}: {report.campaign.state}", title_justify="left")
    table.add_column("LABEL")
    for name in (*states, "EXPECTED"):
        table.add_column(name, justify="right")
    totals = [sum(row.states[s] for row in report.labels) for s in states]
    table.add_row("TOTAL", *map(str, totals), str(sum(row.expected for row in report.labels)))
    for row in report.labels:
        table.add_row(f"{row.step}/{row.label}", *(str(row.states[s]) for s in states), str(row.expected))
    if not report.errors:
        return [table]
    errors = Table("LABEL", "CLASS", "COUNT", "EXAMPLE", title="failed attempts", title_justify="left")
    for e in report.errors:
        example = str(e["example"]).splitlines()
        errors.add_row(f"{e['step']}/{e['label']}", e["failure_class"], str(e["count"]), example[0] if example else "")
    return [table, errors]


def backlog_table(found: Sequence[BacklogEntry]) -> Table:
    """What was due and not done."""
    table = Table("CAMPAIGN", "STEP", "LABEL", "VISIT", "DETECTOR", "REASON")
    for b in found:
        table.add_row(b.campaign, b.step, b.label, str(b.visit or ""), "" if b.detector is None else str(b.detector), b.reason)
    return table


def progress_line(status: CampaignStatus) -> Text:
    """One line: the step at work and how far it is."""
    active = next((s for s in status.steps if s.state in ("RUNNING", "PAUSED", "READY")), None)
    line = Text(f"{status.name} ")
    line.append(status.state.value, style=_COLOUR.get(status.state, ""))
    done = sum(s.state == "SUCCEEDED" for s in status.steps)
    line.append(f"  steps {done}/{len(status.steps)}")
    if active is not None:
        line.append(
            f"  {active.name}: {active.published}/{active.expected} published, {active.running} in jobs, {active.failed} failed"
        )
    return line

"""Tables for people, as rich renderables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from workflow.accounting import mixed
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
    """Label × state with TOTAL first, then what it cost, failures by class, versions, outliers."""
    states = [state.value for state in QuantumState]
    table = Table(title=f"{report.campaign.name}: {report.campaign.state}", title_justify="left")
    table.add_column("LABEL")
    for name in (*states, "EXPECTED"):
        table.add_column(name, justify="right")
    totals = [sum(row.states[s] for row in report.labels) for s in states]
    table.add_row("TOTAL", *map(str, totals), str(sum(row.expected for row in report.labels)))
    for row in report.labels:
        table.add_row(f"{row.step}/{row.label}", *(str(row.states[s]) for s in states), str(row.expected))
    return [table, *_books(report)]


def _books(report: CampaignReport) -> Iterator[Table]:
    books = report.accounting
    if report.errors:
        yield _errors(report)
    if books.get("sites"):
        yield _sites(books)
        yield _versions(books)
        slowest = _table("slowest attempts", "LABEL", "DATA ID", "WALL s", "PEAK MB", "ENDED", "AT")
        for o in books["slowest"][:5]:
            numbers = (f"{o['wall_s']:.2f}", f"{o['peak_mb']:.0f}")
            slowest.add_row(f"{o['step']}/{o['label']}", o["data_id"], *numbers, o["state"], f"{o['site']} {o['host'] or ''}")
        yield slowest
    if books.get("passive"):
        passive = _table("passive rules would have", "RULE", "LABEL", "WOULD", "INSTEAD OF", "QUANTA")
        for p in books["passive"]:
            passive.add_row(str(p["rule"] + 1), f"{p['step']}/{p['label']}", p["would"], p["instead_of"], str(p["count"]))
        yield passive


def _errors(report: CampaignReport) -> Table:
    table = _table("failed attempts", "LABEL", "CLASS", "BLAME", "COUNT", "CORE TIME", "EXAMPLE")
    for e in report.errors:
        example, blame = str(e["example"]).splitlines(), "payload" if e["payload"] else "infrastructure"
        words = example[0] if example else ""
        table.add_row(f"{e['step']}/{e['label']}", e["failure_class"], blame, str(e["count"]), hours(e["wall_s"] / 3600), words)
    return table


def _sites(books: Mapping[str, Any]) -> Table:
    table = _table("core time", "SITE", "ATTEMPTS", "ACCEPTED", "CORE TIME", "BADPUT", "HELD BY JOBS", "JOBS", "HOSTS")
    for s in books["sites"]:
        times = (hours(s[name]) for name in ("core_hours", "badput_core_hours", "held_core_hours"))
        table.add_row(s["site"], str(s["attempts"]), str(s["accepted"]), *times, str(s["jobs"]), str(s["hosts"]))
    if projection := books["projection"]:
        table.caption = f"projected finish {_when(projection['finish'])}, {hours(projection['left_core_hours'])} left"
    return table


def _versions(books: Mapping[str, Any]) -> Table:
    table = _table("versions", "LABEL", "GENERATION", "QUANTA", "SOFTWARE", "CONFIGURATION", "WHAT DIFFERS")
    for v in books["versions"]:
        differs = ", ".join(f"{package} {number or 'absent'}" for package, number in v["differs"].items())
        differs += " configuration" if v["config_differs"] else ""
        software = f"{v['bound'] or ''} {(v['software'] or 'not told')[:12]}".strip()
        label, config = f"{v['step']}/{v['label']}", (v["config"] or "")[:12]
        table.add_row(label, str(v["generation"]), str(v["quanta"]), software, config, differs)
    if labels := mixed(books["versions"]):
        table.caption = f"mixed: {', '.join(labels)}"
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left")


def effect_table(counts: Mapping[str, Mapping[str, int]], title: str) -> Table:
    """step/label by state, as retries and hot fixes show what they reach."""
    states = [s.value for s in QuantumState if any(s.value in row for row in counts.values())]
    table = Table("LABEL", *states, "TOTAL", title=title, title_justify="left")
    for label, row in counts.items():
        table.add_row(label, *(str(row.get(s, 0)) for s in states), str(sum(row.values())))
    return table


def hours(value: float) -> str:
    """Core-hours, with a sensible number of digits."""
    return f"{value * 3600:.1f} s" if value < 0.05 else f"{value:,.2f} h"


def _when(value: float) -> str:
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


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

"""A campaign's report as one HTML page that loads nothing from elsewhere: what needs attention first, then numbers and plots."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workflow import plots
from workflow.accounting import EDGES_S, NOTHING, mixed
from workflow.states import CampaignState, QuantumState
from workflow.status import CampaignReport
from workflow.tables_text import hours

_COLOURS = {
    QuantumState.SUCCEEDED: "#4f9d5d",
    QuantumState.RUNNING: "#2f6f9f",
    QuantumState.PENDING: "#8fb8d6",
    QuantumState.READY: "#cfdbe4",
    QuantumState.UNREADY: "#e6e6e2",
    QuantumState.HELD: "#e0b04a",
    QuantumState.FAILED: "#b5433c",
    QuantumState.PRUNED: "#d9908a",
    QuantumState.DELETED: "#8a8a8a",
}


def page(report: CampaignReport, now: float) -> str:
    """The page, as HTML text; `now` is when the report was made (Unix time, UTC)."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hours": hours, "when": when, "first_line": first_line, "data_id": data_id}
    books = {**NOTHING, **report.accounting}
    states = [s for s in QuantumState if any(row.states[s.value] for row in report.labels)]
    total = {s.value: sum(row.states[s.value] for row in report.labels) for s in QuantumState}
    expected = sum(row.expected for row in report.labels)
    line = books["timeline"]
    return environment.get_template("page.html").render(
        report=report,
        campaign=report.campaign,
        books=books,
        states=[s.value for s in states],
        colours={s.value: c for s, c in _COLOURS.items()},
        total=total,
        expected=expected,
        percent=f"{100 * total[QuantumState.SUCCEEDED.value] / expected:.1f}" if expected else "–",
        badput=f"{100 * books['badput_core_hours'] / books['core_hours']:.1f}" if books["core_hours"] else "–",
        attention=attention(report),
        made=now,
        over_time=Markup(plots.over_time(line["begin"], line["bin_s"], line["bins"])) if line["bins"] else "",  # noqa: S704
        histogram=Markup(plots.classes(EDGES_S, books["wall_histogram"], "s of wall time")),  # noqa: S704 (escaped where it is made)
        series=[(name, plots.colour(n)) for n, name in enumerate(books["wall_histogram"])],
        mixed=mixed(books["versions"]),
    )


def attention(report: CampaignReport) -> list[str]:
    """What a person should look at, the worst first; empty where all is well."""
    campaign, books = report.campaign, {**NOTHING, **report.accounting}
    words = []
    if campaign.state in (CampaignState.FAILED, CampaignState.PAUSED, CampaignState.CANCELLED):
        words.append(f"The campaign is {campaign.state.value}{f': {campaign.reason}' if campaign.reason else ''}.")
    for state, what in (
        (QuantumState.FAILED, "failed for good"),
        (QuantumState.PRUNED, "will not run, since what they need failed"),
        (QuantumState.HELD, "are held"),
    ):
        if n := sum(row.states[state.value] for row in report.labels):
            words.append(f"Quanta that {what}: {n}.")
    if labels := mixed(books["versions"]):
        words.append(f"Versions are mixed in {', '.join(labels)}: see below before you accept this for release.")
    words += [f"Hosts avoided at {site}: {', '.join(names)}." for site, names in books["avoided_hosts"].items()]
    words += [f"Step {s.name}: {s.reason}" for s in campaign.steps if s.reason and s.state.value not in ("SUCCEEDED", "UNREADY")]
    return words


def when(value: float | None) -> str:
    """A Unix time as UTC."""
    return "–" if value is None else datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def first_line(text: str | None) -> str:
    """Of an error."""
    return (text or "").partition("\n")[0]


def data_id(text: str) -> str:
    """A data ID as people write it."""
    found: dict[str, Any] = json.loads(text)
    return " ".join(f"{name}={value}" for name, value in found.items())

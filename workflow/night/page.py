"""A night's pages: live, and its two reports. Each is one HTML text that loads nothing from elsewhere (but stamps, from here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workflow.night import plots
from workflow.night.latency import OTT1_S
from workflow.night.nights import NightStatus
from workflow.night.reports import MEASURES


def live_page(document: Mapping[str, Any], refresh_s: int) -> str:
    """The night as it goes on (`workflow.night.live.live`)."""
    latest = document["visits"][::-1]
    points = [
        (one["readout_end"], part["latency_s"], f"visit {one['visit']} detector {part['detector']}: {part['latency_s']:.1f} s")
        for one in latest
        for part in one["parts"]
        if part["latency_s"] is not None
    ]
    return _render(
        "live.html",
        **document,
        refresh_s=refresh_s,
        budget_s=OTT1_S,
        stage_bars=_drawn(plots.bars("seconds in each stage", document["stages"])),
        latency_plot=_drawn(plots.over_time("seconds from the end of readout to alerts", {"parts": points})),
    )


def list_page(nights: Sequence[NightStatus]) -> str:
    """These nights, the newest first."""
    return _render("nights.html", nights=[night.as_json() for night in reversed(nights)])


def quality_page(document: Mapping[str, Any]) -> str:
    """Data quality (`workflow.night.reports.quality_report`)."""
    figures = {}
    for measure, words in MEASURES.items():
        series = {
            band: [
                (point["at"], point[measure], f"visit {point['visit']} detector {point['detector']}: {point[measure]:.4g}")
                for point in of_filter["series"]
                if point[measure] is not None and point["at"] is not None
            ]
            for band, of_filter in document["filters"].items()
        }
        figures[measure] = (words, _drawn(plots.over_time(words, series)))
    return _render("quality.html", **document, measures=MEASURES, figures=figures, bands=list(document["filters"]))


def performance_page(document: Mapping[str, Any]) -> str:
    """Performance (`workflow.night.reports.performance_report`)."""
    return _render("performance.html", **document, stage_bars=_drawn(plots.bars("seconds in each stage", document["stages"])))


def _drawn(svg: str) -> Markup:
    """A plot: every text in it was escaped when it was made."""
    return Markup(svg)  # noqa: S704


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": _clock, "when": _when, "s": _seconds, "g": _number}
    return environment.get_template(template).render(**values)


def _when(value: float | None) -> str:
    return "–" if value is None else datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _clock(value: float | None) -> str:
    return "–" if value is None else datetime.fromtimestamp(value, UTC).strftime("%H:%M:%S")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"

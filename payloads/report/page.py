"""The page itself: figures drawn, numbers judged, one HTML file that needs nothing but the pictures beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from payloads.report.curves import draw_light_curves, draw_repeatability, draw_track
from payloads.report.field import draw_difference, draw_field, draw_masters, draw_triplets
from payloads.report.products import Products
from payloads.report.quality import judge
from payloads.report.story import Story
from payloads.report.summary import summarise
from payloads.report.truth import Truth

_LOG = logging.getLogger(__name__)
_NUMERIC = frozenset({"expected", "accepted", "published", "failed", "quanta", "running", "seconds"})


def write_report(
    home: Path,
    out_dir: Path,
    instrument: str,
    truth_dir: Path | None = None,
    known: Path | None = None,
    campaigns: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Write `out_dir`/index.html, its figures and summary.json; returns the summary (see `payloads.report.summary.summarise`).

    `home`: the installation's folder, which holds `repo`. `truth_dir`: OUT/truth of a simulated survey. `known`: CSV of known
    positions. `campaigns`: rows for a table, any columns. What was not made is left out of the page.
    """
    home, out_dir = Path(home), Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    summary = summarise(home, instrument, truth_dir, known)
    truth = Truth.load(truth_dir) if truth_dir is not None else None
    with Products(home, instrument) as products:
        story = Story.of(products)
        sections = _sections(products, story, truth, out_dir)
    html = _environment().get_template("page.html.j2").render(
        instrument=instrument,
        lede=_lede(summary),
        tiles=_tiles(summary),
        quality=judge(summary, truth=truth is not None),
        quality_note="Against the simulation’s truth." if truth else "From the frames themselves: their truth is not known.",
        sections=sections,
        campaigns=list(campaigns),
        campaign_columns=list(dict.fromkeys(key for row in campaigns for key in row)),
        numeric=_NUMERIC,
        version=_version(),
    )  # fmt: skip
    (out_dir / "index.html").write_text(html, encoding="utf-8")
    (out_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("payloads.report", "."), autoescape=select_autoescape(["html", "j2"]), undefined=StrictUndefined
    )


def _sections(products: Products, story: Story, truth: Truth | None, out: Path) -> list[dict[str, str]]:
    """Title, text and picture of every figure that could be drawn."""
    known_truth = " Rings show what the simulation put there." if truth else ""
    drawings: list[tuple[str, str, Callable[[], str | None]]] = [
        ("The field", "All frames on one grid, without what moved or flared in single ones; and what the differences showed.",
         lambda: draw_field(products, story, out)),
        ("Best alerts", "The frame, the template matched to it, and the difference. Dark is bright.",
         lambda: draw_triplets(products, story, out)),
        ("A difference", "One frame as a whole: reliable sources are ringed, those that moved in orange.",
         lambda: draw_difference(products, story, out)),
        ("Light curves", f"Difference fluxes of the objects seen most often.{known_truth}",
         lambda: draw_light_curves(story, out, truth)),
        ("Something that moved", "The longest tracklet: its places, the straight line through them, and its stamps.",
         lambda: draw_track(products, story, out)),
        ("Repeatability", "Fluxes measured at the places of the release’s stars in every frame: their scatter, and what their "
         "errors promise.", lambda: draw_repeatability(products, out)),
        ("Masters", "The newest calibration frames of the first detector.", lambda: draw_masters(products, out)),
    ]  # fmt: skip
    sections = []
    for title, text, draw in drawings:
        image = draw()
        if image is None:
            _LOG.info("the report has no figure %r: nothing of it was made", title)
        else:
            sections.append({"title": title, "text": text, "image": image})
    return sections


def _lede(summary: dict[str, Any]) -> str:
    exposures = summary["counts"]["exposures"]
    science = exposures.get("science", 0)
    calibrations = sum(exposures.values()) - science
    return (
        f"{science} exposures of the sky and {calibrations} for calibration, taken from raw frames to masters, templates, "
        "differences, alerts, tracklets and a small release."
    )


def _tiles(summary: dict[str, Any]) -> list[tuple[str, str]]:
    counts = summary["counts"]
    shown = (
        ("frames differenced", counts["differences"]),
        ("difference sources", counts["dia_sources"]),
        ("alerts", counts["alerts"]),
        ("tracklets", counts["tracklets"]),
        ("objects released", counts["objects"]),
        ("forced fluxes", counts["forced_sources"]),
    )
    return [(label, f"{number:,}".replace(",", "\u202f")) for label, number in shown]


def _version() -> str:
    try:
        return version("pachon")
    except PackageNotFoundError:
        return ""

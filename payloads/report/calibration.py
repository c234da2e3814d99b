"""The calibration report of a day (DMS-REQ-0101): what differs significantly, what was verified, certified, refused; trends.

For people a page, for programs the same as JSON. Numbers come from quality control, verdicts and thumbnails from the day's
campaigns, signatures from the books of certifications.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from lsst.daf.butler import Butler

from backbone.qc import Alarm, Metric, Quality
from backbone.qc.certifications import Certifications
from backbone.qc.metric import subject_text
from payloads.report.calibration_figures import TRENDS, draw_amplifiers, draw_fields, draw_trends
from payloads.repository import open_repository

TREND_DAYS = 60
_VERIFICATION = "_verification"
_OF_ALARM = ("id", "severity", "state", "words", "subject", "count", "day_obs", "acknowledged_by")


@dataclass(frozen=True, kw_only=True)
class Day:
    """What is known of an instrument's calibrations of one observing day. `verdicts` and `comparisons`: documents of tasks;
    `trend`: of the metrics in TRENDS, those of the last days.
    """

    instrument: str
    day_obs: int
    metrics: tuple[Metric, ...]
    trend: tuple[Metric, ...]
    verdicts: tuple[Mapping[str, Any], ...]
    comparisons: tuple[Mapping[str, Any], ...]
    raw_checks: tuple[Mapping[str, Any], ...]
    certifications: tuple[Mapping[str, Any], ...]
    alarms: tuple[Alarm, ...]

    @classmethod
    def read(cls, home: Path, instrument: str, day_obs: int) -> Day:
        """From an installation."""
        quality, books = Quality.open(home), Certifications.open(home)
        metrics = quality.metrics(instrument=instrument, first_day=day_obs, last_day=day_obs)
        sources = sorted({metric.source for metric in metrics})
        butler = open_repository(home / "repo")
        found = {name: _documents(butler, name, sources) for name in _types(butler)}
        verdicts = [d for name, documents in found.items() if name.endswith(_VERIFICATION) for d in documents]
        return cls(
            instrument=instrument,
            day_obs=day_obs,
            metrics=tuple(metrics),
            trend=tuple(
                metric
                for name in TRENDS  # all that was measured in so many days may be more than memory holds
                for metric in quality.metrics(name=name, instrument=instrument, first_day=_days_before(day_obs), last_day=day_obs)
            ),
            verdicts=tuple(verdicts),
            comparisons=tuple(found.get("flat_comparison", ())),
            raw_checks=tuple(found.get("raw_check", ())),
            certifications=tuple(asdict(one) for one in books.every(f"{instrument}/calib") if one.campaign in sources),
            alarms=tuple(a for a in quality.alarms(instrument=instrument) if a.day_obs <= day_obs),
        )

    @property
    def compared(self) -> bool:
        """Whether anything of the day was compared with what is certified."""
        return bool(self.comparisons) or any(v["certified"] is not None for v in self.verdicts)

    @property
    def date(self) -> str:
        """The observing day as people write it."""
        return datetime.strptime(str(self.day_obs), "%Y%m%d").strftime("%Y-%m-%d")  # noqa: DTZ007 (a date alone)

    def differences(self) -> list[dict[str, str]]:
        """What hints at the telescope or the camera: changed flats, and checks against certified products that are far out."""
        rows = [
            {
                "what": f"flat {_where(c['subject'])}",
                "how": c["why"],
                "hint": "telescope or camera changed; masters are made again",
            }
            for c in self.comparisons
            if c["significant"]
        ]
        for verdict in self.verdicts:
            for check in verdict["checks"]:
                if check["name"].startswith("change") and not check["passed"]:
                    where = f"{verdict['product']} {_where(verdict['subject'])}, amplifier {check['amplifier'] or 'all'}"
                    rows.append({"what": where, "how": f"{check['name']} {_number(check['value'])}", "hint": check["hint"]})
        return rows

    def refused_frames(self) -> list[dict[str, str]]:
        """Raw frames that are not what their headers say."""
        return [{"what": _raw(check), "how": "; ".join(check["reasons"])} for check in self.raw_checks if check["reasons"]]

    def products(self) -> list[dict[str, Any]]:
        """A row for each product, those that were refused first: verdict, reasons, what it was verified on."""
        signed = {c["campaign"]: c for c in self.certifications}
        rows = []
        for v in sorted(self.verdicts, key=lambda v: (v["passed"], v["product"], _where(v["subject"]))):
            signature = signed.get(v["run"].split("/")[0])
            frames = _frames(v) if "n_frames" in v else "its own numbers"
            rows.append(
                {
                    "product": v["product"],
                    "where": _where(v["subject"]),
                    "passed": v["passed"],
                    "reasons": v["reasons"],
                    "notes": v.get("notes", []),
                    "frames": frames,
                    "compared": v["certified"] is not None,
                    "signed": (signature or {}).get("approved_by") if v["passed"] else None,
                }
            )
        return rows

    def as_json(self) -> dict[str, Any]:
        """Everything that the page says, and every metric."""
        return {
            "instrument": self.instrument,
            "day_obs": self.day_obs,
            "differences": self.differences(),
            "refused_frames": self.refused_frames(),
            "products": self.products(),
            "certifications": list(self.certifications),
            "alarms": [{name: getattr(a, name) for name in _OF_ALARM} | {"of": subject_text(a.subject)} for a in self.alarms],
            "metrics": [{"name": m.name, "value": m.value, "unit": m.unit, "subject": dict(m.subject)} for m in self.metrics],
        }


def write_calibration_report(home: Path, instrument: str, day_obs: int, out: Path) -> dict[str, Any]:
    """Write `out`/index.html, its figures and report.json; returns what report.json holds."""
    return write_day(Day.read(home, instrument, day_obs), out)


def write_day(day: Day, out: Path) -> dict[str, Any]:
    """See `write_calibration_report`."""
    out.mkdir(parents=True, exist_ok=True)
    document = day.as_json() | {"made": datetime.now(UTC).isoformat(timespec="seconds")}
    parts = {"lede": _lede(day), "tiles": _tiles(day), "sections": _sections(day, out)}
    page = _environment().get_template("calibration.html.j2")
    html = page.render(day=day, document=document, shown=_shown(document["products"]), **parts)
    (out / "index.html").write_text(html, encoding="utf-8")
    (out / "report.json").write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    return document


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("payloads.report", "."), autoescape=select_autoescape(["html", "j2"]), undefined=StrictUndefined
    )


def _shown(products: list[dict[str, Any]], at_most: int = 40) -> list[dict[str, Any]]:
    """All that were refused, and of a camera of many detectors not all that passed."""
    return products[: max(at_most, sum(not row["passed"] for row in products))]


def _sections(day: Day, out: Path) -> list[dict[str, str]]:
    sections = []
    by_product: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for verdict in day.verdicts:
        by_product[verdict["product"]].append(verdict)
    for name, title, text in _FIELDS:
        nightly = day.comparisons if name == "flat" else ()
        if picture := draw_fields(nightly or by_product.get(name, []), out, f"{name}s"):
            sections.append({"title": title, "text": text, "image": picture})
    for name, verdicts in sorted(by_product.items()):
        if picture := draw_amplifiers(name, verdicts, out):
            text = "Each dot is an amplifier; the shaded band is what passes. Red is outside of it."
            sections.append({"title": f"{name.replace('_', ' ').capitalize()}, by amplifier", "text": text, "image": picture})
    if picture := draw_trends(day.trend, out):
        text = f"Median of all amplifiers and their range, day by day, of the last {TREND_DAYS} days."
        sections.append({"title": "Trends", "text": text, "image": picture})
    return sections


_RANGE = "each panel has its own range."
_FIELDS = (
    ("flat", "Nightly flats", f"The day’s broadband flat in each filter, in blocks; {_RANGE}"),
    ("synthetic_flat", "Synthetic flats", f"Of the monochromatic cube, through each filter; {_RANGE}"),
    ("illumination", "Illumination", f"What the sky lights otherwise than the dome’s screen; {_RANGE}"),
    ("fringe", "Fringes", f"Fraction of the sky, in blocks, which blur them; {_RANGE}"),
)


def _lede(day: Day) -> str:
    passed = sum(bool(v["passed"]) for v in day.verdicts)
    refused = len(day.verdicts) - passed
    differences = len(day.differences())
    said = f"{passed} calibration product{'' if passed == 1 else 's'} passed verification" + (
        f", {refused} {'was' if refused == 1 else 'were'} refused" if refused else ""
    )
    if not day.compared:
        return f"{said}; there was nothing certified to compare with."
    changed = f"{differences} significant difference{'s' if differences != 1 else ''} from what is certified"
    return f"{said}; {changed if differences else 'nothing differs significantly from what is certified'}."


def _tiles(day: Day) -> list[tuple[str, int]]:
    return [
        ("products verified", len(day.verdicts)),
        ("refused", sum(not v["passed"] for v in day.verdicts)),
        ("significant differences", len(day.differences())),
        ("raw frames refused", len({_raw(c) for c in day.raw_checks if c["reasons"]})),
        ("open alarms", len(day.alarms)),
    ]


def _types(butler: Butler) -> list[str]:
    names = [t.name for t in butler.registry.queryDatasetTypes()]
    return [name for name in names if name.endswith(_VERIFICATION) or name in ("flat_comparison", "raw_check")]


def _documents(butler: Butler, dataset_type: str, campaigns: Iterable[str]) -> list[dict[str, Any]]:
    runs = [run for campaign in campaigns for run in butler.collections.query(f"{campaign}/*")]
    if not runs:
        return []
    refs = butler.query_datasets(dataset_type, collections=runs, find_first=False, explain=False, limit=None)
    return [butler.get(ref) for ref in refs]


def _days_before(day_obs: int, days: int = TREND_DAYS) -> int:
    day = datetime.strptime(str(day_obs), "%Y%m%d").replace(tzinfo=UTC)
    return int((day - timedelta(days=days)).strftime("%Y%m%d"))


def _where(subject: Mapping[str, Any]) -> str:
    return " ".join(
        [*([str(subject["physical_filter"])] if "physical_filter" in subject else []), f"detector {subject['detector']}"]
    )


def _frames(verdict: Mapping[str, Any]) -> str:
    number = verdict["n_frames"]
    return f"{number} frame{'s' if number != 1 else ''} " + ("held out" if verdict["held_out"] else "that it was made of")


def _raw(check: Mapping[str, Any]) -> str:
    subject = check["metrics"][0]["subject"]
    return f"{check['kind']} {subject['exposure']}, detector {subject['detector']}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"

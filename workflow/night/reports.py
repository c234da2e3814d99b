"""The reports of a night, for people (HTML) and machines (JSON), due 4 hours after its end (DMS-REQ-0096 to 0099).

Data quality: zero point, sky, seeing, depth and PSF over time, by filter. Performance: counts of success, of recoverable failure
by type and mechanism, of unrecoverable failure; how late alerts were; what happened.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from backbone.qc import Metric, Quality
from workflow.night.books import Row
from workflow.night.latency import on_time, quantile, stages
from workflow.night.nights import Nights
from workflow.night.states import PartState

DUE_S = 4 * 3600.0
MEASURES = {
    "zeropoint_mag": "zero point [AB mag of 1 electron]",
    "sky_electron": "sky [electron]",
    "psf_fwhm_arcsec": "seeing, PSF FWHM [arcsec]",
    "depth_mag": "depth at 5 sigma [AB mag]",
    "difference_depth_mag": "depth of the difference [AB mag]",
    "wcs_rms_mas": "WCS residual [mas]",
}
_UNITS = {
    "zeropoint_mag": "mag",
    "sky_electron": "electron",
    "psf_fwhm_arcsec": "arcsec",
    "depth_mag": "mag",
    "wcs_rms_mas": "mas",
}
_RECOVERED = {
    "recovered": "",  # as its words say
    "lost": "worker lost, and replaced",
    "transport": "messages could not be had for a while, or could again",
    "unannounced": "frames came without next_visit, or before it",
}


def quality_report(nights: Nights, name: str) -> dict[str, Any]:
    """Data quality of a night, by filter."""
    held, parts, _, _ = nights.rows(name)
    by_filter: dict[str, list[Row]] = {}
    for row in parts:
        if row.state == PartState.SUCCEEDED and row.quality.get("psf_fwhm_arcsec") is not None:
            by_filter.setdefault(str(row.quality.get("band") or row.physical_filter or "?"), []).append(row)
    return {
        **_head(nights, held, "quality"),
        "filters": {band: _of_filter(rows) for band, rows in sorted(by_filter.items())},
    }


def _of_filter(rows: Sequence[Row]) -> dict[str, Any]:
    measures = {name: _spread([row.quality.get(name) for row in rows]) for name in MEASURES}
    series = [
        {"visit": row.visit, "detector": row.detector, "at": row.readout_end, **{n: row.quality.get(n) for n in MEASURES}}
        for row in rows
    ]
    return {"frames": len(rows), "visits": len({row.visit for row in rows}), "measures": measures, "series": series}


def _spread(values: Iterable[Any]) -> dict[str, Any]:
    good = [float(value) for value in values if value is not None]
    return {
        "n": len(good),
        **{k: quantile(good, q) for k, q in (("min", 0.0), ("p16", 0.16), ("median", 0.5), ("p84", 0.84), ("max", 1.0))},
    }


def performance_report(nights: Nights, name: str) -> dict[str, Any]:
    """What was done, how fast, what failed and what came of it."""
    held, parts, workers, events = nights.rows(name)
    states = Counter(row.state for row in parts)
    again = [row for row in parts if row.tries > 1 and row.state == PartState.SUCCEEDED]
    recovered = Counter(_mechanism(row) for row in events if row.kind in _RECOVERED)
    left = [row for row in parts if row.state in (PartState.FAILED, PartState.CANCELLED)]
    return {
        **_head(nights, held, "performance"),
        "visits": len({row.visit for row in parts}),
        "visits_by_mode": dict(Counter(mode for _, mode in {(row.visit, row.mode) for row in parts})),
        "parts": {state.value: states.get(state.value, 0) for state in PartState},
        "timeliness": on_time(parts),
        "alerts_withheld": [
            {
                "visit": row.visit,
                "detector": row.detector,
                "alerts": row.quality["alerts_withheld"],
                "told_by": row.quality.get("told_by"),
            }
            for row in parts
            if row.quality.get("alerts_withheld")
        ],
        "stages": stages(parts),
        "recoverable": dict(recovered),
        "recovered_parts": [{"visit": r.visit, "detector": r.detector, "tries": r.tries} for r in again],
        "unrecoverable": dict(Counter(f"{row.state.lower()} in {row.stage}: {row.mechanism}" for row in left)),
        "left": [
            {
                "visit": row.visit,
                "detector": row.detector,
                "state": row.state,
                "stage": row.stage,
                "mechanism": row.mechanism,
                "reason": row.reason,
                "offline": row.handed,
            }
            for row in left
        ],
        "workers": {"ordered": len(workers), "lost": sum(row.state == "LOST" for row in workers), "rearmed_s": _rearmed(workers)},
        "cpu_s": sum(row.cpu_s for row in parts),
        "peak_mb": max((row.peak_mb for row in parts), default=0.0),
        "events": [{"at": row.at, "kind": row.kind, "words": row.words} for row in events],
    }


def _mechanism(event: Row) -> str:
    """Of a recovered failure: what went wrong, without what is different each time."""
    return _RECOVERED[event.kind] or re.sub(r"^.*?: (\d+ times )?", "", event.words)[:120]


def _rearmed(workers: Sequence[Row]) -> list[float]:
    """Seconds from the loss of each worker to its successor's being armed."""
    found = []
    for row in workers:
        following = [w for w in workers if w.detector == row.detector and w.ordinal == row.ordinal + 1 and w.armed is not None]
        if row.state == "LOST" and following:
            found.append(float(following[0].armed - row.ended))
    return found


def _head(nights: Nights, held: Row, report: str) -> dict[str, Any]:
    now = nights.clock.now()
    return {
        "report": report,
        "version": 1,
        "night": held.name,
        "instrument": held.instrument,
        "day_obs": held.day_obs,
        "state": held.state,
        "opened": held.opened,
        "closed": held.closed,
        "made": now,
        "due": None if held.closed is None else held.closed + DUE_S,
        "in_time": held.closed is None or now <= held.closed + DUE_S,
    }


def documents(nights: Nights, name: str) -> dict[str, bytes]:
    """File name → content of both reports."""
    from workflow.night.page import performance_page, quality_page

    quality, performance = quality_report(nights, name), performance_report(nights, name)
    return {
        "quality.json": _json(quality),
        "quality.html": quality_page(quality).encode(),
        "performance.json": _json(performance),
        "performance.html": performance_page(performance).encode(),
    }


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode()


def write_reports(nights: Nights, name: str, folder: Path) -> list[Path]:
    """Into a folder; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for file, content in documents(nights, name).items():
        (folder / file).write_bytes(content)
        paths.append(folder / file)
    return paths


def publish_reports(nights: Nights, name: str) -> dict[str, Any]:
    """To the prompt endpoint below prompt/NIGHT/reports/, and the measures to quality control, which knows its thresholds."""
    for file, content in documents(nights, name).items():
        nights.store.put(f"prompt/{name}/reports/{file}", content)
    alarms = _to_quality_control(nights, name)
    performance = performance_report(nights, name)
    return {
        "night": name,
        "visits": performance["visits"],
        "parts": performance["parts"],
        "timeliness": performance["timeliness"],
        "alarms": alarms,
    }


def _to_quality_control(nights: Nights, name: str) -> int:
    held, parts, _, _ = nights.rows(name)
    metrics = [
        Metric(
            name=f"prompt_{measure}",
            value=row.quality.get(measure),
            unit=_UNITS[measure],
            instrument=held.instrument,
            day_obs=held.day_obs,
            source=name,
            subject={"visit": row.visit, "detector": row.detector, "band": row.quality.get("band") or "none"},
        )
        for row in parts
        if row.state == PartState.SUCCEEDED and "psf_fwhm_arcsec" in row.quality
        for measure in _UNITS
    ]
    metrics += [
        Metric(
            name="raw_refused",
            value=row.quality["raw_refused"],
            unit="",
            instrument=held.instrument,
            day_obs=held.day_obs,
            source=name,
            subject={"visit": row.visit, "detector": row.detector},
        )
        for row in parts
        if "raw_refused" in row.quality
    ]
    share = on_time(parts)["alerts_on_time_fraction"]
    if share is not None:
        metrics.append(
            Metric(
                name="prompt_alerts_on_time",
                value=share,
                unit="",
                instrument=held.instrument,
                day_obs=held.day_obs,
                source=name,
                subject={},
            )
        )
    quality = Quality.open(nights.settings.home)
    try:
        return len(quality.record(metrics, actor=f"night {name}"))
    finally:
        quality.close()

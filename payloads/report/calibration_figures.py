"""Figures of the calibration report: amplifiers against their bands, trends of days, thumbnails of flats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from backbone.qc import Metric
from payloads.report.style import BAD, GREY, INK, PALE, STAR, bare, figure, save, styled

_LABELS = {
    "gain": "gain (electron/ADU)",
    "read_noise": "read noise (electron)",
    "gain_error": "error of the gain (part)",
    "change_gain": "change of the gain (part)",
    "correction": "largest correction of linearity",
    "rms": "scatter about the curve",
    "coefficient": "largest coefficient",
    "error": "largest error of a coefficient",
    "change_coefficient": "largest change of a coefficient",
    "offset_sigma": "offset of frames (σ)",
    "noise_ratio": "scatter over noise",
    "level_sigma": "level over overscan (σ)",
    "offset": "offset of frames",
    "structure": "structure of frames",
    "change_sigma": "change from certified (σ)",
    "change": "change from certified",
    "bad": "bad pixels (part)",
    "change_bad": "change of bad pixels (part)",
    "sky_left": "ghosts left on the sky (part)",
}
"""What is drawn of the amplifiers' checks, in this order."""
TRENDS = {
    "bias_noise_ratio": "bias: scatter over noise",
    "bias_offset_sigma": "bias: offset of frames (σ)",
    "bias_change_sigma": "bias: change from certified (σ)",
    "dark_noise_ratio": "dark: scatter over noise",
    "dark_change_sigma": "dark: change from certified (σ)",
    "flat_structure": "flat: structure of frames",
    "flat_change": "flat: amplifiers’ change from certified",
    "flat_change_rms": "day’s flats: rms from the master",
    "ptc_gain": "gain (electron/ADU)",
    "ptc_read_noise": "read noise (electron)",
}
"""Metrics whose trend is drawn, and how they are called."""
_COLUMNS = 3


@styled
def draw_amplifiers(product: str, verdicts: Sequence[Mapping[str, Any]], out: Path) -> str | None:
    """One panel for each kind of check: the value of each amplifier of each detector (and filter), and the band."""
    panels: dict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for verdict in sorted(verdicts, key=lambda v: str(v["subject"])):
        for check in verdict["checks"]:
            if check["amplifier"] and check["name"] in _LABELS and check["value"] is not None:
                panels[check["name"]].append((_subject(verdict["subject"]), check))
    names = [name for name in _LABELS if name in panels]
    if not names:
        return None
    lines = -(-len(names) // _COLUMNS)
    fig = figure(9.6, 2.3 * lines + 0.3)
    for k, name in enumerate(names):
        _strip(fig.add_subplot(lines, _COLUMNS, k + 1), _LABELS[name], panels[name])
    return save(fig, out / f"amplifiers_{product}.png")


def _strip(ax: Axes, label: str, points: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    values = np.array([check["value"] for _, check in points], dtype=float)
    passed = np.array([check["passed"] for _, check in points])
    at = np.arange(len(points))
    low, high = points[0][1]["low"], points[0][1]["high"]
    span = max(np.ptp(values), 1e-12)
    floor, top = (low if low is not None else values.min() - span), (high if high is not None else values.max() + span)
    ax.axhspan(floor, top, color=PALE, alpha=0.6, lw=0, zorder=0)
    ax.plot(at[passed], values[passed], "o", ms=4, color=STAR)
    ax.plot(at[~passed], values[~passed], "o", ms=5, color=BAD)
    groups = [group for group, _ in points]
    starts = [i for i, group in enumerate(groups) if i == 0 or group != groups[i - 1]]
    for start in starts[1:]:
        ax.axvline(start - 0.5, color=GREY, lw=0.5)
    if len(starts) == 1 and len(points) <= 16:
        ax.set_xticks(at, [check["amplifier"] for _, check in points], fontsize=6 if len(points) > 8 else 7)
    elif len(starts) <= 6:
        ends = [*starts[1:], len(groups)]
        ax.set_xticks([(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)], [groups[i] for i in starts], fontsize=7)
        ax.tick_params(axis="x", length=0)
    else:
        ax.set_xlabel("amplifier")
    ax.set_xlim(-0.7, len(points) - 0.3)
    ax.set_title(label, fontsize=9)


@styled
def draw_trends(metrics: Sequence[Metric], out: Path) -> str | None:
    """Median and range over amplifiers of each day, for metrics that have at least two days."""
    series: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for metric in metrics:
        if metric.name in TRENDS and metric.value is not None:
            series[metric.name][metric.day_obs].append(metric.value)
    shown = [name for name in TRENDS if len(series.get(name, {})) >= 2]
    if not shown:
        return None
    lines = -(-len(shown) // _COLUMNS)
    fig = figure(9.6, 2.2 * lines + 0.3)
    for k, name in enumerate(shown):
        ax = fig.add_subplot(lines, _COLUMNS, k + 1)
        days = sorted(series[name])
        dates = [datetime.strptime(str(day), "%Y%m%d").replace(tzinfo=UTC) for day in days]
        values = [series[name][day] for day in days]
        ax.fill_between(dates, [min(v) for v in values], [max(v) for v in values], color=PALE, lw=0)
        ax.plot(dates, [np.median(v) for v in values], "-o", ms=3.5, lw=1.2, color=INK)
        ax.set_title(TRENDS[name], fontsize=9)
        ax.set_xticks([dates[0], dates[-1]], [f"{day:%d %b}" for day in (dates[0], dates[-1])])
    return save(fig, out / "trends.png")


@styled
def draw_fields(documents: Sequence[Mapping[str, Any]], out: Path, name: str, at_most: int = 12) -> str | None:
    """Thumbnails of flats and other fields, by filter and detector, into NAME.png."""
    shown = sorted(documents, key=lambda d: str(d["subject"]))[:at_most]
    if not shown:
        return None
    columns = 4
    lines = -(-len(shown) // columns)
    fig = figure(9.6, 2.35 * lines + 0.2)
    for k, document in enumerate(shown):
        rows = document["thumbnail"] if "thumbnail" in document else document["summary"]["thumbnail"]
        image = np.array(rows, dtype=float)
        ax = fig.add_subplot(lines, columns, k + 1)
        low, high = np.nanpercentile(image, (2, 98))
        ax.imshow(image, cmap="gray", vmin=low, vmax=high)
        bare(ax)
        ax.set_title(f"{_subject(document['subject'])}   {low:.3g} to {high:.3g}", fontsize=8)
    return save(fig, out / f"{name}.png")


def _subject(subject: Mapping[str, Any]) -> str:
    words = [str(subject["physical_filter"])] if "physical_filter" in subject else []
    return " ".join([*words, f"det {subject['detector']}"])

"""The distribution of each stage of a night, and of the whole way from readout to alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from workflow.night.latency import OTT1_S, latency_s

_LEFT_OUT = ("wait",)  # armed before the frame came: no part of the way
_FLOOR_S = 1e-3


def plot_night(parts: Sequence[Any], figures: Mapping[str, Any], path: Path) -> None:
    """Left: each stage, its median, its middle 90 % and every part; right: from readout to alerts, as a cumulative share."""
    stages: dict[str, list[float]] = {"transfer": [p.stored - p.readout_end for p in parts if p.stored and p.readout_end]}
    for part in parts:
        for name, seconds in part.stages.items():
            if name not in _LEFT_OUT:
                stages.setdefault(name, []).append(seconds)
    stages = {name: values for name, values in stages.items() if values}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True, width_ratios=(3, 2))
    rng = np.random.default_rng(0)
    for row, values in enumerate(stages.values()):
        shown = np.maximum(np.asarray(values, float), _FLOOR_S)
        left.plot(shown, row + rng.uniform(-0.28, 0.28, len(shown)), ".", ms=2.5, color="#2f6f9f", alpha=0.35)
        low, middle, high = np.quantile(shown, [0.05, 0.5, 0.95])
        left.plot([low, high], [row, row], color="#22272b", lw=1.5)
        left.plot([middle], [row], "|", ms=12, mew=2.5, color="#d98b2b")
    left.set_yticks(range(len(stages)), list(stages))
    left.invert_yaxis()
    left.set_xscale("log")
    left.set_xlabel("seconds (points: a detector of a visit; line: middle 90 %; mark: median)")
    delays = np.sort([found for part in parts if (found := latency_s(part)) is not None])
    if len(delays):
        right.plot(delays, np.arange(1, len(delays) + 1) / len(parts), drawstyle="steps-post", color="#2f6f9f")
    right.axvline(OTT1_S, color="#b5433c", ls="--", lw=1, label=f"{OTT1_S:.0f} s")
    right.axhline(0.98, color="#66707a", ls=":", lw=1, label="98 %")
    right.set_ylim(0, 1.02)
    right.set_xlim(left=0)
    right.set_xlabel("seconds from the end of readout to alerts")
    right.set_ylabel("share of detectors of visits")
    right.legend(loc="lower right")
    figure.suptitle(
        f"{figures['night_visits']} visits, {figures['night_detectors']} detectors: {figures['night_alerts']} alerts, "
        f"{100 * figures['on_time_fraction']:.1f} % in time, {figures['lost_alerts']} lost, {figures['doubled_alerts']} doubled"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)

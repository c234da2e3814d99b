"""Plots for docs/, from what a benchmark has just measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from record import ROOT

mpl.use("Agg")
from matplotlib import pyplot as plt


def plot_throughput(steps: Sequence[dict[str, Any]], quanta: int) -> None:
    """docs/engine_throughput.png: null quanta accepted over time, and the line of 5,000 a second."""
    seconds, accepted = [0.0, *(s["s"] for s in steps)], [0, *(s["accepted"] for s in steps)]
    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    axes.plot(seconds, accepted, drawstyle="steps-post", label="accepted")
    axes.plot([0, quanta / 5000], [0, quanta], linestyle="--", color="grey", label="5,000 per second")
    axes.set_xlabel("seconds since the campaign's start")
    axes.set_ylabel("quanta accepted")
    axes.set_title(f"{quanta:,} null quanta over two pools, ledger in PostgreSQL")
    axes.legend()
    figure.savefig(ROOT / "docs" / "engine_throughput.png", dpi=120)
    plt.close(figure)

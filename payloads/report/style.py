"""How figures look: light, quiet, and readable at the size they are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, GREY, PALE = "#1c2733", "#66727f", "#e3e7ec"
TRANSIENT, MOVING, STAR, GOOD, BAD = "#d1264a", "#e08a00", "#2a6fb0", "#1d8a5b", "#c22f2f"
BANDS = {
    "u": "#6a4fb3",
    "g": "#2e8b57",
    "r": "#c8442f",
    "i": "#a0672a",
    "z": "#555f6b",
    "y": "#222222",
    "V": "#2e8b57",
    "VR": "#c8442f",
}
DPI = 150

_RC = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "image.interpolation": "nearest",
    "image.origin": "lower",
}


styled = rc_context(_RC)
"""Decorator of functions that draw: what they make has the house's style."""


def figure(width_in: float, height_in: float) -> Figure:
    """An empty figure."""
    made = Figure(figsize=(width_in, height_in), layout="constrained")
    made.get_layout_engine().set(w_pad=0.05, h_pad=0.05)
    return made


def save(fig: Figure, path: Path) -> str:
    """Write a PNG; returns its name, for the page."""
    fig.savefig(path, dpi=DPI)
    return path.name


def bare(ax: Axes) -> None:
    """An image without ticks, in a thin frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(PALE)


def sky_stretch(
    image: NDArray[np.floating], *, like: NDArray[np.floating] | None = None, softening: float = 3.0, top: float = 99.7
) -> NDArray[np.floating]:
    """An image of the sky for display, 0 to 1: asinh from just below the sky, `softening` sigma wide at its linear end.

    `like`: the image whose sky and peak set the scale, if another's; what has no data is 0.
    """
    reference = image if like is None else like
    good = reference[np.isfinite(reference)]
    if not good.size:
        return np.zeros(image.shape)
    middle, spread = np.median(good), 1.4826 * np.median(np.abs(good - np.median(good))) or 1.0
    scaled = np.arcsinh((image - middle + spread) / (softening * spread))
    high = np.arcsinh((np.percentile(good, top) - middle + spread) / (softening * spread))
    return np.clip(np.nan_to_num(scaled) / max(high, 1e-9), 0, 1)


def symmetric_limit(image: NDArray[np.floating], sigmas: float = 6.0) -> float:
    """Half width of a symmetric grey scale for a difference."""
    good = image[np.isfinite(image)]
    spread = 1.4826 * np.median(np.abs(good - np.median(good))) if good.size else 1.0
    return float(sigmas * (spread or 1.0))

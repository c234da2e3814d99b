"""Fringes: interference of the sky's emission lines in the detector, taken off each frame in proportion to its sky.

The pattern is the mean of many sky frames over their smooth sky (Gullixson 1992, ASPC 23, 130; Bernstein et al. 2017, PASP 129,
114502), or what a monochromatic flat cube says of the sky's lines (LDM-151). Its strength is fitted to every frame together with
a smooth sky.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from payloads.isr import Plane
from payloads.light import sky_pixels, smooth_surface

Image = NDArray[np.float32]
_ROUNDS = 4
_STRIP = 256


def relative_sky(image: Image, mask: NDArray[np.uint32], *, order: int = 4) -> tuple[Image, float]:
    """A sky frame over its smooth sky, less one, NaN where a source or a defect is; and its level. ValueError: too little sky."""
    good = sky_pixels(image, mask)
    sky = smooth_surface(image, good, order=order)
    level = float(np.median(sky))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(good & (sky > 0), image / sky - 1, np.float32(np.nan))
    return np.asarray(relative, dtype=np.float32), level


def fringe_pattern(mean: Image, *, smooth_px: float = 2.0) -> Image:
    """The pattern (mean 0) of a mean relative sky: NaN bridged, and smoothed by a Gaussian of `smooth_px`, far below a fringe."""
    known = np.isfinite(mean)
    weight = ndimage.gaussian_filter(known.astype(np.float32), smooth_px)
    value = ndimage.gaussian_filter(np.where(known, mean, np.float32(0)), smooth_px)
    pattern = np.where(weight > 1e-3, value / np.maximum(weight, 1e-3), np.float32(0))
    return np.asarray(pattern - np.median(pattern), dtype=np.float32)


def fringe_amplitude(image: Image, mask: NDArray[np.uint32], pattern: Image, *, clip: float = 3.0) -> float:
    """How strong the pattern is in a frame, in the frame's unit: least squares with a surface of second order, clipped.

    NaN where there is too little sky, or no pattern.
    """
    good = sky_pixels(image, mask) & np.isfinite(pattern)
    step = max(1, int(np.sqrt(image.size / 1_000_000)))
    rows, columns = np.nonzero(good[::step, ::step])
    if len(rows) < 1000 or not np.any(pattern):
        return float("nan")
    y, x = (2.0 * step * at / n - 1 for at, n in zip((rows, columns), image.shape, strict=True))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, pattern[::step, ::step][rows, columns]], axis=1)
    values = image[::step, ::step][rows, columns].astype(np.float64)
    kept = np.ones(len(values), dtype=bool)
    for _ in range(_ROUNDS):
        fit, *_ = np.linalg.lstsq(terms[kept], values[kept], rcond=None)
        residual = values - terms @ fit
        kept = np.abs(residual) <= clip * residual[kept].std()
    return float(fit[-1])


def subtract_fringes(plane: Plane, pattern: Image) -> tuple[Plane, float]:
    """The frame without fringes, and their amplitude (0 where it could not be fitted, and nothing is taken off)."""
    amplitude = fringe_amplitude(plane.data, plane.mask, pattern)
    if not np.isfinite(amplitude):
        return plane, 0.0
    return replace(plane, data=plane.data - np.float32(amplitude) * pattern), amplitude


def take_off_fringes(plane: Plane, pattern: NDArray[np.floating]) -> float:
    """The same in the frame's own array, where seconds and memory count; returns the amplitude.

    It is fitted to a quarter of a million pixels, each some way from the next: fringes are tens of pixels wide.
    """
    some = (slice(None, None, max(1, int(np.sqrt(plane.data.size / 250_000)))),) * 2
    image, at = np.ascontiguousarray(plane.data[some]), pattern[some].astype(np.float32)
    amplitude = fringe_amplitude(image, plane.mask[some], at)
    if not np.isfinite(amplitude):
        return 0.0
    for first in range(0, len(pattern), _STRIP):
        rows = slice(first, first + _STRIP)
        plane.data[rows] -= np.float32(amplitude) * pattern[rows].astype(np.float32)
    return amplitude

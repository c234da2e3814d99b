"""Spectra of single stars without a slit: from the frame (electrons) to electrons at wavelengths.

The star's light runs along the rows, the dispersion along x is known from the camera's description but for where the star stood:
that is told by the oxygen of the air, whose A band is at 762 nm in every spectrum (as Spectractor does: Neveu et al. 2024,
A&A 684, A21). Sums over an aperture along the trace, above a background that is linear across it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from payloads.atmosphere import bands, binned
from payloads.camera import Dispersion
from payloads.overscan import FrameUnusable

Floats = NDArray[np.float64]
APERTURE_PX, _SKY_PX = 12.0, 16.0
_CHUNKS = 16
_A_BAND = (738.0, 790.0)
_SHIFTS_PX = np.arange(-15.0, 15.01, 0.5)
_CONTRAST = 25.0  # by which chi squared must be better where the band is than where it is not
_LEAST_SIGNAL = 500.0  # electron per column, a median


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Electrons of each column (nx,) with their variance (infinite where a pixel is unusable), and the star's width in px."""

    signal: Floats
    variance: Floats
    sigma_px: float


def extract(image: NDArray[np.floating], unusable: NDArray[np.bool_], read_noise: float) -> Trace:
    """Of a frame (ny, nx) in electrons, overscan taken off; FrameUnusable where there is no spectrum in it."""
    ny = len(image)
    image = np.where(unusable, np.nan, image).astype(np.float64)
    y = np.arange(ny, dtype=np.float64)
    profile = gaussian_filter1d(np.nan_to_num(_median(image, axis=1)), 2.0)
    middle = float(np.argmax(profile))
    if not APERTURE_PX + 4 < middle < ny - APERTURE_PX - 4:
        raise FrameUnusable(f"its spectrum, at row {middle:.0f} of {ny}, is too near the edge: point the star to the middle")
    sky, sky_count = _background(image, np.abs(y - middle) > _SKY_PX)
    above = image - sky
    trace = _trace(above, middle)
    inside = np.clip(APERTURE_PX + 0.5 - np.abs(y[:, None] - trace), 0, 1)
    signal = (np.nan_to_num(above) * inside).sum(axis=0)
    if np.median(signal) < _LEAST_SIGNAL:
        raise FrameUnusable(f"its spectrum has {np.median(signal):.0f} electrons a column, fewer than {_LEAST_SIGNAL:.0f}")
    pixels = inside.sum(axis=0)
    of_sky = np.maximum(sky, 0) + read_noise**2
    variance = np.maximum(signal, 0) + (of_sky * inside**2).sum(axis=0) + pixels**2 * of_sky.mean(axis=0) / sky_count
    variance[(unusable & (inside > 0)).any(axis=0)] = np.inf
    near = np.abs(y[:, None] - trace) <= 0.75 * APERTURE_PX
    second = np.nansum(above * near * (y[:, None] - trace) ** 2) / np.nansum(above * near)
    return Trace(signal=signal, variance=variance, sigma_px=float(np.sqrt(max(second, 0.25))))


def _median(values: Floats, axis: int | None = None) -> Any:
    """Of those that are numbers."""
    return np.nanmedian(values, axis=axis) if np.isnan(values).any() else np.median(values, axis=axis)


def _background(image: Floats, of_sky: NDArray[np.bool_]) -> tuple[Floats, int]:
    """Linear in y, of each column, from the rows of the sky without outliers; and how many rows these are."""
    y = np.arange(len(image), dtype=np.float64)
    rows = image[of_sky]
    level = _median(rows, axis=0)
    width = 1.4826 * _median(np.abs(rows - level))
    rows = np.where(np.abs(rows - level) < 5 * width, rows, level)
    offset, slope = np.polynomial.polynomial.polyfit(y[of_sky], rows, 1)
    return offset + slope * y[:, None], int(of_sky.sum())


def _trace(above: Floats, middle: float) -> Floats:
    """Row of the star in each column (nx,): centroids of chunks of columns, and a parabola through them."""
    ny, nx = above.shape
    y, edges = np.arange(ny, dtype=np.float64), np.linspace(0, nx, _CHUNKS + 1).astype(int)
    at, rows, weights = [], [], []
    for first, last in pairwise(edges):
        profile = _median(above[:, first:last], axis=1)
        profile = np.where(np.abs(y - middle) <= APERTURE_PX, np.maximum(np.nan_to_num(profile), 0), 0)
        if profile.sum() > 0:
            at.append(0.5 * (first + last - 1))
            rows.append(float((profile * y).sum() / profile.sum()))
            weights.append(float(np.sqrt(profile.sum())))
    return np.asarray(np.polynomial.polynomial.polyval(np.arange(nx), np.polynomial.polynomial.polyfit(at, rows, 2, w=weights)))


def oxygen_shift(trace: Trace, dispersion: Dispersion, airmass: float, pressure_hpa: float) -> float:
    """By how many px the spectrum lies further along x than the description says; FrameUnusable where no A band is found."""
    chi2 = np.array([_misfit(trace, dispersion, shift, airmass, pressure_hpa) for shift in _SHIFTS_PX])
    best = int(np.argmin(chi2))
    if not 0 < best < len(chi2) - 1 or np.median(chi2) - chi2[best] < _CONTRAST:
        raise FrameUnusable("the oxygen band at 762 nm was not found in it: no spectrum, or of a star too far from its place")
    left, middle, right = chi2[best - 1 : best + 2]
    return float(_SHIFTS_PX[best] + 0.5 * (left - right) / (left - 2 * middle + right) * (_SHIFTS_PX[1] - _SHIFTS_PX[0]))


def _misfit(trace: Trace, dispersion: Dispersion, shift: float, airmass: float, pressure_hpa: float) -> float:
    """Chi squared of a parabola times the band, around it."""
    nm = dispersion.nm(np.arange(len(trace.signal)) - shift)
    window = (nm > _A_BAND[0]) & (nm < _A_BAND[1]) & np.isfinite(trace.variance)
    if window.sum() < 20:
        return np.inf
    fine = np.arange(_A_BAND[0] - 20, _A_BAND[1] + 20, 0.5)
    step = dispersion.nm_per_px
    band = gaussian_filter1d(bands(fine, airmass, pressure_hpa, 0.0), trace.sigma_px * step / 0.5)
    x, sigma = (nm[window] - 762.0) / 20.0, np.sqrt(trace.variance[window])
    model = np.stack([x**k for k in range(3)], axis=1) * (np.interp(nm[window], fine, band) / sigma)[:, None]
    target = trace.signal[window] / sigma
    fit = np.linalg.solve(model.T @ model, model.T @ target)
    return float(((target - model @ fit) ** 2).sum())


def at_wavelengths(trace: Trace, dispersion: Dispersion, shift: float) -> tuple[Floats, Floats]:
    """Signal (electrons per nm) and variance in the bins of `payloads.atmosphere`; infinite variance where there is none."""
    edges = dispersion.nm(np.arange(len(trace.signal) + 1) - 0.5 - shift)
    lost = ~np.isfinite(trace.variance)
    signal = binned(edges, np.where(lost, 0.0, trace.signal))
    variance = binned(edges, np.where(lost, 0.0, trace.variance)) / 5.0
    touched = binned(edges, lost.astype(float)) > 0
    return signal, np.where(touched | ~np.isfinite(signal), np.inf, variance)

"""Shapes of DIASources: second moments, how much more extended than a point, the length of a trail."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import ndtr

from payloads.kernel import SIGMA_PER_FWHM
from payloads.kernel_field import Floats


def add_moments(table: Table, data: Floats, psf: Floats, fit: dict[str, Floats], fwhm_px: float) -> None:
    """Put into `table` Gaussian-weighted second moments of source and PSF [px^2] with the weight's own size divided out,
    extendedness and trail. Stamps `data`, `psf` (n, k, k); `fit` has the offsets `dx`, `dy` from the middle pixel.

    The weight is as wide as the PSF; M = (M_w^-1 - W^-1)^-1 undoes it, exactly for Gaussians. `extendedness` is the logistic of
    the excess of size over the PSF's in units of its error (0 point, 1 extended), taken from the moments under the weight: these
    scatter evenly, while undoing it stretches what noise makes large.
    """
    sigma = fwhm_px * SIGMA_PER_FWHM
    seen, bad = _weighted_moments(data, fit["dx"], fit["dy"], sigma)
    seen_psf, _ = _weighted_moments(psf, np.zeros(len(psf)), np.zeros(len(psf)), sigma)
    source, point = _unweighted(seen, sigma, bad), _unweighted(seen_psf, sigma, np.zeros(len(psf), bool))
    noise = 2 * _ratio(table["psfFluxErr"], np.abs(table["psfFlux"]))
    # Of a Gaussian slightly wider than the weight, half of the growth is seen under it.
    excess = 2 * (_ratio(np.trace(seen, axis1=1, axis2=2), np.trace(seen_psf, axis1=1, axis2=2)) - 1)
    doubt = np.clip((excess - 0.15) / np.hypot(noise, 0.05) - 2, -30, 30)
    table["extendedness"] = np.where(bad, 1.0, 1 / (1 + np.exp(-doubt))).astype(np.float32)
    for name, (i, j) in {"ixx": (0, 0), "iyy": (1, 1), "ixy": (0, 1)}.items():
        table[name] = source[:, i, j]
        table[f"{name}PSF"] = point[:, i, j]
    values, vectors = np.linalg.eigh(seen - seen_psf)
    error = noise * sigma**2 / 2
    long = (values[:, 1] > 5 * error) & (values[:, 1] > 3 * np.abs(values[:, 0])) & (values[:, 1] > 0.1 * sigma**2)
    table["trailLengthPx"] = np.where(long, _trail_length(values[:, 1], sigma), 0)
    table["trailAngle"] = np.degrees(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1])) % 180


def _trail_length(growth: Floats, sigma: float) -> Floats:
    """Length of a trail whose weighted moment along itself exceeds the PSF's by `growth`; PSF and weight: Gaussians of `sigma`.

    Under the weight a trail is a truncated normal distribution of variance 2 sigma^2, seen at half scale.
    """
    a = np.linspace(0.01, 4, 400)
    variance = 1 - 2 * a * np.exp(-0.5 * a * a) / np.sqrt(2 * np.pi) / (2 * ndtr(a) - 1)
    return 2 * np.sqrt(2) * sigma * np.interp(4 * growth / (2 * sigma**2), variance, a)


def _weighted_moments(stamps: Floats, dx: Floats, dy: Floats, sigma: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Moment matrices (n, 2, 2) in (x, y) under a Gaussian weight, and where they mean nothing (not positive)."""
    half = stamps.shape[-1] // 2
    t = np.arange(-half, half + 1.0)
    x, y = t[None, None, :] - dx[:, None, None], t[None, :, None] - dy[:, None, None]
    weighted = stamps * np.exp(-0.5 * (x**2 + y**2) / sigma**2)
    total = weighted.sum((1, 2))
    seen = np.empty((len(stamps), 2, 2))
    for (i, j), product in {(0, 0): x * x, (1, 1): y * y, (0, 1): x * y}.items():
        seen[:, i, j] = seen[:, j, i] = _ratio((weighted * product).sum((1, 2)), total)
    return seen, ~(np.linalg.eigvalsh(seen)[:, 0] > 0)


def _unweighted(seen: Floats, sigma: float, bad: NDArray[np.bool_]) -> Floats:
    """Moments without the weight; where they mean nothing, or are as wide as the weight lets them be, the weight's."""
    inverse = np.linalg.pinv(np.where(bad[:, None, None], np.eye(2), seen)) - np.eye(2) / sigma**2
    wide = bad | ~(np.linalg.eigvalsh(inverse)[:, 0] > 0.02 / sigma**2)
    inverse[wide] = np.eye(2) / sigma**2 * np.where(bad[wide], 1.0, 0.02)[:, None, None]
    return np.linalg.inv(inverse)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Top / bottom, zero where the bottom is zero."""
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)

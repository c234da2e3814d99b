"""DIASources: what a difference image shows, positive and negative, with PSF photometry and shapes.

Detection is on the matched-filter score (the signal-to-noise of a point source at every pixel), whose width on blank sky is
measured and divided out, so that "5 sigma" means that. Around stars the subtraction is never perfect: a systematic error, a
fraction of the star's flux measured on the image itself, is added to the variance there. How much a source is to be believed is
payloads/reliability.py's business.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntFlag

import numpy as np
import sep
from astropy.table import Table, vstack
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree

from payloads.dia_moments import add_moments
from payloads.dia_score import STRIP_PX, UNDETECTABLE, DiaSourceConfig, Score, find_peaks, noise_of_rows, resized
from payloads.difference import Difference
from payloads.kernel_field import Floats, KernelField
from payloads.mask import Mask, any_set
from payloads.psf import PsfModel


class SourceFlag(IntFlag):
    """`flags` of a DIASource: the bits of payloads.mask.Mask seen in its core, and from bit 16 what went wrong in measuring."""

    CENTROID_FAILED = 1 << 16  # the fit ran away; the position is the peak's
    TRUNCATED = 1 << 17  # part of the core is off the image or unusable
    NEAR_SATURATED = 1 << 18  # a saturated pixel within two FWHM
    OPPOSITE_NEIGHBOUR = 1 << 19  # a source of the other sign close by, not merged into a dipole


def detect(difference: Difference, fwhm_px: float, config: DiaSourceConfig | None = None) -> tuple[Table, Score]:
    """Find and measure all sources of a difference; a table in pixels and the image's units, in order of (y, x), and the score.

    A positive and a negative peak close together are one source, a dipole, at the stronger one's place.
    """
    config = config or DiaSourceConfig()
    found, score = find_peaks(difference, fwhm_px, config)
    px, py, value = found.x, found.y, found.value
    keep, dipole, opposite = _pair(px, py, value, fwhm_px, config)
    order = np.lexsort((px[keep], py[keep]))
    keep = keep[order]
    table = measure(difference, score, px[keep], py[keep], fwhm_px, config)
    # A source between pixels has its peak between them: the fit says what it amounts to.
    sign = np.sign(value[keep])
    fitted = np.where(table["flags"] & SourceFlag.CENTROID_FAILED, 0, sign * _ratio(table["psfFlux"], table["psfFluxErr"]))
    strength = np.maximum(np.abs(value[keep]), fitted)
    table["snr"] = (sign * strength).astype(np.float32)
    table["isNegative"] = value[keep] < 0
    table["isDipole"] = dipole[keep]
    table["oppositeRatio"] = opposite[keep].astype(np.float32)
    table["flags"] |= np.where((opposite[keep] > 0) & ~dipole[keep], np.int64(SourceFlag.OPPOSITE_NEIGHBOUR), 0)
    return table[strength >= config.threshold_snr], score


def _pair(px, py, value, fwhm_px: float, config: DiaSourceConfig):
    """(indices of peaks to keep, is dipole, |score| of the strongest neighbour of the other sign as a share of its own)."""
    n = len(px)
    dipole, dropped, opposite = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n)
    if n:
        pairs = cKDTree(np.c_[px, py]).query_pairs(config.opposite_fwhm * fwhm_px, output_type="ndarray")
        pairs = np.sort(pairs[value[pairs[:, 0]] * value[pairs[:, 1]] < 0], axis=1)  # peaks come strongest first
        share = np.abs(value[pairs[:, 1]] / value[pairs[:, 0]])
        np.maximum.at(opposite, pairs[:, 0], share)
        np.maximum.at(opposite, pairs[:, 1], 1 / share)
        near = np.hypot(*(np.c_[px, py][pairs[:, 0]] - np.c_[px, py][pairs[:, 1]]).T) < config.pair_fwhm * fwhm_px
        merge = pairs[near & (share > config.pair_ratio)]
        dipole[merge[:, 0]] = True
        dropped[merge[:, 1]] = True
    return np.flatnonzero(~dropped), dipole, opposite


def measure(difference: Difference, score: Score, px, py, fwhm_px: float, config: DiaSourceConfig) -> Table:
    """PSF fit (flux, position), aperture flux, moments and pixel statistics of the sources whose peaks are at (px, py), in order
    of py."""
    reach = int(np.ceil((2 * config.max_drift_fwhm + config.aperture_fwhm) * fwhm_px)) + 3
    tables, ny = [], len(score.unusable)
    for first in range(0, ny, STRIP_PX):
        here = (py >= first) & (py < first + STRIP_PX)
        if here.any() or (not len(py) and not first):
            rows = max(0, first - reach), min(first + STRIP_PX + reach, ny)
            tables.append(_measure_rows(difference, score, rows, px[here], py[here], fwhm_px, config))
    return tables[0] if len(tables) == 1 else vstack(tables)


def _measure_rows(
    difference: Difference, score: Score, rows: tuple[int, int], px, py, fwhm_px: float, config: DiaSourceConfig
) -> Table:
    """The same for the sources of a strip of the image, of which rows (first, end) hold all that is looked at."""
    part = slice(*rows)
    half = int(np.ceil(2 * fwhm_px))
    spread = noise_of_rows(difference, score.systematic, score.width, rows, config)
    cut = _Cutter(spread.shape, px, py - rows[0], half)
    data, variance = cut(difference.data[part]), cut(spread)
    bits = cut(difference.mask[part], outside=int(Mask.NO_DATA))
    usable = ~any_set(bits, UNDETECTABLE, bits.shape)
    t = np.arange(-half, half + 1)
    core = np.hypot(t[None, :], t[:, None]) <= config.core_fwhm * fwhm_px
    weight = np.where(usable & core, 1 / np.where(usable, variance, 1), 0)
    psf = resized(difference.psf.at(px, py), half) if len(px) else np.zeros((0, 2 * half + 1, 2 * half + 1))
    fit = _fit_point_source(data, weight, psf, fwhm_px, config)
    x, y = px + fit["dx"], py + fit["dy"]
    model = fit["model"]
    flux, flux_error = fit["flux"], fit["flux_error"]
    pixels = (weight > 0).sum(axis=(1, 2))
    chi2 = (weight * (data - flux[:, None, None] * model) ** 2).sum(axis=(1, 2))
    inside = np.where(core, np.maximum(model, 0), 0)
    share = inside / np.maximum(inside.sum(axis=(1, 2), keepdims=True), 1e-30)
    sigma = np.sqrt(np.where(usable, variance, np.inf))
    strong = np.where(core & (np.abs(data) > 2 * sigma), data, 0)
    near_saturated = any_set(bits, Mask.SAT, bits.shape).any(axis=(1, 2))
    flags = np.bitwise_or.reduce(np.where(core, bits, 0), axis=(1, 2)).astype(np.int64)
    flags |= np.where(fit["ran_away"], np.int64(SourceFlag.CENTROID_FAILED), 0)
    flags |= np.where((share * usable).sum(axis=(1, 2)) < 0.95, np.int64(SourceFlag.TRUNCATED), 0)
    flags |= np.where(near_saturated, np.int64(SourceFlag.NEAR_SATURATED), 0)
    table = Table(
        {
            "x": x,
            "y": y,
            "xErr": fit["x_error"],
            "yErr": fit["y_error"],
            "psfFlux": flux,
            "psfFluxErr": flux_error,
            "psfChi2": chi2,
            "psfNdata": pixels,
            "badFraction": (share * ~usable).sum(axis=(1, 2)),
            "suspectFraction": (share * any_set(bits, Mask.SUSPECT | Mask.INTERP | Mask.EDGE, bits.shape)).sum(axis=(1, 2)),
            "sumRatio": np.abs(strong.sum(axis=(1, 2))) / np.maximum(np.abs(strong).sum(axis=(1, 2)), 1e-30),
            "flags": flags,
        }
    )
    planes = (difference.data[part], spread, score.unusable[part])
    table["apFlux"], table["apFluxErr"] = _aperture(*planes, x, y - rows[0], config.aperture_fwhm * fwhm_px)
    noise = noise_of_rows(difference, 0.0, 1.0, rows, replace(config, shift_px=0.0))
    plain = np.where(usable & core, 1 / np.where(usable, cut(noise), 1), 0)
    own = model
    if difference.science_psf is not None:
        own = shift(resized(difference.science_psf.at(px, py), half), fit["dx"], fit["dy"])
    highest = np.maximum(model.max(axis=(1, 2), initial=0), 1e-30)
    table["peakRatio"] = _ratio(np.where(usable & core, np.abs(data), 0).max(axis=(1, 2), initial=0), np.abs(flux) * highest)
    # Of the brightest star around, were it a star: what a poor subtraction's residual goes with.
    table["starFlux"] = cut(difference.matched_template[part]).max(axis=(1, 2), initial=0) / highest
    for name, image, shape in (("science", difference.science, own), ("template", difference.matched_template, model)):
        table[f"{name}Flux"], table[f"{name}FluxErr"] = _forced(cut(image[part]), plain, shape)
    add_moments(table, np.where(usable, data, flux[:, None, None] * model), psf, fit, fwhm_px)
    return table


class _Cutter:
    """Stamps (n, k, k) of images of one shape around given pixels; pixels outside the image get `outside`."""

    def __init__(self, shape: tuple[int, int], px, py, half: int) -> None:
        t = np.arange(-half, half + 1)
        rows, columns = np.asarray(py)[:, None, None] + t[None, :, None], np.asarray(px)[:, None, None] + t[None, None, :]
        self._off = (rows < 0) | (rows >= shape[0]) | (columns < 0) | (columns >= shape[1])
        self._index = np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1)

    def __call__(self, image: NDArray, outside: float = 0) -> NDArray:
        return np.where(self._off, image.dtype.type(outside), image[self._index])


def _fit_point_source(data: Floats, weight: Floats, psf: Floats, fwhm_px: float, config: DiaSourceConfig) -> dict[str, Floats]:
    """Gauss-Newton for flux and position of each stamp at once; positions start at the peak."""
    n, size = len(data), data.shape[1] * data.shape[2]
    dx, dy = np.zeros(n), np.zeros(n)
    limit = config.max_drift_fwhm * fwhm_px
    for _ in range(config.fit_rounds):
        model = shift(psf, dx, dy)
        by, bx = np.gradient(model, axis=(1, 2))
        flux = _ratio((weight * model * data).sum((1, 2)), (weight * model**2).sum((1, 2)))
        basis = np.stack([model, -flux[:, None, None] * bx, -flux[:, None, None] * by], axis=1).reshape(n, 3, size)
        weighted = basis * weight.reshape(n, 1, size)
        normal = weighted @ basis.transpose(0, 2, 1)
        scale = np.sqrt(np.maximum(np.einsum("nii->ni", normal), 1e-30))
        matrix = normal / scale[:, :, None] / scale[:, None, :] + 1e-3 * np.eye(3)
        step = np.linalg.solve(matrix, (weighted @ data.reshape(n, size, 1)) / scale[:, :, None])[:, :, 0] / scale
        dx, dy = (
            np.clip(dx + np.clip(step[:, 1], -0.5, 0.5), -2 * limit, 2 * limit),
            np.clip(dy + np.clip(step[:, 2], -0.5, 0.5), -2 * limit, 2 * limit),
        )
    ran_away = (np.hypot(dx, dy) > limit) | ~np.isfinite(dx + dy)
    dx, dy = np.where(ran_away, 0, dx), np.where(ran_away, 0, dy)
    model = shift(psf, dx, dy)
    by, bx = np.gradient(model, axis=(1, 2))
    square = (weight * model**2).sum((1, 2))
    flux = _ratio((weight * model * data).sum((1, 2)), square)
    absolute = np.maximum(np.abs(flux), 1e-30)
    return {
        "dx": dx,
        "dy": dy,
        "ran_away": ran_away,
        "model": model,
        "flux": flux,
        "flux_error": _ratio(np.ones(n), np.sqrt(square)),
        "x_error": _ratio(np.ones(n), absolute * np.sqrt((weight * bx**2).sum((1, 2)))),
        "y_error": _ratio(np.ones(n), absolute * np.sqrt((weight * by**2).sum((1, 2)))),
    }


def shift(stamps: Floats, dx: Floats, dy: Floats) -> Floats:
    """Stamps (n, k, k) moved by subpixel amounts (dx, dy), by the Fourier shift theorem."""
    k = stamps.shape[-1]
    if not len(stamps):
        return stamps
    fy, fx = np.fft.fftfreq(k), np.fft.rfftfreq(k)
    phase = np.exp(
        -2j * np.pi * (fy[None, :, None] * np.asarray(dy)[:, None, None] + fx[None, None, :] * np.asarray(dx)[:, None, None])
    )
    return fft.irfft2(fft.rfft2(stamps) * phase, s=(k, k))


def _forced(data: Floats, weight: Floats, model: Floats) -> tuple[Floats, Floats]:
    square = (weight * model**2).sum((1, 2))
    return _ratio((weight * model * data).sum((1, 2)), square), _ratio(np.ones(len(data)), np.sqrt(square))


def _aperture(
    data: Floats, variance: Floats, unusable: NDArray[np.bool_], x: Floats, y: Floats, radius_px: float
) -> tuple[Floats, Floats]:
    if not len(x):
        return np.zeros(0), np.zeros(0)
    flux, error, _ = sep.sum_circle(np.ascontiguousarray(data, np.float32), x, y, radius_px, var=variance, mask=unusable)
    return flux, error


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Top / bottom, zero where the bottom is zero."""
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


def psf_field(model: PsfModel, shape: tuple[int, int], order: int = 2) -> KernelField:
    """The PSF of a frame of `shape` (ny, nx) as a field that images can be convolved with."""
    t = np.linspace(0, 1, 5)
    x, y = (g.ravel() for g in np.meshgrid(t * (shape[1] - 1), t * (shape[0] - 1)))
    return KernelField.from_samples(x, y, model.stamps(x, y), order, shape)

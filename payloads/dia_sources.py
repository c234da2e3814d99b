"""DIASources: what a difference image shows, positive and negative, with PSF photometry and shapes.

Detection is on the matched-filter score (the signal-to-noise of a point source at every pixel), whose width on blank sky is
measured and divided out, so that "5 sigma" means that. Around stars the subtraction is never perfect: a systematic error, a
fraction of the star's flux measured on the image itself, is added to the variance there. How much a source is to be believed is
payloads/reliability.py's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree
from scipy.stats import norm

from payloads.difference import Difference
from payloads.kernel import SIGMA_PER_FWHM
from payloads.kernel_field import Floats, KernelField
from payloads.mask import Mask, any_set
from payloads.psf import PsfModel

UNDETECTABLE = Mask.BAD | Mask.SAT | Mask.CR | Mask.NO_DATA


class SourceFlag(IntFlag):
    """`flags` of a DIASource: the bits of payloads.mask.Mask seen in its core, and from bit 16 what went wrong in measuring."""

    CENTROID_FAILED = 1 << 16  # the fit ran away; the position is the peak's
    TRUNCATED = 1 << 17  # part of the core is off the image or unusable
    NEAR_SATURATED = 1 << 18  # a saturated pixel within two FWHM
    OPPOSITE_NEIGHBOUR = 1 << 19  # a source of the other sign close by, not merged into a dipole


@dataclass(frozen=True, kw_only=True)
class DiaSourceConfig:
    """How sources are found and measured; lengths in FWHM of the difference's PSF."""

    threshold_snr: float = 5.0
    systematic_floor: float = 0.003  # fraction of the subtracted flux that is error however good the residuals look
    systematic_ceiling: float = 0.05
    coherence: float = 2.0  # residuals of neighbouring pixels go together: what is measured per pixel counts this much more
    shift_px: float = 0.03  # astrometric scatter between the images: error = shift * gradient of the template
    core_fwhm: float = 1.25  # radius of the pixels that are fitted and counted
    aperture_fwhm: float = 2.0
    fit_rounds: int = 4
    max_drift_fwhm: float = 0.8  # a centroid farther than this from its peak is not believed
    pair_fwhm: float = 2.0  # a positive and a negative peak nearer than this may be one dipole
    pair_ratio: float = 0.3  # … if the weaker has at least this share of the stronger's score
    opposite_fwhm: float = 3.5
    max_sources: int = 20_000


@dataclass(frozen=True)
class Score:
    """Signal-to-noise of a point source at each pixel, and how it was made."""

    image: Floats  # (ny, nx), zero where nothing can be said
    variance: Floats  # of pixels, systematic error included, in units in which `image` has width 1 on blank sky
    unusable: NDArray[np.bool_]
    width: float  # what the score's width was before it was divided by it
    systematic: float  # fraction of the subtracted flux taken for error


def score_image(difference: Difference, fwhm_px: float, config: DiaSourceConfig) -> Score:
    """The matched-filter score: sum of PSF * D / V over the square root of sum of PSF^2 / V."""
    unusable = any_set(difference.mask, UNDETECTABLE, difference.data.shape)
    systematic = systematic_fraction(difference, unusable, config)
    star = np.maximum(difference.matched_template, 0)
    slope = np.hypot(*np.gradient(star))
    variance = difference.variance + (config.coherence * systematic * star) ** 2 + (config.shift_px * slope) ** 2
    weight = np.where(unusable, 0, 1 / variance).astype(np.float32)
    top = difference.psf.transposed().convolve(difference.data * weight)
    square = difference.psf.map(lambda stamps, _x, _y: stamps**2).transposed()
    bottom = square.convolve(weight)
    whole = float((difference.psf.at(*_centre(difference.data.shape)) ** 2).sum()) * weight
    seen = (bottom > 0.3 * ndimage.maximum_filter(whole, size=3)) & (bottom > 0)
    score = np.where(seen, top / np.sqrt(np.maximum(bottom, 1e-30)), 0)
    blank = (
        seen & ~unusable & (star < 2 * np.sqrt(difference.variance)) & (np.abs(score) < 4) & ~_border(score.shape, 2 * fwhm_px)
    )
    if blank.sum() < 100:
        blank = seen & ~unusable
    middle = float(np.median(score[blank])) if blank.any() else 0.0
    width = max(float(1.4826 * np.median(np.abs(score[blank] - middle))), 1e-6) if blank.any() else 1.0
    return Score(
        np.where(seen, score / width, 0).astype(np.float32), variance * np.float32(width**2), unusable, width, systematic
    )


def systematic_fraction(difference: Difference, unusable: NDArray[np.bool_], config: DiaSourceConfig) -> float:
    """Residual error of bright unsaturated stars as a fraction of their flux, from the median excess of D^2 over the variance."""
    star = difference.matched_template
    bright = (
        ~unusable & ~any_set(difference.mask, Mask.SUSPECT | Mask.EDGE, star.shape) & (star > 30 * np.sqrt(difference.variance))
    )
    if bright.sum() < 50:
        return config.systematic_floor
    ratio = np.median((difference.data[bright] / star[bright]) ** 2) / 0.4549 - np.median(
        difference.variance[bright] / star[bright] ** 2
    )
    return float(np.clip(np.sqrt(max(ratio, 0)), config.systematic_floor, config.systematic_ceiling))


def find_peaks(score: Floats, threshold: float, fwhm_px: float) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Pixels (x, y) where the score or its negative is highest within 0.75 FWHM and at least `threshold`, strongest first."""
    size = 2 * max(1, round(0.75 * fwhm_px)) + 1
    high = (score >= threshold) & (score == ndimage.maximum_filter(score, size=size))
    low = (score <= -threshold) & (score == ndimage.minimum_filter(score, size=size))
    y, x = np.nonzero(high | low)
    order = np.argsort(-np.abs(score[y, x]), kind="stable")
    return x[order], y[order]


def detect(difference: Difference, fwhm_px: float, config: DiaSourceConfig | None = None) -> tuple[Table, Score]:
    """Find and measure all sources of a difference; a table in pixels and the image's units, in order of (y, x), and the score.

    A positive and a negative peak close together are one source, a dipole, at the stronger one's place.
    """
    config = config or DiaSourceConfig()
    score = score_image(difference, fwhm_px, config)
    px, py = find_peaks(score.image, config.threshold_snr, fwhm_px)
    px, py = px[: config.max_sources], py[: config.max_sources]
    value = score.image[py, px]
    keep, dipole, opposite = _pair(px, py, value, fwhm_px, config)
    order = np.lexsort((px[keep], py[keep]))
    keep = keep[order]
    table = measure(difference, score, px[keep], py[keep], fwhm_px, config)
    table["snr"] = value[keep].astype(np.float32)
    table["isNegative"] = value[keep] < 0
    table["isDipole"] = dipole[keep]
    table["oppositeRatio"] = opposite[keep].astype(np.float32)
    table["flags"] |= np.where((opposite[keep] > 0) & ~dipole[keep], np.int64(SourceFlag.OPPOSITE_NEIGHBOUR), 0)
    return table, score


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
    """PSF fit (flux, position), aperture flux, moments and pixel statistics of the sources whose peaks are at (px, py)."""
    half = int(np.ceil(2 * fwhm_px))
    cut = _Cutter(difference.data.shape, px, py, half)
    data, variance = cut(difference.data), cut(score.variance)
    bits = cut(difference.mask, outside=int(Mask.NO_DATA))
    usable = ~any_set(bits, UNDETECTABLE, bits.shape)
    t = np.arange(-half, half + 1)
    core = np.hypot(t[None, :], t[:, None]) <= config.core_fwhm * fwhm_px
    weight = np.where(usable & core, 1 / np.where(usable, variance, 1), 0)
    psf = _resized(difference.psf.at(px, py), half) if len(px) else np.zeros((0, 2 * half + 1, 2 * half + 1))
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
    table["apFlux"], table["apFluxErr"] = _aperture(difference.data, score, x, y, config.aperture_fwhm * fwhm_px)
    plain = np.where(usable & core, 1 / np.where(usable, cut(difference.variance), 1), 0)
    for name, image in (("science", difference.science), ("template", difference.matched_template)):
        table[f"{name}Flux"], table[f"{name}FluxErr"] = _forced(cut(image), plain, model)
    _moments(table, np.where(usable, data, flux[:, None, None] * model), psf, fit, fwhm_px)
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


def _moments(table: Table, data: Floats, psf: Floats, fit: dict[str, Floats], fwhm_px: float) -> None:
    """Gaussian-weighted second moments of source and PSF [px^2] with the weight's own size divided out; extendedness and trail.

    The weight is as wide as the PSF; M = (M_w^-1 - W^-1)^-1 undoes it, exactly for Gaussians. `extendedness` is the logistic of
    the excess of size over the PSF's in units of its error (0 point, 1 extended).
    """
    sigma = fwhm_px * SIGMA_PER_FWHM
    seen, bad = _weighted_moments(data, fit["dx"], fit["dy"], sigma)
    seen_psf, _ = _weighted_moments(psf, np.zeros(len(psf)), np.zeros(len(psf)), sigma)
    source, point = _unweighted(seen, sigma, bad), _unweighted(seen_psf, sigma, np.zeros(len(psf), bool))
    noise = 2 * _ratio(table["psfFluxErr"], np.abs(table["psfFlux"]))
    excess = _ratio(np.trace(source, axis1=1, axis2=2), np.trace(point, axis1=1, axis2=2)) - 1
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
    variance = 1 - 2 * a * norm.pdf(a) / (2 * norm.cdf(a) - 1)
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


def _aperture(data: Floats, score: Score, x: Floats, y: Floats, radius_px: float) -> tuple[Floats, Floats]:
    if not len(x):
        return np.zeros(0), np.zeros(0)
    flux, error, _ = sep.sum_circle(
        np.ascontiguousarray(data, np.float32),
        x,
        y,
        radius_px,
        var=np.ascontiguousarray(score.variance, np.float32),
        mask=score.unusable,
    )
    return flux, error


def _resized(stamps: Floats, half: int) -> Floats:
    """Stamps cut or padded with zeros to half size `half`."""
    own = stamps.shape[-1] // 2
    if own >= half:
        return stamps[:, own - half : own + half + 1, own - half : own + half + 1]
    grow = half - own
    return np.pad(stamps, ((0, 0), (grow, grow), (grow, grow)))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Top / bottom, zero where the bottom is zero."""
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


def _centre(shape: tuple[int, int]) -> tuple[Floats, Floats]:
    return np.array([shape[1] / 2]), np.array([shape[0] / 2])


def _border(shape: tuple[int, int], width_px: float) -> NDArray[np.bool_]:
    inside = np.zeros(shape, bool)
    b = int(np.ceil(width_px))
    inside[b : shape[0] - b, b : shape[1] - b] = True
    return ~inside


def psf_field(model: PsfModel, shape: tuple[int, int], order: int = 2) -> KernelField:
    """The PSF of a frame of `shape` (ny, nx) as a field that images can be convolved with."""
    t = np.linspace(0, 1, 5)
    x, y = (g.ravel() for g in np.meshgrid(t * (shape[1] - 1), t * (shape[0] - 1)))
    return KernelField.from_samples(x, y, model.stamps(x, y), order, shape)

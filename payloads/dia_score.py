"""The signal-to-noise of a point source at every pixel of a difference: a matched filter, and its peaks.

Never as a whole image: strips of it are made, searched and let go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.compiled.convolve import peaks
from payloads.compiled.score import blank_scores, residuals_of_stars, signal_to_noise, spread_rows, weigh
from payloads.difference import Difference, typical
from payloads.kernel_field import Floats, KernelField
from payloads.mask import Mask, any_set

UNDETECTABLE = Mask.BAD | Mask.SAT | Mask.CR | Mask.NO_DATA
STRIP_PX = 256
_NARROWEST = 0.5
"""Peaks are noted before the score's width is known; where it is less than this they are looked for again."""


@dataclass(frozen=True, kw_only=True)
class DiaSourceConfig:
    """How sources are found and measured; lengths in FWHM of the difference's PSF."""

    threshold_snr: float = 5.0
    search_below: float = 0.94  # peaks are looked for from this part of the threshold on: pixels hide up to six per cent
    filter_fwhm: float = 2.0  # reach of the matched filter: beyond is less than a part in a thousand of the PSF's power
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
    """How the score of a difference was made."""

    unusable: NDArray[np.bool_]  # (ny, nx)
    width: float  # of the score on blank sky, by which it is divided
    systematic: float  # fraction of the subtracted flux taken for error


@dataclass(frozen=True)
class Peaks:
    """Where the score or its negative is highest within 0.75 FWHM, strongest first, (n,): pixels and the score there."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    value: NDArray[np.float32]


def find_peaks(difference: Difference, fwhm_px: float, config: DiaSourceConfig) -> tuple[Peaks, Score]:
    """Peaks of the matched-filter score (sum of PSF * D / V over the square root of sum of PSF^2 / V, over its width on blank
    sky).

    The strongest `max_sources` that reach `search_below` of the threshold.
    """
    unusable = any_set(difference.mask, UNDETECTABLE, difference.data.shape)
    systematic = systematic_fraction(difference, config)
    filters = _filters(difference, fwhm_px, config)
    wanted = config.search_below * config.threshold_snr
    lit = False
    found, quiet = _searched(difference, unusable, systematic, filters, fwhm_px, config, _NARROWEST * wanted, lit)
    if quiet.size < 100:
        lit = True
        _, quiet = _searched(difference, unusable, systematic, filters, fwhm_px, config, np.inf, lit)
    middle = typical(quiet) if quiet.size else 0.0
    width = max(1.4826 * typical(np.abs(quiet - middle)), 1e-6) if quiet.size else 1.0
    if width < _NARROWEST:
        found, _ = _searched(difference, unusable, systematic, filters, fwhm_px, config, width * wanted, lit)
    value = found.value / np.float32(width)
    order = np.argsort(-np.abs(value), kind="stable")
    order = order[np.abs(value[order]) >= wanted][: config.max_sources]
    return Peaks(found.x[order], found.y[order], value[order]), Score(unusable, width, systematic)


def _filters(difference: Difference, fwhm_px: float, config: DiaSourceConfig) -> tuple[KernelField, KernelField]:
    """The PSF and its square as fields that correlate."""
    reach = min(difference.psf.half_size_px, int(np.ceil(config.filter_fwhm * fwhm_px)))
    psf = difference.psf.map(lambda stamps, _x, _y: resized(stamps, reach))
    # The PSF's square has no wings to speak of.
    core = min(reach, int(np.ceil(1.4 * fwhm_px)))
    return psf.transposed(), psf.map(lambda stamps, _x, _y: resized(stamps**2, core)).transposed()


def _searched(
    difference: Difference,
    unusable: NDArray[np.bool_],
    systematic: float,
    filters: tuple[KernelField, KernelField],
    fwhm_px: float,
    config: DiaSourceConfig,
    threshold: float,
    lit: bool,
) -> tuple[Peaks, NDArray[np.float32]]:
    """Peaks of at least `threshold` before the score is divided by its width, and a sample of it on blank sky; with `lit` on
    stars too."""
    ny, nx = difference.data.shape
    reach, border = max(1, round(0.75 * fwhm_px)), int(np.ceil(2 * fwhm_px))
    planes = [np.ascontiguousarray(plane, np.float32) for plane in (difference.matched_template, difference.variance)]
    places, values, quiet = [], [], []
    above = np.zeros((0, nx), np.float32)  # the last rows of the strip before, whose peaks this one may yet surpass
    for first, strip in _strips(difference, systematic, filters, config):
        quiet.append(blank_scores(strip, *planes, unusable, lit, first, border, max(1, ny // 400)))
        window = np.vstack([above, np.nan_to_num(strip, nan=0.0)])
        top, last = first - len(above), first + len(strip) == ny
        found = peaks(window, threshold, reach, min(reach, len(above)), len(window) - (0 if last else reach))
        values.append(window[found[:, 1], found[:, 0]])
        places.append(found + np.array([0, top]))
        above = window[-2 * reach :]
    x, y = np.concatenate(places).T
    return Peaks(x, y, np.concatenate(values)), np.concatenate(quiet)


def _strips(
    difference: Difference, systematic: float, filters: tuple[KernelField, KernelField], config: DiaSourceConfig
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The score, NaN where nothing can be said, a few rows at a time, and which is the first of them."""
    ny, nx = difference.data.shape
    power = float(filters[1].at(np.array([nx / 2]), np.array([ny / 2])).sum())
    reach = filters[0].half_size_px + 1
    for first in range(0, ny, STRIP_PX):
        rows = first, min(first + STRIP_PX, ny)
        low, high = max(0, first - reach), min(rows[1] + reach, ny)
        weight = noise_of_rows(difference, systematic, 1.0, (low, high), config)
        weighted = np.empty_like(weight)
        data, mask = (np.ascontiguousarray(plane[low:high]) for plane in (difference.data, difference.mask))
        weigh(data, mask, np.uint32(UNDETECTABLE), weight, weighted)
        top, bottom = (f.convolve_rows(image, low, rows) for f, image in zip(filters, (weighted, weight), strict=True))
        signal_to_noise(top, bottom, weight, first - low, power, 0.3, top)
        yield first, top


def noise_of_rows(
    difference: Difference, systematic: float, width: float, rows: tuple[int, int], config: DiaSourceConfig
) -> NDArray[np.float32]:
    """Variance of pixels of rows (first, end), systematic error included, where that of a score has to be of this `width`."""
    out = np.empty((rows[1] - rows[0], difference.data.shape[1]), np.float32)
    variance, star = (np.ascontiguousarray(plane, np.float32) for plane in (difference.variance, difference.matched_template))
    numbers = (np.float32(n) for n in (config.coherence * systematic, config.shift_px, width**2))
    bits = np.ascontiguousarray(difference.mask), difference.mask.dtype.type(UNDETECTABLE)
    spread_rows(variance, *bits, star, *numbers, rows[0], out)
    return out


def systematic_fraction(difference: Difference, config: DiaSourceConfig) -> float:
    """Residual error of bright unsaturated stars as a fraction of their flux, from the median excess of D^2 over the variance."""
    planes = (difference.data, difference.variance, difference.matched_template)
    spoilt = np.uint32(UNDETECTABLE | Mask.SUSPECT | Mask.EDGE)
    square, noise = residuals_of_stars(
        *(np.ascontiguousarray(plane, np.float32) for plane in planes), np.ascontiguousarray(difference.mask), spoilt, 30.0
    )
    if square.size < 50:
        return config.systematic_floor
    ratio = typical(square) / 0.4549 - typical(noise)
    return float(np.clip(np.sqrt(max(ratio, 0)), config.systematic_floor, config.systematic_ceiling))


def resized(stamps: Floats, half: int) -> Floats:
    """Stamps cut or padded with zeros to half size `half`."""
    own = stamps.shape[-1] // 2
    if own >= half:
        return stamps[:, own - half : own + half + 1, own - half : own + half + 1]
    grow = half - own
    return np.pad(stamps, ((0, 0), (grow, grow), (grow, grow)))

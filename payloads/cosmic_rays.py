"""Cosmic rays: pixels that rise from their neighbours more sharply than the PSF could."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from payloads.compiled.cosmic_rays import sharp_pixels
from payloads.mask import grown

_PAIRS = ((0, 1), (1, 0), (1, 1), (1, -1))
_FEWEST_STARS = 20


def gaussian_falls(fwhm_px: float) -> NDArray[np.float64]:
    """What each of the four pairs of opposite neighbours has of a centred star's peak (4,), were it a Gaussian of `fwhm_px`."""
    return np.array([np.exp(-0.5 * (dy * dy + dx * dx) / (fwhm_px / 2.3548) ** 2) for dy, dx in _PAIRS])


def star_falls(
    data: NDArray[np.float32], unusable: NDArray[np.bool_], x: NDArray[np.float64], y: NDArray[np.float64], fwhm_px: float
) -> NDArray[np.float64]:
    """The same as the frame's own stars at (x, y) have it, where they are sharper than the Gaussian.

    Stars with a narrow core and broad wings, sampled by hardly two pixels, fall much faster from their centres than a Gaussian
    of their half-light width. The sharpest twentieth is not looked at: a cosmic ray may be among the stars. With too few stars
    it is the Gaussian's.
    """
    gaussian = gaussian_falls(fwhm_px)
    ny, nx = data.shape
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    inside = (column >= 2) & (row >= 2) & (column < nx - 2) & (row < ny - 2)
    column, row = column[inside], row[inside]
    t = np.arange(-1, 2)
    near = data[row[:, None, None] + t[:, None], column[:, None, None] + t].reshape(-1, 9)
    highest = near.argmax(axis=1)
    pixels = (row + highest // 3 - 1) * nx + column + highest % 3 - 1
    blocked = grown(unusable, 1.5)
    pixels = pixels[~blocked.flat[pixels] & (data.flat[pixels] > 0)]
    if pixels.size < _FEWEST_STARS:
        return gaussian
    return np.minimum(gaussian, np.percentile(_pair_means(data, pixels) / data.flat[pixels], 5, axis=1))


def find_cosmic_rays(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    falls: NDArray[np.float64],
    *,
    sigma: float = 6.0,
    sharper: float = 1.35,
    rounds: int = 20,
) -> NDArray[np.bool_]:
    """Pixels (ny, nx) bool hit by cosmic rays, in background-subtracted `data` with its `variance`.

    The test of SDSS Photo (Lupton; also LSST's): a pixel stands `sigma` above the mean of three of its four pairs of opposite
    neighbours (the fourth may lie along the track: of an even one no pixel stands above its neighbours there), and over at least
    one pair, noise allowed for, by more than `sharper` times what a star's centre does; `falls` (4,) says what that is, from
    `star_falls` or `gaussian_falls`, and `sharper` leaves room for a PSF that varies. In later
    rounds, pixels found are replaced by the mean of their lowest pair, and pixels beside them need half the sigma, so that
    tracks are followed. Saturated and bad pixels (`unusable`) are never cosmic rays, nor do their neighbours count as sharp.
    """
    image = np.where(unusable, np.float32(0.0), data).astype(np.float32)
    spread = np.ascontiguousarray(variance, np.float32)
    blocked = grown(unusable, 1.0)
    found = np.zeros(data.shape, dtype=bool)
    beside = np.zeros(0, np.int64)
    around = np.array([dy * data.shape[1] + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    for _ in range(rounds):
        hits = sharp_pixels(image, spread, blocked, beside, falls, sigma, sharper)
        if not hits.size:
            break
        found.flat[hits] = blocked.flat[hits] = True
        image.flat[hits] = _pair_means(image, hits).min(axis=0)
        # Nothing has changed but beside these: a track is followed from its ends.
        beside = np.unique(hits[:, None] + around)
    return found


def _pair_means(image: NDArray[np.float32], pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    flat, nx = image.ravel(), image.shape[1]
    return np.stack([0.5 * (flat[pixels + dy * nx + dx] + flat[pixels - dy * nx - dx]) for dy, dx in _PAIRS])

"""Cosmic rays: pixels that rise from their neighbours more sharply than the PSF could."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_PAIRS = ((0, 1), (1, 0), (1, 1), (1, -1))


def find_cosmic_rays(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    fwhm_px: float,
    *,
    sigma: float = 6.0,
    sharper: float = 1.35,
    rounds: int = 3,
) -> NDArray[np.bool_]:
    """Pixels (ny, nx) bool hit by cosmic rays, in background-subtracted `data` with its `variance`.

    The test of SDSS Photo (Lupton; also LSST's): a pixel stands `sigma` above the mean of each of its four pairs of opposite
    neighbours, and over at least one pair, noise allowed for, by more than `sharper` times what a star's centre does. A star is a
    Gaussian of `fwhm_px` here, wider in the wings in truth, which errs towards the stars; `sharper` leaves room for centring and
    sampling. In later rounds, pixels found are replaced by the mean of their lowest pair, and pixels beside them need half the
    sigma, so that tracks are followed. Saturated and bad pixels (`unusable`) are never cosmic rays, nor do their neighbours
    count as sharp.
    """
    image = np.where(unusable, np.float32(0.0), data).astype(np.float32)
    noise = np.sqrt(np.maximum(variance, 0.0)).astype(np.float32)
    blocked = ndimage.binary_dilation(unusable) if unusable.any() else unusable
    found = np.zeros(data.shape, dtype=bool)
    beside = np.zeros(data.shape, dtype=bool)
    for number in range(rounds):
        threshold = np.where(beside, sigma / 2, sigma).astype(np.float32) if number else np.float32(sigma)
        pixels = np.flatnonzero(_candidates(image, noise * threshold) & ~blocked & ~found)
        hits = pixels[_sharp(image, noise, pixels, fwhm_px, sharper)]
        if not hits.size:
            break
        found.flat[hits] = True
        image.flat[hits] = _pair_means(image, hits).min(axis=0)
        beside = ndimage.binary_dilation(found, np.ones((3, 3), dtype=bool))
    return found


def _candidates(image: NDArray[np.float32], rise: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels at least `rise` above each pair of opposite neighbours; the frame's border has none."""
    inner = image[1:-1, 1:-1] - rise[1:-1, 1:-1]
    high = np.zeros(image.shape, dtype=bool)
    # Most pixels fail the first pair: the cheap test goes over all, the rest over what is left.
    keep = inner > 0
    for dy, dx in _PAIRS:
        keep &= 2 * inner > _shift(image, dy, dx) + _shift(image, -dy, -dx)
    high[1:-1, 1:-1] = keep
    return high


def _shift(image: NDArray[np.float32], dy: int, dx: int) -> NDArray[np.float32]:
    ny, nx = image.shape
    return image[1 + dy : ny - 1 + dy, 1 + dx : nx - 1 + dx]


def _pair_means(image: NDArray[np.float32], pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    flat, nx = image.ravel(), image.shape[1]
    return np.stack([0.5 * (flat[pixels + dy * nx + dx] + flat[pixels - dy * nx - dx]) for dy, dx in _PAIRS])


def _sharp(
    image: NDArray[np.float32], noise: NDArray[np.float32], pixels: NDArray[np.int64], fwhm_px: float, sharper: float
) -> NDArray[np.bool_]:
    value, error = image.ravel()[pixels], noise.ravel()[pixels]
    width = fwhm_px / 2.3548
    keep = np.zeros(len(pixels), dtype=bool)
    for mean, (dy, dx) in zip(_pair_means(image, pixels), _PAIRS, strict=True):
        fall = np.exp(-0.5 * (dy * dy + dx * dx) / width**2)  # of a star centred on the pixel
        keep |= (value - 2.0 * error) * fall > sharper * (np.maximum(mean, 0.0) + 2.0 * error / np.sqrt(2.0))
    return keep

"""Which sources are stars good enough to take a PSF from, and the PSF that they give."""

from __future__ import annotations

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from payloads.detection import Detections, NothingDetected
from payloads.photometry import cut_stamps
from payloads.psf import PsfModel, fit_psf, shifted, smooth_wings


def shortest_interval(values: NDArray[np.floating], part: float = 0.4) -> tuple[float, float]:
    """Middle and half width of the shortest interval that holds `part` of the values: a mode that outliers do not move."""
    ordered = np.sort(values[np.isfinite(values)])
    if not ordered.size:
        return float("nan"), float("nan")
    count = max(1, round(part * ordered.size))
    widths = ordered[count - 1 :] - ordered[: ordered.size - count + 1]
    start = int(np.argmin(widths))
    inside = ordered[start : start + count]
    return float(inside.mean()), float(max(widths[start] / 2, 1e-6))


def common_width(
    data: NDArray[np.float32], found: Detections, unusable: NDArray[np.bool_], *, at_most: int = 300
) -> tuple[float, NDArray[np.int64]]:
    """FWHM in px of the common width of bright sources, twice their half-light radius, and which of them have it, to a third.

    Taken from what most sources share, so that neither cosmic rays nor galaxies count unless they are the majority; the indices
    are of stars and little else. nan without sources.
    """
    ny, nx = data.shape
    inside = (found.x > 12) & (found.y > 12) & (found.x < nx - 13) & (found.y < ny - 13) & (found.n_pixels >= 5)
    index = np.flatnonzero(inside)
    index = index[np.argsort(-found.peak[index])][:at_most]
    if not index.size:
        return float("nan"), index
    radius, _ = sep.flux_radius(
        np.ascontiguousarray(data), found.x[index], found.y[index], np.full(len(index), 10.0), 0.5, mask=unusable, subpix=5
    )
    middle, _ = shortest_interval(2.0 * radius[radius > 0])
    return middle, index[np.abs(2.0 * radius - middle) < middle / 3.0]


def choose_stars(
    data: NDArray[np.float32],
    sigma: float,
    unusable: NDArray[np.bool_],
    found: Detections,
    flags: NDArray[np.int32],
    fwhm_px: float,
    *,
    snr: float = 50.0,
    at_most: int = 600,
) -> NDArray[np.int64]:
    """Indices of detections that are unflagged, bright, alone, and as concentrated as most bright sources are.

    Alone: no other source within 3 FWHM that has more than 3 % of its peak. With fewer than 10 such stars `snr` is lowered in
    steps to 10, and loneliness given up last. NothingDetected where nothing remains.
    """
    apertures = [
        sep.sum_circle(np.ascontiguousarray(data), found.x, found.y, scale * fwhm_px, mask=unusable, subpix=5)[0]
        for scale in (0.5, 1.25)
    ]
    noise = sigma * np.sqrt(np.pi) * 1.25 * fwhm_px
    with np.errstate(divide="ignore", invalid="ignore"):
        concentration = apertures[0] / apertures[1]
    clean = (flags == 0) & np.isfinite(concentration) & (concentration > 0)
    alone = _alone(found, 3.0 * fwhm_px)
    for least, lonely in ((snr, True), (snr / 2, True), (10.0, True), (10.0, False)):
        index = np.flatnonzero(clean & (apertures[1] > least * noise) & (alone | (not lonely)))
        if index.size:
            middle, width = shortest_interval(concentration[index])
            # 40 % of a normal distribution lie within 0.52 sigma of its middle.
            index = index[np.abs(concentration[index] - middle) < max(4.0 * width / 0.52, 0.02)]
        if index.size >= 10:
            break
    if not index.size:
        raise NothingDetected(
            f"none of {len(found)} detections is a star to take the PSF from: look at the frame, it may be clouded"
        )
    return index[np.argsort(-apertures[1][index])][:at_most]


def star_stamps(
    data: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    size: int,
    core_px: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Stamps (n, size, size) with the star moved to the middle pixel, and which of them are fit for use.

    Those are the ones wholly on the frame, with no unusable pixel within `core_px` of the star and fewer than 5 % of them in
    all; such pixels take the mean of their usable neighbours (or 0), so that the splines do not spread what they hold.
    """
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    margin = 3
    half = size // 2 + margin
    raw = cut_stamps(data, column, row, half, np.nan).astype(np.float64)
    usable = ~cut_stamps(unusable, column, row, half, True) & np.isfinite(raw)
    raw = np.where(usable, raw, 0.0)
    near = [ndimage.uniform_filter(a, size=(0, 5, 5), mode="constant") for a in (raw, usable.astype(np.float64))]
    raw = np.where(usable, raw, np.where(near[1] > 1e-3, near[0] / np.maximum(near[1], 1e-3), 0.0))
    core = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1]) <= core_px
    ny, nx = data.shape
    inside = (column >= half) & (row >= half) & (column < nx - half) & (row < ny - half)
    good = inside & usable[:, core].all(axis=1) & (usable.mean(axis=(1, 2)) > 0.95)
    return shifted(raw, column - x, row - y)[:, margin:-margin, margin:-margin], good


def build_psf(
    data: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    fwhm_px: float,
    sigma: float,
    *,
    order: int = 2,
    size: int | None = None,
) -> tuple[PsfModel, int]:
    """PSF of stars near (x, y): centred by Gaussian-windowed positions (sep), stamped, fitted, its wings made smooth.

    Returns it and the number of stars used. `sigma` is the noise of a pixel of the sky. `size`, odd, is by default seven FWHM
    and at least 17 px. NothingDetected where every stamp is spoilt.
    """
    size = size or 2 * max(8, int(np.ceil(3.5 * fwhm_px))) + 1
    wx, wy, flag = sep.winpos(np.ascontiguousarray(data), x, y, np.full(len(x), fwhm_px / 2.3548), mask=unusable)
    near = (np.hypot(wx - x, wy - y) < 1.0) & (flag == 0)
    radius = 1.25 * fwhm_px
    stamps, whole = star_stamps(data, unusable, np.where(near, wx, x), np.where(near, wy, y), size, radius)
    core = np.hypot(*np.mgrid[-(size // 2) : size // 2 + 1, -(size // 2) : size // 2 + 1]) <= radius
    # The core's flux is known far better than the stamp's, which the sky's noise and level over all its pixels make uncertain.
    flux = stamps[:, core].sum(axis=1)
    good = near & whole & (flux > 0)
    if not good.any():
        raise NothingDetected(f"each of {len(x)} stars has a spoilt pixel in its core or an edge near: no PSF can be made")
    # No star is truer than its interpolation: 1 %.
    error = np.hypot(sigma * core.sum() ** 0.5 / flux[good], 0.01)
    model, kept = fit_psf(stamps[good] / flux[good, None, None], wx[good], wy[good], data.shape, error=error, order=order)
    return smooth_wings(model, 2.0 * fwhm_px), int(kept.sum())


def _alone(found: Detections, radius_px: float) -> NDArray[np.bool_]:
    alone = np.ones(len(found), dtype=bool)
    if len(found) < 2:
        return alone
    pairs = KDTree(np.stack([found.x, found.y], axis=1)).query_pairs(radius_px, output_type="ndarray")
    for a, b in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0])):
        alone[a[found.peak[b] > 0.03 * found.peak[a]]] = False
    return alone

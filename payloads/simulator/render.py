"""Elliptical Gaussians into pixels: every source is a sum of them, whatever its shape, and each is cut where its light ends.

Pixel integration: a sharp Gaussian (minor sigma below 1.6 px) is averaged over 3 x 3 Gauss-Legendre points of each pixel; a wide
one is sampled once after adding the variance of a pixel (1/12), which is then right to 2e-4 of its peak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SHARP_PX = 1.6
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)
_BATCH_PIXELS = 1 << 18  # stamps are evaluated in batches that stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class Gaussians:
    """Many elliptical Gaussians: centre `x`, `y` (px), `flux`, covariance `cxx`, `cxy`, `cyy` (px²); arrays of one length."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    cxx: NDArray[np.float64]
    cxy: NDArray[np.float64]
    cyy: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)

    def columns(self) -> NDArray[np.float64]:
        """(6, n): x, y, flux, cxx, cxy, cyy."""
        return np.stack([self.x, self.y, self.flux, self.cxx, self.cxy, self.cyy])

    @classmethod
    def join(cls, parts: list[Gaussians]) -> Gaussians:
        """All of them as one."""
        if not parts:
            return cls(**{name: np.zeros(0) for name in ("x", "y", "flux", "cxx", "cxy", "cyy")})
        names = ("x", "y", "flux", "cxx", "cxy", "cyy")
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def half_widths(light: Gaussians, floor: float) -> NDArray[np.int64]:
    """(n,) half width of each stamp in px: to where the light falls below `floor` per pixel, but from 3.8 to 6.5 sigma."""
    widest = 0.5 * (light.cxx + light.cyy) + np.hypot(0.5 * (light.cxx - light.cyy), light.cxy) + 1 / 12
    sigma = np.sqrt(widest)
    peak = np.abs(light.flux) / (2 * np.pi * np.sqrt(np.maximum(light.cxx * light.cyy - light.cxy**2, 1e-4)) + 1)
    reach = np.sqrt(2 * np.log(np.maximum(peak / floor, 1.0)))
    return np.asarray(np.ceil(sigma * np.clip(reach, 3.8, 6.5) + 0.5), dtype=np.int64)


def add_gaussians(image: NDArray[np.float32], light: Gaussians, floor: float = 0.01) -> None:
    """Add the light to `image` (ny, nx) in place, in the unit of `flux`; what falls outside is lost. `floor`: `half_widths`."""
    if not len(light):
        return
    half = half_widths(light, floor)
    ny, nx = image.shape
    seen = (light.x > -half) & (light.x < nx + half) & (light.y > -half) & (light.y < ny + half)
    smallest = 0.5 * (light.cxx + light.cyy) - np.hypot(0.5 * (light.cxx - light.cyy), light.cxy)
    rows = light.columns()
    # A few stamp sizes, each a third larger than the last, so that batches are whole arrays.
    size = np.ceil(4 * 1.3 ** np.ceil(np.log(np.maximum(half, 4) / 4) / np.log(1.3))).astype(np.int64)
    for sharp in (True, False):
        for width in np.unique(size[seen]):
            chosen = np.flatnonzero(seen & (size == width) & ((smallest < _SHARP_PX**2) == sharp))
            step = max(1, _BATCH_PIXELS // int(2 * width + 1) ** 2)
            for start in range(0, len(chosen), step):
                _add_batch(image, rows[:, chosen[start : start + step]], int(width), sharp)


def _add_batch(image: NDArray[np.float32], rows: NDArray[np.float64], half: int, sharp: bool) -> None:
    column, row = np.floor(rows[0] + 0.5).astype(np.int64), np.floor(rows[1] + 0.5).astype(np.int64)
    grid = np.arange(-half, half + 1, dtype=np.float64)
    dx, dy = grid - (rows[0] - column)[:, None], grid - (rows[1] - row)[:, None]
    if sharp:
        stamps = np.zeros((rows.shape[1], len(grid), len(grid)), dtype=np.float32)
        for across, wx in zip(_NODES, _WEIGHTS, strict=True):
            for up, wy in zip(_NODES, _WEIGHTS, strict=True):
                stamps += np.float32(wx * wy / 4) * _evaluate(dx + across / 2, dy + up / 2, rows[2:], 0.0)
    else:
        stamps = _evaluate(dx, dy, rows[2:], 1 / 12)
    _deposit(image, stamps, row - half, column - half)


def _evaluate(dx: NDArray[np.float64], dy: NDArray[np.float64], shape: NDArray[np.float64], extra: float) -> NDArray[np.float32]:
    """(n, k, k) values at offsets `dx` (n, k) and `dy` (n, k) of Gaussians `shape` = flux, cxx, cxy, cyy (4, n)."""
    flux, cxx, cxy, cyy = shape[0], shape[1] + extra, shape[2], shape[3] + extra
    det = cxx * cyy - cxy**2
    u = (-0.5 * (cyy / det)[:, None] * dx**2).astype(np.float32)
    v = (-0.5 * (cxx / det)[:, None] * dy**2).astype(np.float32)
    exponent = v[:, :, None] + u[:, None, :]
    if np.any(cxy):
        exponent += ((cxy / det)[:, None] * dy).astype(np.float32)[:, :, None] * dx.astype(np.float32)[:, None, :]
    np.exp(exponent, out=exponent)
    exponent *= (flux / (2 * np.pi * np.sqrt(det))).astype(np.float32)[:, None, None]
    return np.asarray(exponent)


def _deposit(image: NDArray[np.float32], stamps: NDArray[np.float32], row: NDArray[np.int64], column: NDArray[np.int64]) -> None:
    ny, nx = image.shape
    k = stamps.shape[1]
    for stamp, y, x in zip(
        stamps, row.tolist(), column.tolist(), strict=True
    ):  # overlapping stamps: no single array operation adds them
        if y >= 0 and x >= 0 and y + k <= ny and x + k <= nx:
            image[y : y + k, x : x + k] += stamp
            continue
        y0, y1, x0, x1 = max(y, 0), min(y + k, ny), max(x, 0), min(x + k, nx)
        if y0 < y1 and x0 < x1:
            image[y0:y1, x0:x1] += stamp[y0 - y : y1 - y, x0 - x : x1 - x]

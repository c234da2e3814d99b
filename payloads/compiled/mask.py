"""Bits of masks spread to pixels around: work that grows with the flagged pixels, not with the frame."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)
def has_bits(mask: Any, bits: Any, out: Any) -> None:
    """Whether any of `bits` is set in each of `mask` (n,), of any unsigned type."""
    for i in range(mask.size):
        out[i] = (mask[i] & bits) != 0


@njit(cache=True)
def paint_discs(mask: Any, rows: Any, columns: Any, reach: Any, bit: Any) -> None:
    """Set `bit` in `mask` (ny, nx) within `reach` (n,) px of the pixels (n,)."""
    ny, nx = mask.shape
    for n in range(rows.size):
        r = int(np.ceil(reach[n]))
        limit = reach[n] * reach[n]
        for y in range(max(rows[n] - r, 0), min(rows[n] + r + 1, ny)):
            dy = y - rows[n]
            for x in range(max(columns[n] - r, 0), min(columns[n] + r + 1, nx)):
                dx = x - columns[n]
                if dy * dy + dx * dx < limit:
                    mask[y, x] |= bit


@njit(cache=True)
def lost_pixels(data: Any, variance: Any, mask: Any, blank: Any, out: Any) -> bool:
    """Fill `out` (n,): where data or variance is no number, the variance is not positive, or the mask has a bit of `blank`.

    Whether the image must be changed to be without: anything but blank pixels of value zero.
    """
    change = False
    for i in range(data.size):
        wrong = not (isfinite(data[i]) and isfinite(variance[i]) and variance[i] > 0)
        empty = (mask[i] & blank) != 0
        out[i] = wrong or empty
        change = change or wrong or (empty and data[i] != 0)
    return change


@njit(cache=True, fastmath=True)
def spread_bit(mask: Any, bit: Any, kernel: Any, fraction: float, out: Any) -> None:
    """Set `bit` in `out` where pixels of `mask` (both (ny, nx)) with that bit carry more than `fraction` of `kernel` (k, k)."""
    ny, nx = mask.shape
    half = kernel.shape[0] // 2
    rows = 256
    share = np.zeros((rows, nx), np.float32)
    for top in range(0, ny, rows):
        end = min(top + rows, ny)
        touched = False
        for y in range(max(top - half, 0), min(end + half, ny)):
            for x in range(nx):
                if not mask[y, x] & bit:
                    continue
                touched = True
                for p in range(max(y - half, top), min(y + half + 1, end)):
                    for q in range(max(x - half, 0), min(x + half + 1, nx)):
                        share[p - top, q] += kernel[p - y + half, q - x + half]
        if not touched:
            continue
        for y in range(top, end):
            for x in range(nx):
                if share[y - top, x] > fraction:
                    out[y, x] |= bit
                share[y - top, x] = 0

"""Interpolation of data, variance and mask onto another grid in one pass."""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
from numba import njit


# No promise that there are no NaN: nodes behind the tangent plane are.
@njit(cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def gather(
    image: Any, spread: Any, bits: Any, nodes_x: Any, nodes_y: Any, nodes_area: Any, step: int, table: Any, edge: Any,
    data: Any, variance: Any, mask: Any,
) -> None:  # fmt: skip
    """Fill `data`, `variance` (may be empty), `mask` (ny, nx) from `image`, `spread`, `bits` at the places that the nodes give.

    `table` (fractions + 1, taps) float32; taps k stand for source pixels k - taps/2 + 1 from the one below. Source places are
    interpolated bilinearly between nodes every `step` pixels; outputs keep what they hold where nothing falls on them.
    """
    sy, sx = image.shape
    ny, nx = data.shape
    taps = table.shape[1]
    half = taps // 2
    fractions = table.shape[0] - 1
    for y in range(ny):
        j = y // step
        fy = (y - j * step) / step
        for x in range(nx):
            i = x // step
            fx = (x - i * step) / step
            w00, w01, w10, w11 = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
            px = w00 * nodes_x[j, i] + w01 * nodes_x[j, i + 1] + w10 * nodes_x[j + 1, i] + w11 * nodes_x[j + 1, i + 1]
            py = w00 * nodes_y[j, i] + w01 * nodes_y[j, i + 1] + w10 * nodes_y[j + 1, i] + w11 * nodes_y[j + 1, i + 1]
            if not (px >= -0.5 and px < sx - 0.5 and py >= -0.5 and py < sy - 0.5):
                continue
            area = (
                w00 * nodes_area[j, i] + w01 * nodes_area[j, i + 1] + w10 * nodes_area[j + 1, i] + w11 * nodes_area[j + 1, i + 1]
            )
            x0, y0 = int(floor(px)), int(floor(py))
            dx, dy = px - x0, py - y0
            kx, ky = int(dx * fractions + 0.5), int(dy * fractions + 0.5)
            total = np.float32(0)
            if x0 >= half - 1 and y0 >= half - 1 and x0 + half < sx and y0 + half < sy:
                for p in range(taps):
                    row = y0 - half + 1 + p
                    line = np.float32(0)
                    for q in range(taps):
                        line += table[kx, q] * image[row, x0 - half + 1 + q]
                    total += table[ky, p] * line
                seen = np.uint32(0)
            else:
                for p in range(taps):
                    row = min(max(y0 - half + 1 + p, 0), sy - 1)
                    line = np.float32(0)
                    for q in range(taps):
                        line += table[kx, q] * image[row, min(max(x0 - half + 1 + q, 0), sx - 1)]
                    total += table[ky, p] * line
                seen = edge
            data[y, x] = total * np.float32(area)
            xa, xb = max(x0, 0), min(x0 + 1, sx - 1)
            ya, yb = max(y0, 0), min(y0 + 1, sy - 1)
            mask[y, x] = seen | bits[ya, xa] | bits[ya, xb] | bits[yb, xa] | bits[yb, xb]
            if variance.size:
                low = spread[ya, xa] * (1 - dx) + spread[ya, xb] * dx
                high = spread[yb, xa] * (1 - dx) + spread[yb, xb] * dx
                variance[y, x] = np.float32((low * (1 - dy) + high * dy) * area * max(area, 1.0))

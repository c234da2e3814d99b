"""Convolution with a kernel that is the same within a block of pixels and another in the next."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, fastmath=True)
def correlate_blocks(image: Any, kernels: Any, half: int, block: int, first: int, out: Any) -> None:
    """out[y, x] = sum over (p, q) of kernels[y // block, x // block, p, q] * image[first + y + p - half, x + q - half].

    `image` (ny, nx) float32 counts as zero beyond its border; `kernels` (rows, columns, 2 half + 1, taps) float32, where taps are
    filled up with zeros to a multiple of eight; `out` (m, nx) may be the image itself.
    """
    ny, nx = image.shape
    columns, k, taps = kernels.shape[1], kernels.shape[2], kernels.shape[3]
    strip = np.zeros((block + k - 1, columns * block + taps), np.float32)
    total = np.empty(block, np.float32)
    done = 0
    while done < out.shape[0]:
        top = first + done
        height = min(block, out.shape[0] - done)
        # Rows that the strip before had too are taken from it: `out` may have been written over them.
        kept = k - 1 if done else 0
        for p in range(kept):
            strip[p] = strip[block + p]
        for p in range(kept, height + k - 1):
            y = top - half + p
            if 0 <= y < ny:
                strip[p, half : half + nx] = image[y]
            else:
                strip[p] = 0
        for y in range(height):
            for bx in range(columns):
                start = bx * block
                kernel = kernels[done // block, bx]
                for i in range(block):
                    total[i] = 0
                for p in range(k):
                    row = strip[y + p, start : start + block + taps]
                    # Eight taps at a time: the sums are fetched and put back an eighth as often. A `while`: the loop that numba
                    # makes of a stepped `range` is one that LLVM does not turn into vectors.
                    q = 0
                    while q < taps:
                        a, b, c, d = kernel[p, q], kernel[p, q + 1], kernel[p, q + 2], kernel[p, q + 3]
                        e, f, g, h = kernel[p, q + 4], kernel[p, q + 5], kernel[p, q + 6], kernel[p, q + 7]
                        for i in range(block):
                            total[i] += (
                                a * row[i + q] + b * row[i + q + 1] + c * row[i + q + 2] + d * row[i + q + 3]
                                + e * row[i + q + 4] + f * row[i + q + 5] + g * row[i + q + 6] + h * row[i + q + 7]
                            )  # fmt: skip
                        q += 8
                for i in range(min(block, nx - start)):
                    out[done + y, start + i] = total[i]
        done += height


@njit(cache=True)
def peaks(score: Any, threshold: float, reach: int, first: int, end: int) -> Any:
    """Pixels (n, 2) x, y of rows `first` to `end` where |score| is at least `threshold` and, among those of its sign, highest
    within `reach` px each way.

    Of equal ones the first in reading order counts.
    """
    ny, nx = score.shape
    found = []
    for y in range(first, end):
        for x in range(nx):
            here = score[y, x]
            sign = 1.0 if here > 0 else -1.0
            value = sign * here
            if not value >= threshold:
                continue
            highest = True
            for p in range(max(y - reach, 0), min(y + reach + 1, ny)):
                for q in range(max(x - reach, 0), min(x + reach + 1, nx)):
                    other = sign * score[p, q]
                    if other > value or (other == value and (p < y or (p == y and q < x))):
                        highest = False
                        break
                if not highest:
                    break
            if highest:
                found.append((x, y))
    result = np.empty((len(found), 2), np.int64)
    for i in range(len(found)):
        result[i, 0] = found[i][0]
        result[i, 1] = found[i][1]
    return result

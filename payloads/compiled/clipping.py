"""The clipped weighted mean of a block of frames."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)
def _sorted_into(values: Any, block: Any, y: int, x: int) -> int:
    """The finite values of a pixel in ascending order; how many. Insertion: a batch is short."""
    count = 0
    for k in range(block.shape[0]):
        value = block[k, y, x]
        if isfinite(value):
            place = count
            while place > 0 and values[place - 1] > value:
                values[place] = values[place - 1]
                place -= 1
            values[place] = value
            count += 1
    return count


@njit(cache=True)
def _median_deviation(values: Any, count: int, centre: Any) -> Any:
    """Median absolute deviation of sorted values: of the runs below and above the centre, merged up to the middle."""
    above = 0
    while above < count and values[above] < centre:
        above += 1
    below, wanted, last, previous = above - 1, count // 2, np.float32(0), np.float32(0)
    for _ in range(wanted + 1):
        previous = last
        if above >= count or (below >= 0 and centre - values[below] < values[above] - centre):
            last = centre - values[below]
            below -= 1
        else:
            last = values[above] - centre
            above += 1
    return last if count % 2 else np.float32(0.5) * (previous + last)


@njit(cache=True)
def clip_block(
    block: Any, numbers: Any, half: Any, read: Any, photon: Any, clip: Any, means: Any, weights: Any, noise2: Any, scatter: Any,
    used: Any, clipped: Any,
) -> None:  # fmt: skip
    """Add a block (n, ny, nx) of frames to the sums (`payloads.clipping.Sums`) of its rows, pixel by pixel.

    `numbers` (n, 3) are weight, read and photon of each frame, `half` (n,) 0 or 1; `photon` may be empty. A value is clipped
    where it is more than `clip` times the larger of its expected noise and the pixel's 1.4826 MAD from the pixel's median.
    """
    n, ny, nx = block.shape
    values = np.empty(n, dtype=np.float32)
    weight_sum, value_sum = np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.float32)
    for y in range(ny):
        for x in range(nx):
            count = _sorted_into(values, block, y, x)
            if count == 0:
                continue
            middle = count // 2
            centre = values[middle] if count % 2 else np.float32(0.5) * (values[middle - 1] + values[middle])
            own = np.float32(1.4826) * _median_deviation(values, count, centre)
            light = max(centre, np.float32(0)) * photon[y, x] if photon.size else np.float32(0)
            # About the centre, so that float32 sums lose nothing.
            weight_sum[:], value_sum[:] = np.float32(0), np.float32(0)
            noise_sum, expected, kept = np.float32(0), np.float32(0), 0
            for k in range(n):
                value = block[k, y, x]
                if not isfinite(value):
                    continue
                weight, noise = numbers[k, 0], numbers[k, 1] * read[y, x]
                variance = noise * noise + numbers[k, 2] * light
                expected += variance
                apart = value - centre
                if apart * apart <= clip * clip * max(variance, own * own):
                    weight_sum[half[k]] += weight
                    value_sum[half[k]] += weight * apart
                    noise_sum += weight * weight * variance
                    kept += 1
            for h in range(2):
                if weight_sum[h] > 0:
                    weights[h, y, x] += weight_sum[h]
                    here = centre + value_sum[h] / weight_sum[h]
                    means[h, y, x] += weight_sum[h] / weights[h, y, x] * (here - means[h, y, x])
            noise2[y, x] += noise_sum
            used[y, x] += kept
            clipped[y, x] += count - kept
            if expected > 0:
                part = np.float32(count) / np.float32(used[y, x] + clipped[y, x])
                scatter[y, x] += part * (own / np.sqrt(expected / count) - scatter[y, x])

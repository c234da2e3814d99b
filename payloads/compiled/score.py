"""What goes into a matched filter, and what comes of it, in one pass each."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)
def _mean_around(variance: Any, mask: Any, unusable: Any, y: int, total: Any, count: Any, out: Any) -> None:
    """`out` (nx,) = mean of `variance` over the pixels without a bit of `unusable` of the 3 x 3 around those of row y; where none
    is, its own. `total` and `count` are room for a row each."""
    ny, nx = variance.shape
    zero = np.float32(0)
    total[:] = zero
    count[:] = zero
    for row in range(max(y - 1, 0), min(y + 2, ny)):
        for x in range(nx):
            usable = (mask[row, x] & unusable) == 0
            total[x] += variance[row, x] if usable else zero
            count[x] += np.float32(1) if usable else zero
    for x in range(nx):
        left, right = max(x - 1, 0), min(x + 1, nx - 1)
        pixels, light = count[x], total[x]
        if left < x:
            pixels, light = pixels + count[left], light + total[left]
        if right > x:
            pixels, light = pixels + count[right], light + total[right]
        out[x] = light / pixels if pixels > 0 else variance[y, x]


@njit(cache=True)
def spread_rows(
    variance: Any, mask: Any, unusable: Any, star: Any, fraction: Any, shift: Any, factor: Any, first: int, out: Any
) -> None:  # fmt: skip
    """`out` = factor * (variance + (fraction * star)² + (shift * slope of star)²): the rows of the images (ny, nx) from `first`
    on. Light below zero counts as none. The variance is that of a pixel's surroundings: a pixel that happens to hold more
    photons has more of its own, and weights that follow it make fluxes too small."""
    ny, nx = star.shape
    zero = np.float32(0)
    total, count, around = np.empty(nx, np.float32), np.empty(nx, np.float32), np.empty(nx, np.float32)
    for row in range(out.shape[0]):
        y = first + row
        up, down = min(y + 1, ny - 1), max(y - 1, 0)
        across = np.float32(1) / np.float32(up - down)
        _mean_around(variance, mask, unusable, y, total, count, around)
        for x in range(nx):
            right, left = min(x + 1, nx - 1), max(x - 1, 0)
            here = max(star[y, x], zero)
            by_x = (max(star[y, right], zero) - max(star[y, left], zero)) / np.float32(right - left)
            by_y = (max(star[up, x], zero) - max(star[down, x], zero)) * across
            more = fraction * fraction * here * here + shift * shift * (by_x * by_x + by_y * by_y)
            out[row, x] = factor * (around[x] + more)


@njit(cache=True)
def weigh(data: Any, mask: Any, unusable: Any, weight: Any, weighted: Any) -> None:
    """`weight`, a variance before, becomes its inverse, 0 on pixels with a bit of `unusable`; `weighted` = data * weight."""
    ny, nx = data.shape
    for y in range(ny):
        for x in range(nx):
            total = weight[y, x]
            inverse = np.float32(0) if mask[y, x] & unusable or not total > 0 else np.float32(1) / total
            weight[y, x] = inverse
            weighted[y, x] = data[y, x] * inverse


@njit(cache=True)
def signal_to_noise(top: Any, bottom: Any, weight: Any, first: int, power: float, least: float, out: Any) -> None:
    """`out` = top / sqrt(bottom); NaN where `bottom` is below `least` of what it would be (`power` times the highest weight of
    the 3 x 3 pixels around) were all of them usable. `top`, `bottom` and `out` are the rows of `weight` from `first` on."""
    ny, nx = weight.shape
    highest = np.empty(nx, np.float32)
    for row in range(out.shape[0]):
        y = first + row
        up, down = min(y + 1, ny - 1), max(y - 1, 0)
        for x in range(nx):
            highest[x] = max(weight[y, x], max(weight[up, x], weight[down, x]))
        for x in range(nx):
            around = max(highest[x], max(highest[max(x - 1, 0)], highest[min(x + 1, nx - 1)]))
            if bottom[row, x] > least * power * around and bottom[row, x] > 0:
                out[row, x] = top[row, x] / sqrt(bottom[row, x])
            else:
                out[row, x] = np.nan


@njit(cache=True)
def residuals_of_stars(data: Any, variance: Any, star: Any, mask: Any, spoilt: Any, least: float) -> Any:
    """Of unspoilt pixels whose light is more than `least` of its noise: data² and variance over the light's square, (2, n)."""
    ny, nx = data.shape
    found = []
    for y in range(ny):
        for x in range(nx):
            light = star[y, x]
            if light > 0 and light * light > least * least * variance[y, x] and not mask[y, x] & spoilt:
                found.append((data[y, x] * data[y, x] / (light * light), variance[y, x] / (light * light)))
    result = np.empty((2, len(found)), np.float32)
    for i in range(len(found)):
        result[0, i], result[1, i] = found[i]
    return result


@njit(cache=True)
def blank_scores(score: Any, star: Any, variance: Any, unusable: Any, lit: bool, first: int, border: int, step: int) -> Any:
    """Scores (n,) below 4 of every `step`-th row's usable pixels, `border` px from the edge, that no star lights unless `lit`.

    `score` are the rows from `first` on, the others are whole images (ny, nx).
    """
    ny, nx = star.shape
    found = np.empty((score.shape[0] // step + 1) * nx, np.float32)
    count = 0
    for row in range(-first % step, score.shape[0], step):
        y = first + row
        if y < border or y >= ny - border:
            continue
        for x in range(border, nx - border):
            here = score[row, x]
            if unusable[y, x] or not abs(here) < 4:
                continue
            if lit or star[y, x] <= 0 or star[y, x] * star[y, x] < 4 * variance[y, x]:
                found[count] = here
                count += 1
    return found[:count]

"""What the light on a frame is like at large: the sky without its sources, and smooth surfaces through it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import ndimage

from payloads.isr import surroundings
from payloads.mask import UNUSABLE, Mask, any_set
from payloads.overscan import clipped_moments

Image = NDArray[np.float32]


def sky_pixels(
    image: Image, mask: NDArray[np.uint32], *, sigma: float = 3.0, grow_px: int = 6, block_px: int = 32
) -> NDArray[np.bool_]:
    """Pixels (ny, nx) that show the sky alone: usable, not SUSPECT, and away from what stands out of the surroundings.

    A source is where the image, smoothed over 3 px, is above its surroundings by `sigma` of its width; `grow_px` around it go
    with it.
    """
    unusable = any_set(mask, UNUSABLE | Mask.SUSPECT, image.shape) | ~np.isfinite(image)
    filled = np.where(unusable, np.float32(np.nan), image)
    background = surroundings(filled, block_px)
    flat = np.where(unusable, np.float32(0), image - background)
    smooth = ndimage.uniform_filter(flat, 3)
    _, width = clipped_moments(smooth)
    sources = ndimage.binary_opening(smooth > sigma * width, np.ones((2, 2)))
    return ~(unusable | ndimage.binary_dilation(sources, iterations=grow_px))


def smooth_surface(image: Image, good: NDArray[np.bool_], *, order: int = 4, blocks: int = 32, part: float = 0.2) -> Image:
    """A polynomial surface (ny, nx) of total `order` through the medians of `blocks` x `blocks` blocks of the `good` pixels.

    Chebyshev polynomials, weighted by the pixels of a block; blocks with less than `part` of them good are left out.
    ValueError where too few blocks are left to determine the surface.
    """
    ny, nx = image.shape
    rows, columns = (np.linspace(0, n, min(blocks, n) + 1).astype(int) for n in (ny, nx))
    points = []
    for y0, y1 in pairwise(rows):
        for x0, x1 in pairwise(columns):
            kept = good[y0:y1, x0:x1]
            if kept.mean() >= part:
                points.append((0.5 * (y0 + y1 - 1), 0.5 * (x0 + x1 - 1), np.median(image[y0:y1, x0:x1][kept]), kept.sum()))
    terms = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    if len(points) < 2 * len(terms):
        raise ValueError(f"{len(points)} blocks of sky do not determine a surface of order {order}")
    y, x, value, weight = np.array(points).T
    matrix = np.stack([_polynomial(y, ny, i) * _polynomial(x, nx, j) for i, j in terms], axis=1)
    root = np.sqrt(weight)
    solution, *_ = np.linalg.lstsq(matrix * root[:, None], value * root, rcond=None)
    coefficients = np.zeros((order + 1, order + 1))
    for (i, j), c in zip(terms, solution, strict=True):
        coefficients[i, j] = c
    return np.asarray(chebyshev.chebgrid2d(_unit(np.arange(ny), ny), _unit(np.arange(nx), nx), coefficients), dtype=np.float32)


def _unit(at: NDArray[np.floating], n: int) -> NDArray[np.float64]:
    return 2 * np.asarray(at, dtype=np.float64) / max(n - 1, 1) - 1


def _polynomial(at: NDArray[np.float64], n: int, order: int) -> NDArray[np.float64]:
    return chebyshev.chebval(_unit(at, n), np.eye(order + 1)[order])


def even_sky(image: Image, mask: NDArray[np.uint32]) -> tuple[Image, float]:
    """A sky frame over its median sky, NaN where a source or a defect is; and that median. ValueError: too little sky."""
    good = sky_pixels(image, mask)
    if good.mean() < 0.2:
        raise ValueError(f"only {good.mean():.0%} of its pixels show the sky")
    level = float(np.median(image[good]))
    return np.where(good, image / np.float32(level), np.float32(np.nan)), level

"""The cosmic-ray test of payloads.cosmic_rays, pixel by pixel."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)
def sharp_pixels(image: Any, variance: Any, blocked: Any, beside: Any, falls: Any, sigma: float, sharper: float) -> Any:
    """Indices into the raveled `image` (ny, nx) of pixels that stand above pairs of neighbours, all but one, and are sharper than
    a star. The one may be along the track that the pixel is of.

    `blocked` pixels are not looked at. Of the others all are, unless there are `beside` (n,), pixels beside a hit: then these
    alone, and they need half the `sigma`.
    """
    ny, nx = image.shape
    found = []
    few = beside.size > 0
    limit = sigma * 0.5 if few else sigma
    for k in range(beside.size if few else ny):
        if few and not (1 <= beside[k] // nx < ny - 1 and 1 <= beside[k] % nx < nx - 1):
            continue
        y = beside[k] // nx if few else k
        if y < 1 or y >= ny - 1:
            continue
        start = beside[k] % nx if few else 1
        for x in range(start, start + 1 if few else nx - 1):
            value = image[y, x]
            spread = variance[y, x]
            if value <= 0 or value * value <= limit * limit * spread or blocked[y, x]:
                continue
            error = sqrt(max(spread, 0.0))
            rise = value - limit * error
            a = 0.5 * (image[y, x - 1] + image[y, x + 1])
            b = 0.5 * (image[y - 1, x] + image[y + 1, x])
            c = 0.5 * (image[y - 1, x - 1] + image[y + 1, x + 1])
            d = 0.5 * (image[y - 1, x + 1] + image[y + 1, x - 1])
            if (rise > a) + (rise > b) + (rise > c) + (rise > d) < 3:
                continue
            sure, doubt = value - 2.0 * error, 2.0 * error / sqrt(2.0)
            if (
                sure * falls[0] > sharper * (max(a, 0.0) + doubt)
                or sure * falls[1] > sharper * (max(b, 0.0) + doubt)
                or sure * falls[2] > sharper * (max(c, 0.0) + doubt)
                or sure * falls[3] > sharper * (max(d, 0.0) + doubt)
            ):
                found.append(y * nx + x)
    result = np.empty(len(found), np.int64)
    for i in range(len(found)):
        result[i] = found[i]
    return result

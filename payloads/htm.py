"""Hierarchical triangular mesh: indices of many points at once (sphgeom indexes one point a call)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_X, _Y, _Z = np.eye(3)
# Corners of the eight root triangles, in sphgeom's order (S0 … S3, N0 … N3).
_ROOTS = np.array(
    [
        [_X, -_Z, _Y],
        [_Y, -_Z, -_X],
        [-_X, -_Z, -_Y],
        [-_Y, -_Z, _X],
        [_X, _Z, -_Y],
        [-_Y, _Z, -_X],
        [-_X, _Z, _Y],
        [_Y, _Z, _X],
    ]
)


def htm_index(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], level: int = 7) -> NDArray[np.int64]:
    """Index of the trixel that holds each point, as `lsst.sphgeom.HtmPixelization(level).index`.

    A point on an edge goes to the first of the triangles that share it. Method: Kunszt, Szalay & Thakar 2001, as in sphgeom.
    """
    ra, dec = np.radians(np.asarray(ra_deg, dtype=float)), np.radians(np.asarray(dec_deg, dtype=float))
    v = np.stack([np.cos(ra) * np.cos(dec), np.sin(ra) * np.cos(dec), np.sin(dec)], axis=-1)
    x, y, south = v[:, 0], v[:, 1], v[:, 2] < 0
    quadrant = np.where(y > 0, np.where(x > 0, 0, 1), np.where(y == 0, np.where(x >= 0, 0, 2), np.where(x < 0, 2, 3)))
    index = np.where(south, quadrant, 7 - quadrant).astype(np.int64)
    corners = _ROOTS[index]
    index += 8
    for _ in range(level):
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        ab, bc, ca = a + b, b + c, c + a
        in_a, in_b, in_c = (np.einsum("ij,ij->i", v, np.cross(p, q)) >= 0 for p, q in ((ab, ca), (bc, ab), (ca, bc)))
        child = np.select([in_a, in_b, in_c], [0, 1, 2], default=3)
        choices = np.stack(
            [np.stack([a, ab, ca], 1), np.stack([b, bc, ab], 1), np.stack([c, ca, bc], 1), np.stack([bc, ca, ab], 1)], 1
        )
        corners = choices[np.arange(len(v)), child]
        corners = corners / np.linalg.norm(corners, axis=-1, keepdims=True)
        index = index * 4 + child
    return index

"""Which star is which: two lists of positions that differ by a shift and a small rotation, and the affine map between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.special import pdtrc

from backbone.errors import PermanentError

_DEEPEST = 10
"""Parts of the second list that are tried."""


class NoMatch(PermanentError):
    """Two lists of stars of which no shift and rotation makes one."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """`affine` (2, 3) maps points of the first list to the second; `first`, `second` are the indices of the pairs; `rms` per
    axis."""

    affine: NDArray[np.float64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    rms: float


def apply_affine(affine: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map points (n, 2) by an affine (2, 3)."""
    return points @ affine[:, :2].T + affine[:, 2]


def match_stars(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    max_shift: float,
    max_rotation_deg: float = 0.6,
    brightest: int = 200,
    bin_size: float = 3.0,
    tolerance: float = 1.0,
    min_pairs: int = 6,
) -> Match:
    """Match points (n, 2) and (m, 2), each ordered from bright to faint; lengths in pixels.

    The second list may begin with stars that the first has not: those that saturate a frame, in crowded fields by the hundred.
    Where its brightest find no match the next fainter ones are tried.

    The `brightest` of each vote for the shift of every pair, in a histogram of `bin_size`, one for each rotation of a grid
    around the middle of the first list that moves its outermost star by at most a bin from step to step. The highest peak,
    which must stand out from chance (Poisson, all trials counted) at better than one in a thousand, starts an iterated affine
    fit of all points by nearest neighbours, within 3 bins to `tolerance`. NoMatch where there is no such peak, or fewer than
    `min_pairs` pairs in the end.
    """
    if len(first) < min_pairs or len(second) < min_pairs:
        raise NoMatch(f"{len(first)} and {len(second)} stars: at least {min_pairs} are needed in each list")
    centre = 0.5 * (first.min(axis=0) + first.max(axis=0))
    affine = _voted(first, second, centre, max_shift, max_rotation_deg, brightest, bin_size)
    tree = KDTree(second)
    for limit in (3.0 * bin_size, 1.5 * bin_size, bin_size, tolerance, tolerance, tolerance):
        pairs = _pairs(tree, apply_affine(affine, first), max(limit, tolerance))
        if len(pairs[0]) < min_pairs:
            raise NoMatch(f"{len(pairs[0])} pairs within {limit:.1f} px after the best shift, {min_pairs} needed: another field?")
        affine = _fit_affine(first[pairs[0]], second[pairs[1]])
    residual = apply_affine(affine, first[pairs[0]]) - second[pairs[1]]
    kept = np.hypot(*residual.T) < 4.0 * max(1.2 * float(np.median(np.hypot(*residual.T))), 1e-9)
    index = (pairs[0][kept], pairs[1][kept])
    affine = _fit_affine(first[index[0]], second[index[1]])
    residual = apply_affine(affine, first[index[0]]) - second[index[1]]
    return Match(affine=affine, first=index[0], second=index[1], rms=float(np.sqrt((residual**2).mean())))


def _voted(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    centre: NDArray[np.float64],
    max_shift: float,
    max_rotation_deg: float,
    brightest: int,
    bin_size: float,
) -> NDArray[np.float64]:
    """The affine of the first part of the second list that has one."""
    for begin in range(0, min(len(second), _DEEPEST * brightest), brightest):
        try:
            # Where the list's saturated stars end is not known: beyond them a part twice as long has those that the first has.
            part = second[begin : begin + (2 if begin else 1) * brightest]
            trials = _DEEPEST if begin else 1
            return _vote(first[:brightest], part, centre, max_shift, max_rotation_deg, bin_size, trials)
        except NoMatch as error:
            if not begin:
                failed = error
    raise failed


def _vote(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    centre: NDArray[np.float64],
    max_shift: float,
    max_rotation_deg: float,
    bin_size: float,
    trials: int,
) -> NDArray[np.float64]:
    """The affine (a shift and a rotation) with most votes; `trials` as good are made."""
    a, b = first - centre, second
    reach = float(np.hypot(*a.T).max())
    step = bin_size / max(reach, bin_size)
    count = int(np.ceil(np.deg2rad(max_rotation_deg) / step))
    bins = int(np.ceil(2 * max_shift / bin_size)) + 2
    half = bins * bin_size / 2
    best = (-1.0, 0.0, np.zeros(2), 0.0)
    for angle in sorted(np.arange(-count, count + 1) * step, key=abs):
        turned = a @ _rotation(angle).T
        shifts = (b[None, :, :] - turned[:, None, :] - centre).reshape(-1, 2)
        shifts = shifts[(np.abs(shifts) < half).all(axis=1)]
        cells = np.floor((shifts + half) / bin_size).astype(np.int64)
        votes = np.bincount(cells[:, 0] * bins + cells[:, 1], minlength=bins * bins).reshape(bins, bins).astype(np.float64)
        # A true shift falls on a corner of cells as easily as inside one.
        summed = ndimage.uniform_filter(votes, 2, mode="constant") * 4.0
        peak = np.unravel_index(int(summed.argmax()), summed.shape)
        if summed[peak] > best[0]:
            near = (np.abs(shifts - (np.array(peak) * bin_size - half)) <= bin_size).all(axis=1)
            best = (float(summed[peak]), float(angle), shifts[near].mean(axis=0), float(4.0 * votes.mean()))
    votes_best, angle, shift, chance = best
    _check_peak(votes_best, chance, trials * bins * bins * (2 * count + 1), max_shift)
    turn = _rotation(angle)
    return np.column_stack([turn, centre + shift - turn @ centre])


def _check_peak(votes: float, chance: float, trials: int, max_shift: float) -> None:
    """Poisson: would chance alone, in as many trials as were made, reach so many votes once in a thousand times?"""
    if votes < 4 or pdtrc(votes - 1, max(chance, 1e-3)) * trials > 1e-3:
        raise NoMatch(
            f"no shift within {max_shift:.0f} px stands out: {votes:.0f} pairs agree where chance gives {chance:.1f};"
            " another field, clouds, or a pointing further off than allowed"
        )


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _pairs(tree: KDTree, points: NDArray[np.float64], limit: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mutual pairs: each point's nearest, and of several points with one nearest only the closest."""
    distance, nearest = tree.query(points, distance_upper_bound=limit)
    index = np.flatnonzero(np.isfinite(distance))
    index = index[np.argsort(distance[index], kind="stable")]
    _, unique = np.unique(nearest[index], return_index=True)
    kept = index[unique]
    return kept, nearest[kept]


def _fit_affine(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    design = np.column_stack([first, np.ones(len(first))])
    return np.linalg.lstsq(design, second, rcond=None)[0].T

"""Does a crosstalk matrix hold on the sky (DMS-REQ-0061)? The ghosts of bright stars, before the correction and after it.

In frames that the matrix was not made of, each bright or saturated star of an amplifier is looked for at its place in every other
one: the victim's light there above a ring around it, over the star's (Freyhammer et al. 2001, Exp. Astron. 12, 147), in the frame
as it was read and with the matrix applied. Stars of a pair of amplifiers make a clipped mean, since faint stars lie under some
ghosts; pairs are put together by how much of the ghosts that the matrix foretells is there (1 as read, 0 corrected), and by how
much of what would be there were victims and sources exchanged. How far either may be off by chance is seen where no ghosts are:
the same is measured at places shifted within the victim; what is found there is subtracted, and its scatter is the error.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from payloads.camera import Detector, parse_section
from payloads.crosstalk import CrosstalkSettings
from payloads.isr import surroundings
from payloads.overscan import clipped_moments, correct_crosstalk
from payloads.verification import Check

SHIFTS = 16
LEFT = 0.1
"""Part of the ghosts that may be left."""
TELLING = 0.25
"""A matrix is verified where so large a part would be found."""
SIGMA, SIGMA_AMPLIFIER = 4.0, 5.0
"""Errors by which it must be off to be refused; of many amplifiers one is four off by chance."""
_RING_PX = (4, 9)
_NEAR_PX = 24  # a shift beyond it leaves no star near its own ghost
_PIXELS = (3, 20_000)  # of a star with its bleeding; with less or more it is none
_STARS = 100  # of an amplifier in a frame, the brightest
_LEAST = 0.7  # part of a star's light, and of its ring, that must fall on usable pixels
_FAINT = 0.1  # of the largest coefficient: pairs below are no ghosts that could be seen
_CLIP = 3.5

Image = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Ghosts:
    """Of the victims of `amplifier` ("" for all): `foretold`, rms of the ghosts that the matrix foretells over the pixels of
    bright stars, ADU; parts of it that are there `before` and `after` the correction, and their `error`; `swapped`, with its
    error: part of the difference that exchanged victims and sources would make (nan where it makes none)."""

    amplifier: str
    foretold: float
    before: float
    after: float
    error: float
    swapped: float = math.nan
    swapped_error: float = math.nan

    @property
    def telling(self) -> bool:
        """Whether a wrong matrix would have been found out."""
        swap = not math.isfinite(self.swapped) or self.swapped_error * SIGMA < 1
        return self.error * SIGMA <= TELLING and swap

    def checks(self) -> list[Check]:
        """Numbers for the verdict."""
        sigma = SIGMA_AMPLIFIER if self.amplifier else SIGMA
        allowed = max(LEFT, sigma * self.error) if math.isfinite(self.error) else LEFT
        found = math.isfinite(self.after)
        hint = f"so much of the ghosts of bright stars is left on the sky ({self.error:.2g} is chance): the matrix is wrong"
        adu = {"amplifier": self.amplifier, "unit": "ADU", "decisive": False}
        checks = [
            Check(name="sky_ghost_before", value=self.foretold * self.before, **adu),
            Check(name="sky_ghost_after", value=self.foretold * self.after, **adu),
            Check(name="sky_ghost_error", value=self.foretold * self.error, **adu),
            Check(
                name="sky_left", amplifier=self.amplifier, value=self.after, low=-allowed, high=allowed, decisive=found, hint=hint
            ),
        ]
        if math.isfinite(self.swapped):
            hint = "ghosts of bright stars are left on the sky as if victims and sources were exchanged"
            high = max(TELLING, SIGMA * self.swapped_error)
            checks.append(Check(name="sky_swapped", amplifier=self.amplifier, value=self.swapped, high=high, hint=hint))
        return checks


@dataclass(frozen=True, eq=False)
class _Star:
    """Bright pixels that hang together, and a ring around them, rows and columns within the amplifier; its light in ADU."""

    pixels: tuple[NDArray[np.int64], NDArray[np.int64]]
    ring: tuple[NDArray[np.int64], NDArray[np.int64]]
    light: NDArray[np.float64]


class GhostTest:
    """Adds up frames of one detector (`bare`: its description without crosstalk and linearity) for one matrix."""

    def __init__(self, bare: Detector, coefficients: Any, settings: CrosstalkSettings | None = None) -> None:
        self.settings = settings or CrosstalkSettings()
        self._corrected = bare.model_copy(update={"crosstalk": tuple(map(tuple, np.asarray(coefficients, float).tolist()))})
        self._places = [parse_section(a.place) for a in bare.amplifiers]
        self._names = [a.name for a in bare.amplifiers]
        self._matrix = np.asarray(coefficients, float)
        size = np.maximum(np.abs(self._matrix), np.abs(self._matrix.T))
        self._pairs = {(int(v), int(s)) for v, s in np.argwhere((size > 0) & (size >= _FAINT * size.max()))}
        self._found: dict[tuple[int, int], list[NDArray[np.float64]]] = defaultdict(list)
        self.n_stars = 0

    def add(self, data: Image, unusable: NDArray[np.bool_] | None = None) -> int:
        """A trimmed frame (ny, nx) in ADU, overscan and bias taken off; saturated pixels are stars too. How many it has."""
        clean = data if unusable is None else np.where(unusable, np.float32(np.nan), data)
        before, after = self._signals(clean), self._signals(correct_crosstalk(clean, self._corrected))
        bright = np.nan_to_num(before) > self.settings.bright_adu
        count = bright.sum(axis=0)
        moved = shifts(count.shape)
        noise = [clipped_moments(signal[count == 0])[1] for signal in before]
        found = 0
        for source, lit in enumerate(bright):
            for star in _stars(lit, before[source]):
                found += 1
                for victim in range(len(before)):
                    if (victim, source) in self._pairs:
                        rows = _fractions(before[victim], after[victim], star, count, moved)
                        weight = (star.light**2).sum() / noise[victim] ** 2
                        if math.isfinite(rows[0]):
                            self._found[victim, source].append(np.array([weight, noise[victim] ** 2, len(star.light), *rows]))
        self.n_stars += found
        return found

    def _signals(self, data: Image) -> NDArray[np.float32]:
        """Amplifiers (n, ny, nx) above their backgrounds."""
        parts = np.stack([data[place] for place in self._places])
        return np.stack([part - surroundings(part, self.settings.block_px) for part in parts])

    def ghosts(self) -> list[Ghosts]:
        """Of all amplifiers together, which comes first, and of each as the victim."""
        pairs = {pair: _of_pair(np.array(rows)) for pair, rows in self._found.items()}
        parts = [("", pairs)]
        parts += [(name, {p: of for p, of in pairs.items() if p[0] == k}) for k, name in enumerate(self._names)]
        return [self._ghosts(name, of) for name, of in parts]

    def _ghosts(self, name: str, pairs: Mapping[tuple[int, int], _Pair]) -> Ghosts:
        """Projections of all pairs' fractions on the matrix, and on what it would be less itself were it transposed."""
        if not pairs:
            return Ghosts(amplifier=name, foretold=math.nan, before=math.nan, after=math.nan, error=math.nan)
        foretold = np.array([self._matrix[pair] for pair in pairs])
        exchanged = np.array([self._matrix[pair[::-1]] for pair in pairs]) - foretold
        weight, light, pixels = (np.array([getattr(p, key) for p in pairs.values()]) for key in ("weight", "light", "pixels"))
        fractions = np.stack([p.fractions for p in pairs.values()])
        ghost = math.sqrt(float((foretold**2 * light).sum() / pixels.sum()))
        (before, after), error = _projected(fractions, foretold, weight)
        swap: dict[str, float] = {}
        if not name and (exchanged**2 * weight).sum() > 0.01 * (foretold**2 * weight).sum():
            (_, swapped), swapped_error = _projected(fractions, exchanged, weight)
            swap = {"swapped": swapped, "swapped_error": swapped_error}
        return Ghosts(amplifier=name, foretold=ghost, before=before, after=after, error=error, **swap)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """Of a victim and a source: `weight` in 1/variance, `light` (ADU², summed over `pixels`), and `fractions` of the source's
    light in the victim (2 + SHIFTS,): before, after, at shifted places."""

    weight: float
    light: float
    pixels: float
    fractions: NDArray[np.float64]


def _of_pair(rows: NDArray[np.float64]) -> _Pair:
    weight, variance, pixels = rows[:, :3].T
    fractions = np.array([_clipped_mean(column[known], weight[known], 1.0) if (known := np.isfinite(column)).any() else 0.0
                          for column in rows[:, 3:].T])  # fmt: skip
    return _Pair(weight=weight.sum(), light=(weight * variance).sum(), pixels=pixels.sum(), fractions=fractions)


def _projected(
    fractions: NDArray[np.float64], pattern: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[tuple[float, float], float]:
    """Amplitudes of a pattern (pairs,) before and after, less the mean at shifted places, and the scatter of those."""
    norm = float((pattern**2 * weight).sum())
    if norm == 0:
        return (math.nan, math.nan), math.nan
    before, after, *chance = ((fractions.T * pattern * weight).sum(axis=1) / norm).tolist()
    middle = float(np.mean(chance))
    return (before - middle, after - middle), float(np.std(chance, ddof=1))


def _stars(lit: NDArray[np.bool_], signal: Image) -> list[_Star]:
    """The brightest of an amplifier."""
    labels, _ = ndimage.label(lit, structure=np.ones((3, 3)))
    stars = [star for n, box in enumerate(ndimage.find_objects(labels), 1) if (star := _star(labels[box] == n, box, signal))]
    return sorted(stars, key=lambda star: -float((star.light**2).sum()))[:_STARS]


def _star(inside: NDArray[np.bool_], box: tuple[slice, slice], signal: Image) -> _Star | None:
    inner, outer = _RING_PX
    if not _PIXELS[0] <= inside.sum() <= _PIXELS[1]:
        return None
    away = ndimage.distance_transform_edt(~np.pad(inside, outer))
    corner = [s.start - outer for s in box]
    (y, x), (ring_y, ring_x) = (np.nonzero(where) for where in (away == 0, (away >= inner) & (away <= outer)))
    pixels = (y + corner[0], x + corner[1])
    return _Star(pixels, (ring_y + corner[0], ring_x + corner[1]), signal[pixels].astype(np.float64))


def _fractions(before: Image, after: Image, star: _Star, count: NDArray[Any], moved: list[tuple[int, int]]) -> list[float]:
    """Of the star's light in a victim (ny, nx): before, after, and at shifted places."""
    found = [_fraction(before, star, count, 1, (0, 0)), _fraction(after, star, count, 1, (0, 0))]
    return found + [_fraction(after, star, count, 0, shift) for shift in moved]


def _fraction(victim: Image, star: _Star, count: NDArray[Any], own: int, shift: tuple[int, int]) -> float:
    """Of the star's light in a victim (ny, nx), by least squares over the ring's median; NaN where other bright stars are in
    the way. `own`: how many amplifiers are bright at the place for the star's sake."""
    (y, x), (ring_y, ring_x) = (
        tuple((k + s) % size for k, s, size in zip(place, shift, victim.shape, strict=True)) for place in (star.pixels, star.ring)
    )
    there, around = victim[y, x], victim[ring_y, ring_x]
    usable, free = (count[y, x] == own) & np.isfinite(there), (count[ring_y, ring_x] == 0) & np.isfinite(around)
    squares = star.light**2
    if free.mean() < _LEAST or squares[usable].sum() < _LEAST * squares.sum():
        return math.nan
    return float((star.light * (there - np.median(around[free])))[usable].sum() / squares[usable].sum())


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    known = np.isfinite(values)
    if not known.any():
        return math.nan
    order = np.argsort(values[known])
    grown = np.cumsum(weights[known][order])
    return float(np.interp(0.5 * grown[-1], grown - 0.5 * weights[known][order], values[known][order]))


def _clipped_mean(values: NDArray[np.float64], weights: NDArray[np.float64], noise: float) -> float:
    """Of fractions whose errors are noise / sqrt(weight), about their weighted median."""
    middle = _weighted_median(values, weights)
    for _ in range(3):
        kept = np.abs(values - middle) * np.sqrt(weights) <= _CLIP * noise
        if not kept.any():
            break
        middle = float((values * weights)[kept].sum() / weights[kept].sum())
    return middle


def shifts(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns by which places are moved, the same each time: spread evenly (the R2 sequence), none of them small."""
    found: list[tuple[int, int]] = []
    number = 0
    while len(found) < SHIFTS:
        number += 1
        y, x = (int(n * (0.5 + number * step) % n) for n, step in zip(shape, (0.7548776662, 0.5698402910), strict=True))
        if max(min(y, shape[0] - y), min(x, shape[1] - x)) >= min(_NEAR_PX, min(shape) // 4):
            found.append((y, x))
    return found


def verdict(test: GhostTest | None, n_frames: int) -> tuple[list[Check], dict[str, Any], list[str]]:
    """Checks, what is stored of them, and what a reader must know: the matrix is verified on the sky, or why not."""
    if test is None or not n_frames:
        why = "no frame of the sky with bright stars, other than it was made of"
        return [], {"verified": False, "why": why}, [f"not verified on science: {why}"]
    whole, *others = test.ghosts()
    checks = [check for ghosts in (whole, *others) for check in ghosts.checks()]
    found = f"{test.n_stars} bright stars of {n_frames} frames"
    left = f"{whole.after:.2f} ± {whole.error:.2f} of the ghosts of {found} is left"
    if whole.telling:
        verified = all(check.passed for check in checks if check.decisive)
        return checks, {"verified": verified, "why": left}, [f"on science {left}"]
    why = f"too few: {left}" if math.isfinite(whole.after) else f"none of the ghosts that it foretells was to be seen in {found}"
    return checks, {"verified": False, "why": why}, [f"not verified on science: {why}"]

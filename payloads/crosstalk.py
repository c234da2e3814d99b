"""How much of each amplifier's signal appears in every other (DMS-REQ-0061): measured from bright sources.

Amplifiers are read at one time, so a bright pixel of one leaves its fraction at the same place of the others' sections. For each
victim all sources are fitted together, by least squares over the pixels at which any other amplifier is bright, on what a smooth
background leaves (O'Connor 2015, JINST 10 C05010; Snyder et al. 2021, JATIS 7, 048002); sources of the victim's own are clipped.
Normal equations are all that is kept of a frame, so frames come one after another. What is seen of a source in other amplifiers
is in turn taken for light of theirs, which makes a coefficient wrong by the products of two others: a part in a thousand of it,
and several times its error where sources are many; the solution takes that off. `payloads.overscan.correct_crosstalk` is
where a matrix is applied, and applied here in advance it verifies it: what is measured then is what the matrix leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Detector, parse_section
from payloads.isr import surroundings
from payloads.overscan import FrameUnusable, clipped_moments

_ROUNDS = 4
_WINGS = 0.05  # of a bright source, at which it is no background any more
_BLOCKS = 8  # along each side of an amplifier: what pixels of one place have in common, in all frames, is told from these
_FEWEST = 4  # clusters that an error can be told from


@dataclass(frozen=True, kw_only=True)
class CrosstalkSettings:
    """How sources are chosen."""

    bright_adu: float = 5000.0  # a source above its background
    clip: float = 4.5  # sigma of the residuals; beyond, a victim's pixel has light of its own
    block_px: int = 64  # of the background: far larger than any ghost


@dataclass(frozen=True, kw_only=True)
class CrosstalkMatrix:
    """[victim][source], n x n each: coefficients (diagonal 0; NaN where no source was bright), their standard errors, and the
    number of pixels at which that source was bright."""

    coefficients: NDArray[np.float64]
    errors: NDArray[np.float64]
    n_pixels: NDArray[np.int64]


@dataclass(frozen=True)
class _Sums:
    """Normal equations of all victims: `normal` (n, n, n), `right` (n, n), weighted by the noise."""

    normal: NDArray[np.float64]
    right: NDArray[np.float64]

    @classmethod
    def none(cls, n: int) -> _Sums:
        """Of no pixel yet, for n amplifiers."""
        return cls(np.zeros((n, n, n)), np.zeros((n, n)))


class CrosstalkFit:
    """Adds up frames of one detector; `solve` gives the matrix of all so far."""

    def __init__(self, detector: Detector, settings: CrosstalkSettings | None = None) -> None:
        self.settings = settings or CrosstalkSettings()
        self.places = [parse_section(a.place) for a in detector.amplifiers]
        if len({tuple(s.stop - s.start for s in place) for place in self.places}) != 1:
            raise FrameUnusable(f"detector {detector.name} has amplifiers of different sizes: their pixels do not correspond")
        n = len(self.places)
        self.frames: list[_Sums] = []
        self.n_pixels = np.zeros((n, n), dtype=np.int64)
        rows, columns = (s.stop - s.start for s in self.places[0])
        blocks = np.arange(rows)[:, None] * _BLOCKS // rows * _BLOCKS + np.arange(columns)[None, :] * _BLOCKS // columns
        self._order = np.argsort(blocks, axis=None, kind="stable")  # of an amplifier's pixels, block after block
        self._ends = np.cumsum(np.bincount(blocks.ravel(), minlength=_BLOCKS**2))
        self.blocks = [_Sums.none(n) for _ in range(_BLOCKS**2)]

    def add(self, data: NDArray[np.float32], unusable: NDArray[np.bool_] | None = None) -> int:
        """A trimmed frame (ny, nx) in ADU, overscan and bias taken off; returns in how many amplifiers it had bright sources."""
        clean = data if unusable is None else np.where(unusable, np.float32(np.nan), data)
        parts = np.stack([clean[place] for place in self.places])
        above = parts - np.nanmedian(parts, axis=(1, 2), keepdims=True)
        # Ghosts are no background: wherever any amplifier has light, none shows its own.
        lit = (np.nan_to_num(above) > _WINGS * self.settings.bright_adu).any(axis=0)
        dark = np.where(lit, np.float32(np.nan), parts)
        signals = np.stack([part - surroundings(back, self.settings.block_px) for part, back in zip(parts, dark, strict=True)])
        signals = signals.reshape(len(self.places), -1)[:, self._order]
        bright = np.nan_to_num(signals) > self.settings.bright_adu
        self.frames.append(_Sums.none(len(self.places)))
        for victim in range(len(self.places)):
            self._add_victim(victim, signals, bright)
        return int(bright.any(axis=1).sum())

    def _add_victim(self, victim: int, signals: NDArray[np.float32], bright: NDArray[np.bool_]) -> None:
        others = np.arange(len(signals)) != victim
        wanted = bright[others].any(axis=0) & ~bright[victim] & np.isfinite(signals[victim])
        if not wanted.any():
            return
        sources = np.nan_to_num(signals[:, wanted].astype(np.float64)).T
        sources[:, victim] = 0.0
        target = signals[victim, wanted].astype(np.float64)
        _, noise = clipped_moments(signals[victim][~bright.any(axis=0)])
        kept = np.ones(len(target), dtype=bool)
        for _ in range(_ROUNDS):
            # The victim's own column is zero: the pseudo-inverse leaves it out.
            fit = np.linalg.pinv(sources[kept].T @ sources[kept]) @ (sources[kept].T @ target[kept])
            residual = target - sources @ fit
            middle = np.median(residual[kept])
            kept = np.abs(residual - middle) <= self.settings.clip * max(noise, 1e-6)
            if not kept.any():
                return
        sources, target = sources[kept] / noise, target[kept] / noise
        ends = np.searchsorted(np.flatnonzero(wanted)[kept], self._ends)
        for block, first, end in zip(self.blocks, np.r_[0, ends], ends, strict=False):
            if end > first:
                part = sources[first:end]
                normal, right = part.T @ part, part.T @ target[first:end]
                for sums in (block, self.frames[-1]):
                    sums.normal[victim] += normal
                    sums.right[victim] += right
        self.n_pixels[victim] += bright[:, wanted][:, kept].sum(axis=1)

    def solve(self) -> CrosstalkMatrix:
        """The matrix; NaN for pairs without bright pixels."""
        n = len(self.places)
        coefficients, errors = np.full((n, n), np.nan), np.full((n, n), np.nan)
        for victim in range(n):
            known = self.n_pixels[victim] > 0
            known[victim] = False
            if known.any():
                coefficients[victim, known], errors[victim, known] = self._solve_victim(victim, known)
        np.fill_diagonal(coefficients, 0.0)
        np.fill_diagonal(errors, 0.0)
        return CrosstalkMatrix(coefficients=_of_true_light(coefficients), errors=errors, n_pixels=self.n_pixels.copy())

    def _solve_victim(self, victim: int, known: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients by observed light, and their errors: not smaller than those of white noise.

        Background and overscan are wrong by the same for many pixels of a frame, the master bias for a pixel in all frames, so
        that pixels are not independent: frames are, and places are (sandwich estimates with either as clusters, what both hold
        counted once: Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29, 238).
        """
        inverse = np.linalg.pinv(sum(frame.normal[victim][np.ix_(known, known)] for frame in self.frames))
        solution = inverse @ sum(frame.right[victim][known] for frame in self.frames)
        white = np.diag(inverse)
        variances = [_clustered(clusters, victim, known, inverse, solution) for clusters in (self.frames, self.blocks)]
        variance = np.maximum(sum((np.maximum(v, white) - white for v in variances), white), white)
        return solution, np.sqrt(variance)


def _clustered(
    clusters: list[_Sums], victim: int, known: NDArray[np.bool_], inverse: NDArray[np.float64], solution: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Variances (n,) of the solution's coefficients as the clusters' disagreement shows them; 0 where there are too few."""
    lit = [c for c in clusters if c.normal[victim].any()]
    if len(lit) < _FEWEST:
        return np.zeros(len(solution))
    scores = np.stack([c.right[victim][known] - c.normal[victim][np.ix_(known, known)] @ solution for c in lit])
    return np.asarray(np.diag(inverse @ (scores.T @ scores) @ inverse) * len(lit) / (len(lit) - 1))


def _of_true_light(observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """X of observed = (1 + X) true, from coefficients C that foretell a victim from what is observed of all others: of those a
    source lights it is X = C (1 + X), row by row without the victim."""
    known = np.nan_to_num(observed)
    true = known
    for _ in range(_ROUNDS):
        true = known + known @ true
        np.fill_diagonal(true, 0.0)
    return np.where(np.isfinite(observed), true, np.nan)

"""How much of each amplifier's signal appears in every other (DMS-REQ-0061): measured from bright sources.

Amplifiers are read at one time, so a bright pixel of one leaves its fraction at the same place of the others' sections. For each
victim all sources are fitted together, by least squares over the pixels at which any other amplifier is bright, on what a smooth
background leaves (O'Connor 2015, JINST 10 C05010; Snyder et al. 2021, JATIS 7, 048002); sources of the victim's own are clipped.
Normal equations are all that is kept of a frame, so frames come one after another. `payloads.overscan.correct_crosstalk` is
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


class CrosstalkFit:
    """Adds up frames of one detector; `solve` gives the matrix of all so far."""

    def __init__(self, detector: Detector, settings: CrosstalkSettings | None = None) -> None:
        self.settings = settings or CrosstalkSettings()
        self.places = [parse_section(a.place) for a in detector.amplifiers]
        if len({tuple(s.stop - s.start for s in place) for place in self.places}) != 1:
            raise FrameUnusable(f"detector {detector.name} has amplifiers of different sizes: their pixels do not correspond")
        n = len(self.places)
        self.frames: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self.n_pixels = np.zeros((n, n), dtype=np.int64)

    def add(self, data: NDArray[np.float32], unusable: NDArray[np.bool_] | None = None) -> int:
        """A trimmed frame (ny, nx) in ADU, overscan and bias taken off; returns in how many amplifiers it had bright sources."""
        clean = data if unusable is None else np.where(unusable, np.float32(np.nan), data)
        parts = np.stack([clean[place] for place in self.places])
        above = parts - np.nanmedian(parts, axis=(1, 2), keepdims=True)
        # Ghosts are no background: wherever any amplifier has light, none shows its own.
        lit = (np.nan_to_num(above) > _WINGS * self.settings.bright_adu).any(axis=0)
        dark = np.where(lit, np.float32(np.nan), parts)
        signals = np.stack([part - surroundings(back, self.settings.block_px) for part, back in zip(parts, dark, strict=True)])
        signals = signals.reshape(len(self.places), -1)
        bright = np.nan_to_num(signals) > self.settings.bright_adu
        n = len(self.places)
        self.frames.append((np.zeros((n, n, n)), np.zeros((n, n))))
        for victim in range(n):
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
        normal, right = self.frames[-1]
        normal[victim] = sources[kept].T @ sources[kept] / noise**2
        right[victim] = sources[kept].T @ target[kept] / noise**2
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
        return CrosstalkMatrix(coefficients=coefficients, errors=errors, n_pixels=self.n_pixels.copy())

    def _solve_victim(self, victim: int, known: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients, and the larger of the errors of white noise and of those that the frames' disagreement shows.

        Background and overscan are wrong by the same for many pixels of a frame, so that pixels are not independent: frames are
        (the sandwich estimate with a frame as the cluster; from four frames on).
        """
        normals = [normal[victim][np.ix_(known, known)] for normal, _ in self.frames]
        rights = [right[victim][known] for _, right in self.frames]
        inverse = np.linalg.pinv(sum(normals))
        solution = inverse @ sum(rights)
        variance = np.diag(inverse)
        count = len(self.frames)
        if count >= 4:
            scores = np.stack([right - normal @ solution for normal, right in zip(normals, rights, strict=True)])
            clustered = np.diag(inverse @ (scores.T @ scores) @ inverse) * count / (count - 1)
            variance = np.maximum(variance, clustered)
        return solution, np.sqrt(variance)

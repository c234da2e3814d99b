"""Running sums of a clipped weighted mean, to which blocks of frames are added (the loop is compiled)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.compiled.clipping import clip_block

Plane = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Of all frames so far, each (ny, nx): weighted `means` and `weights` of the even and of the odd frames (2, ny, nx);
    `noise2`, the sum of (weight * expected noise)²; counts; `scatter`, over the expected, averaged over batches by frames."""

    means: NDArray[np.float32]
    weights: NDArray[np.float32]
    noise2: Plane
    scatter: Plane
    used: NDArray[np.uint16]
    clipped: NDArray[np.uint16]

    @classmethod
    def zeros(cls, shape: tuple[int, int]) -> Sums:
        """No frame yet."""
        return cls(
            means=np.zeros((2, *shape), dtype=np.float32),
            weights=np.zeros((2, *shape), dtype=np.float32),
            noise2=np.zeros(shape, dtype=np.float32),
            scatter=np.zeros(shape, dtype=np.float32),
            used=np.zeros(shape, dtype=np.uint16),
            clipped=np.zeros(shape, dtype=np.uint16),
        )

    def mean(self) -> Plane:
        """Of all frames; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            part = self.weights[1] / (self.weights[0] + self.weights[1])
        return np.asarray(self.means[0] + part * (self.means[1] - self.means[0]), dtype=np.float32)

    def variance(self) -> Plane:
        """Of the mean, as the noise model has it; NaN where there is no frame."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.noise2 / (self.weights[0] + self.weights[1]) ** 2, dtype=np.float32)

    def halves_width(self, moments: Callable[[Plane], tuple[float, float]]) -> float:
        """Standard deviation of the difference of the two halves, of up to some 256 rows."""
        rows = slice(None, None, max(1, self.used.shape[0] // 256))
        both = (self.weights[0, rows] > 0) & (self.weights[1, rows] > 0)
        return moments((self.means[0, rows] - self.means[1, rows])[both])[1]


def clip_into(
    sums: Sums,
    rows: slice,
    block: NDArray[np.float32],
    numbers: NDArray[np.float32],
    half: NDArray[np.int64],
    *,
    read: Plane,
    photon: Plane | None,
    clip: float,
) -> None:
    """Add a block (n, rows, nx) of frames to the sums at `rows`; `numbers` (n, 3) are weight, read and photon of each frame,
    `half` (n,) 0 or 1, `read` and `photon` (rows, nx) the noise maps."""
    clip_block(
        block,
        numbers,
        half,
        np.ascontiguousarray(read, dtype=np.float32),
        np.zeros((0, 0), dtype=np.float32) if photon is None else np.ascontiguousarray(photon, dtype=np.float32),
        np.float32(clip),
        sums.means[:, rows],
        sums.weights[:, rows],
        sums.noise2[rows],
        sums.scatter[rows],
        sums.used[rows],
        sums.clipped[rows],
    )

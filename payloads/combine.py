"""Master calibration frames: a clipped, weighted mean of many frames in bounded memory.

Frames come one after another and are combined in batches: a batch is spooled (in memory while it fits the budget, then in an
unnamed scratch file), read back in blocks of rows with all its frames in hand, clipped exactly, and added to running weighted
means. So memory is one frame, a few planes and the budget whatever the number of frames, scratch space is one batch, and the
cost is that of reading and clipping each frame once. Only where frames of an early batch turn out, beside all the others, to be
outliers (or not to be), everything is read once more without (or with) them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from backbone.errors import PermanentError
from payloads.clipping import Sums, clip_into
from payloads.frame_facts import FrameFacts, OutlierRules, facts_of, find_outliers
from payloads.overscan import FrameUnusable, clipped_moments

BATCH = 32


class CombineError(PermanentError):
    """Too few usable frames for a master."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame ready to be combined: `image` (ny, nx) float32, its `weight`, and its noise: the variance of a pixel is expected
    to be `(read * R)² + photon * P * max(level, 0)` with R and P of `NoiseMaps`."""

    image: NDArray[np.float32]
    weight: float = 1.0
    read: float = 1.0
    photon: float = 0.0


@dataclass(frozen=True, kw_only=True)
class NoiseMaps:
    """R and P, (ny, nx), in the unit of the frames that were given as `Frame` with scales of 1."""

    read: NDArray[np.float32]
    photon: NDArray[np.float32] | None = None
    at_least_measured: bool = False
    """Whether R is raised to the noise that a batch's frames show, where they are noisier (for frames without light)."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A frame that can be had, more than once if need be; `load` may raise FrameUnusable."""

    name: str
    load: Callable[[], Frame]


@dataclass(frozen=True, kw_only=True)
class Master:
    """A combined frame, all arrays (ny, nx).

    `mean` clipped mean; `variance` its expected variance from the noise model; `used` frames that count in each pixel;
    `clipped` frames rejected there; `scatter` the robust scatter of a pixel's values over that of the noise model; `noise` and
    `noise_expected` the measured noise of the master (from two halves of the frames; nan below 4 frames) and the expectation of
    the model, medians over the frame. `facts` of all frames that could be read.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    used: NDArray[np.uint16]
    clipped: NDArray[np.uint16]
    scatter: NDArray[np.float32]
    noise: float
    noise_expected: float
    names: tuple[str, ...]
    rejected: dict[str, str] = field(default_factory=dict)
    facts: tuple[FrameFacts, ...] = ()


class Spool:
    """Frames of one shape, added one at a time, read back in row blocks. Close it, or use it in a with statement."""

    def __init__(self, shape: tuple[int, int], frames: int, *, budget_mb: float) -> None:
        self.shape = shape
        self._block_bytes = max(1, int(budget_mb * 1e6) // 2)
        self._held: list[NDArray[np.float32]] = []
        in_memory = 4 * shape[0] * shape[1] * frames <= self._block_bytes
        self._file = None if in_memory else tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        if self._file is not None:
            self._file.close()

    def add(self, image: NDArray[np.float32]) -> None:
        """Keep a frame."""
        if self._file is None:
            self._held.append(image)
        else:
            self._file.write(np.ascontiguousarray(image).data)

    def blocks(self, use: Sequence[int]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Row blocks (rows, stack (n, rows, nx)) of the frames with those indices, each within half the budget."""
        ny, nx = self.shape
        step = max(1, min(ny, self._block_bytes // (4 * nx * max(1, len(use)))))
        stack = np.empty((len(use), step, nx), dtype=np.float32)
        if self._file is not None:
            self._file.flush()
        for start in range(0, ny, step):
            rows = slice(start, min(ny, start + step))
            block = stack[:, : rows.stop - rows.start]
            for k, index in enumerate(use):
                if self._file is None:
                    block[k] = self._held[index][rows]
                else:
                    os.preadv(self._file.fileno(), [block[k].reshape(-1).view(np.uint8)], 4 * nx * (index * ny + start))
            yield rows, block


def combine(
    sources: Sequence[Source],
    shape: tuple[int, int],
    noise: NoiseMaps,
    *,
    rules: OutlierRules | None = None,
    clip: float = 4.0,
    minimum: int = 3,
    budget_mb: float = 512.0,
    batch: int = BATCH,
) -> Master:
    """Clipped weighted mean of the frames that are sound and alike.

    A value is clipped where it lies more than `clip` times the larger of its expected noise and the pixel's own robust scatter
    from the pixel's median in its batch: a pixel that is noisy of itself (hot, or random telegraph) is not eaten away.
    CombineError where fewer than `minimum` frames remain. For n frames of noise s the mean has noise s / sqrt(n); clipping at 4
    sigma loses less than 1e-4 of normal values (a median's noise is 1.25 s / sqrt(n)).
    """
    run = _Run(shape, noise, rules or OutlierRules(), clip=clip, budget_mb=budget_mb)
    parts = np.array_split(np.arange(len(sources)), max(1, -(-len(sources) // batch)))
    batches = [[sources[k] for k in part] for part in parts]
    rejected = run.through(batches, None)
    late = find_outliers(run.facts, run.rules)
    if late.keys() != run.left_out.keys():
        rejected = run.through(batches, late)
    if len(run.names) < minimum:
        why = "; ".join(f"{name}: {reason}" for name, reason in rejected.items()) or "none was rejected"
        raise CombineError(
            f"{len(run.names)} usable frames of {len(sources)}, {minimum} needed ({why}); take more, or lower the minimum"
        )
    return replace(_master(run.sums, run.names), rejected=rejected, facts=tuple(run.facts))


class _Run:
    """Reading all batches through, once or twice."""

    def __init__(self, shape: tuple[int, int], noise: NoiseMaps, rules: OutlierRules, *, clip: float, budget_mb: float) -> None:
        self.shape, self.noise, self.rules, self.clip, self.budget_mb = shape, noise, rules, clip, budget_mb

    def through(self, batches: list[list[Source]], known: dict[str, str] | None) -> dict[str, str]:
        """Combine; with `known` outliers exactly those are left out. Reasons of all frames that are not in it."""
        self.sums = Sums.zeros(self.shape)
        self.facts: list[FrameFacts] = []
        self.names: list[str] = []
        self.left_out: dict[str, str] = dict(known or {})
        refused: dict[str, str] = {}
        for batch in batches:
            with Spool(self.shape, len(batch), budget_mb=self.budget_mb) as spool:
                frames = self._read(batch, spool, refused)
                found = find_outliers(self.facts, self.rules) if known is None else known
                self.left_out |= {name: reason for name, reason in found.items() if name in frames}
                self._add(spool, frames)
        return refused | self.left_out

    def _read(self, batch: list[Source], spool: Spool, refused: dict[str, str]) -> dict[str, Frame]:
        frames = {}
        for source in batch:
            try:
                frame = source.load()
            except FrameUnusable as error:
                refused[source.name] = str(error)
                continue
            if frame.image.shape != self.shape:
                raise CombineError(
                    f"frame {source.name} is {frame.image.shape}, the others are {self.shape}: one camera's frames only"
                )
            spool.add(frame.image)
            self.facts.append(facts_of(source.name, frame.image))
            # An empty array of its own: a slice would keep the frame in memory.
            frames[source.name] = replace(frame, image=np.empty((0, 0), dtype=np.float32))
        return frames

    def _add(self, spool: Spool, frames: dict[str, Frame]) -> None:
        use = [k for k, name in enumerate(frames) if name not in self.left_out]
        kept = [frame for name, frame in frames.items() if name not in self.left_out]
        if not use:
            return
        raised = self._raised(set(frames) - self.left_out.keys()) if self.noise.at_least_measured else 1.0
        numbers = np.array([(f.weight, f.read * raised, f.photon) for f in kept], dtype=np.float32)
        half = (np.arange(len(use)) + len(self.names)) % 2
        photon = self.noise.photon
        for rows, block in spool.blocks(use):
            clip_into(
                self.sums,
                rows,
                block,
                numbers,
                half,
                read=self.noise.read[rows],
                photon=None if photon is None else photon[rows],
                clip=self.clip,
            )
        self.names += [name for name in frames if name not in self.left_out]

    def _raised(self, names: set[str]) -> float:
        shown = float(np.median([f.noise for f in self.facts if f.name in names]))
        return max(1.0, shown / float(np.median(self.noise.read)))


def _master(sums: Sums, names: list[str]) -> Master:
    mean, variance = sums.mean(), sums.variance()
    n = len(names)
    # Half the difference of two means of n/2 has the noise of the mean of n; odd n leaves the halves unequal.
    unequal = np.sqrt(1.0 / n / (1.0 / (n - n // 2) + 1.0 / (n // 2))) if n > 1 else np.nan
    return Master(
        mean=mean,
        variance=variance,
        used=sums.used,
        clipped=sums.clipped,
        scatter=sums.scatter,
        noise=sums.halves_width(clipped_moments) * float(unequal) if n >= 4 else float("nan"),
        noise_expected=float(np.sqrt(np.nanmedian(variance[:: max(1, variance.shape[0] // 256)]))),
        names=tuple(names),
    )

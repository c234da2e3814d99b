"""Master calibration frames: a clipped, weighted mean of many frames in bounded memory.

Frames are spooled once (each input is read once, whole, since compressed frames cannot be read in part): in memory while they fit
the budget, then in an unnamed scratch file; they are combined in blocks of rows with all frames of a block in hand. So the
clipping is exact, and memory is one frame and the budget whatever the number of frames; scratch space is frames * ny * nx * 4
bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backbone.errors import PermanentError
from payloads.overscan import clipped_moments

THUMBNAIL = 24


class CombineError(PermanentError):
    """Too few usable frames for a master."""


@dataclass(frozen=True, kw_only=True)
class FrameFacts:
    """What is kept in memory of each frame: its name, level (clipped mean), pixel noise, finite fraction and a coarse
    thumbnail."""

    name: str
    level: float
    noise: float
    roughness: float
    finite: float
    thumbnail: NDArray[np.float32]


class FrameStack:
    """Frames of one shape, added one at a time, read back in row blocks. Close it, or use it in a with statement."""

    def __init__(self, shape: tuple[int, int], *, budget_mb: float = 512.0) -> None:
        self.shape = shape
        self.facts: list[FrameFacts] = []
        self._budget_bytes = int(budget_mb * 1e6)
        self._spool = tempfile.SpooledTemporaryFile(max_size=self._budget_bytes // 2)  # noqa: SIM115 (closed by close)

    def __enter__(self) -> FrameStack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.facts)

    def close(self) -> None:
        """Free the memory or scratch space."""
        self._spool.close()

    def add(self, name: str, frame: NDArray[np.floating], *, region: tuple[slice, slice] | None = None) -> FrameFacts:
        """Keep a frame (ny, nx); `region` is where its level is taken (default: everywhere)."""
        if frame.shape != self.shape:
            raise CombineError(f"frame {name} is {frame.shape}, the others are {self.shape}: one camera's frames only")
        image = np.ascontiguousarray(frame, dtype=np.float32)
        level, _ = clipped_moments(image[region] if region else image)
        # Neighbours differ by noise alone: structure, being smooth, drops out; that of rows or columns along one of the axes.
        along = [clipped_moments(np.diff(image, axis=axis))[1] / np.sqrt(2.0) for axis in (0, 1)]
        facts = FrameFacts(
            name=name,
            level=level,
            noise=float(min(along)),
            roughness=float(max(along)),
            finite=float(np.isfinite(image).mean()),
            thumbnail=thumbnail(image),
        )
        self._spool.seek(0, 2)
        self._spool.write(image.tobytes())
        self.facts.append(facts)
        return facts

    def blocks(self, use: list[int]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Row blocks (rows, stack (n, rows, nx)) of the frames with those indices, sized so that working copies fit the
        budget."""
        ny, nx = self.shape
        # The median and the clipping hold about four copies of a block.
        step = max(1, min(ny, self._budget_bytes // 2 // (4 * 4 * nx * max(1, len(use)))))
        for start in range(0, ny, step):
            rows = slice(start, min(ny, start + step))
            stack = np.empty((len(use), rows.stop - rows.start, nx), dtype=np.float32)
            for k, index in enumerate(use):
                self._spool.seek(4 * nx * (index * ny + rows.start))
                stack[k] = np.frombuffer(self._spool.read(stack[k].nbytes), dtype=np.float32).reshape(stack[k].shape)
            yield rows, stack


def thumbnail(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Medians of up to 24 x 24 blocks, NaN where a block holds no number."""
    ny, nx = image.shape
    rows, columns = min(THUMBNAIL, ny), min(THUMBNAIL, nx)
    cut = image[: ny // rows * rows, : nx // columns * columns]
    tiles = cut.reshape(rows, ny // rows, columns, nx // columns).swapaxes(1, 2).reshape(rows, columns, -1)
    if np.isfinite(tiles).all():
        return np.median(tiles, axis=2)
    known = np.isfinite(tiles).any(axis=2)
    return np.where(known, np.nanmedian(np.where(known[..., None], tiles, 0.0), axis=2), np.nan).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class OutlierRules:
    """When a frame is left out of a master."""

    noise_ratio: float = 1.5  # its pixel noise over the median of all frames'
    sigma: float = 6.0  # its level, or the rms of its large-scale shape, from the median's, in units of the usual distance …
    tolerance_noise: float = 0.5  # … and more than this many times the noise of a pixel …
    tolerance: float = 0.0  # … and more than this, in the frames' unit
    level_matters: bool = True  # False where frames are normalised (flats)
    finite: float = 0.5  # least part of its pixels that are numbers


def find_outliers(facts: list[FrameFacts], rules: OutlierRules) -> dict[str, str]:
    """Names of the frames unlike the rest, with the reason; with fewer than three frames only unreadable ones can be told."""
    reasons = {f.name: f"only {f.finite:.0%} of its pixels are numbers" for f in facts if f.finite < rules.finite}
    sound = [f for f in facts if f.name not in reasons]
    if len(sound) < 3:
        return reasons
    noise, roughness = (float(np.median([getattr(f, name) for f in sound])) for name in ("noise", "roughness"))
    levels = np.array([f.level for f in sound])
    least = max(rules.tolerance_noise * noise, rules.tolerance)
    width = max(rules.sigma * 1.4826 * float(np.median(np.abs(levels - np.median(levels)))), least)
    thumbnails = np.stack([f.thumbnail for f in sound])
    shapes = thumbnails - (0.0 if rules.level_matters else np.nanmedian(thumbnails, axis=(1, 2), keepdims=True))
    distance = np.sqrt(np.nanmean((shapes - np.nanmedian(shapes, axis=0)) ** 2, axis=(1, 2)))
    limit = max(rules.sigma * float(np.median(distance)), least)
    for f, apart in zip(sound, distance, strict=True):
        if f.roughness > rules.noise_ratio * roughness:
            reasons[f.name] = f"pixel noise {f.roughness:.4g} is {f.roughness / roughness:.2f} times the median of all"
        elif rules.level_matters and abs(f.level - np.median(levels)) > width:
            reasons[f.name] = f"level {f.level:.4g} is {f.level - np.median(levels):+.4g} from the median of all"
        elif apart > limit:
            reasons[f.name] = f"its large-scale shape is {apart:.4g} rms from the median shape (limit {limit:.4g})"
    return reasons


@dataclass(frozen=True, kw_only=True)
class Master:
    """A combined frame, all arrays (ny, nx).

    `mean` clipped mean; `variance` its expected variance from the noise model; `used` frames that count in each pixel;
    `clipped` frames rejected there; `noise` and `noise_expected` the measured noise of the master (from two halves of the
    frames; nan below 4 frames) and the expectation of the model, medians over the frame.
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


NoiseModel = Callable[[NDArray[np.float32], slice], NDArray[np.float32]]


def combine(
    stack: FrameStack,
    noise: NoiseModel,
    *,
    rejected: dict[str, str],
    weights: dict[str, float] | None = None,
    clip: float = 4.0,
    minimum: int = 3,
) -> Master:
    """Clipped weighted mean of the frames not `rejected`.

    `noise(centre, rows)` gives each frame's expected standard deviation, (n, rows, nx) or broadcastable to it in the order of
    the kept frames, from the median image of a block of rows. A value is clipped where it lies more than `clip` times the
    larger of that and the pixel's own robust scatter from the pixel's median: a pixel that is noisy of itself (hot, or random
    telegraph) is not eaten away. CombineError where fewer than `minimum` frames remain. For n frames of noise s the mean has
    noise s / sqrt(n); clipping at 4 sigma loses less than 1e-4 of normal values.
    """
    use = [i for i, f in enumerate(stack.facts) if f.name not in rejected]
    if len(use) < minimum:
        why = "; ".join(f"{name}: {reason}" for name, reason in rejected.items()) or "none was rejected"
        raise CombineError(f"{len(use)} usable frames of {len(stack)}, {minimum} needed ({why}); take more, or lower the minimum")
    share = np.array([(weights or {}).get(stack.facts[i].name, 1.0) for i in use], dtype=np.float32)[:, None, None]
    images = {name: np.zeros(stack.shape, dtype=np.float32) for name in ("mean", "variance", "scatter", "halves")}
    counts = {name: np.zeros(stack.shape, dtype=np.uint16) for name in ("used", "clipped")}
    for rows, frames in stack.blocks(use):
        finite = np.isfinite(frames)
        centre = _median(frames, finite)
        sigma = np.broadcast_to(noise(centre, rows), frames.shape)
        deviation = np.abs(frames - centre)
        own = np.float32(1.4826) * _median(deviation, finite)
        good = finite & (deviation <= clip * np.maximum(sigma, own))
        values = np.where(good, frames, np.float32(0.0))
        weight = np.where(good, share, np.float32(0.0))
        total = weight.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            images["mean"][rows] = (weight * values).sum(axis=0) / total
            images["variance"][rows] = ((weight * sigma) ** 2).sum(axis=0) / total**2
            halves = [(weight[k::2] * values[k::2]).sum(axis=0) / weight[k::2].sum(axis=0) for k in (0, 1)]
        images["halves"][rows] = halves[0] - halves[1]
        images["scatter"][rows] = own
        counts["used"][rows] = good.sum(axis=0)
        counts["clipped"][rows] = (finite & ~good).sum(axis=0)
    n = len(use)
    # Half the difference of two means of n/2 has the noise of the mean of n; odd n leaves the halves unequal.
    unequal = np.sqrt(1.0 / n / (1.0 / (n - n // 2) + 1.0 / (n // 2))) if n > 1 else np.nan
    _, measured = clipped_moments(images.pop("halves"))
    return Master(
        **images,
        **counts,
        noise=measured * float(unequal) if n >= 4 else float("nan"),
        noise_expected=float(np.sqrt(np.nanmedian(images["variance"]))),
        names=tuple(stack.facts[i].name for i in use),
        rejected=dict(rejected),
    )


def _median(frames: NDArray[np.float32], finite: NDArray[np.bool_]) -> NDArray[np.float32]:
    if finite.all():
        return np.median(frames, axis=0)
    known = finite.any(axis=0)
    filled = np.where(known, np.where(finite, frames, np.nan), np.float32(0.0))
    return np.where(known, np.nanmedian(filled, axis=0), np.float32(np.nan)).astype(np.float32)

"""What is remembered of each frame of a combination, and which frames are unlike the rest.

A few hundred kilobytes a frame stand for it when it is judged: its level, its noise, a thumbnail and a sample of its fixed
pattern (differences of neighbouring pixels, which light that varies smoothly leaves alone). One sensor's pattern is in all of its
frames; another sensor's, or a time that the header has wrong, shows as a pattern that the others do not have, or have otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.compiled.medians import row_medians
from payloads.overscan import clipped_moments

THUMBNAIL = 96
_TILE_SAMPLES = 300  # of a tile's pixels, about as many make its median
_PATTERN_SAMPLES = 16_384
_NOISE_ROWS = 128


@dataclass(frozen=True, kw_only=True)
class FrameFacts:
    """Of one frame: `level` (clipped mean), `noise` and `roughness` (the lesser and the greater of its pixel noise along rows and
    along columns), `finite` (part of its pixels that are numbers), `thumbnail` (medians of tiles), `pattern` (n,)."""

    name: str
    level: float
    noise: float
    roughness: float
    finite: float
    thumbnail: NDArray[np.float32]
    pattern: NDArray[np.float32]


def facts_of(name: str, image: NDArray[np.float32]) -> FrameFacts:
    """Facts of a frame (ny, nx)."""
    along = pixel_noise(image)
    return FrameFacts(
        name=name,
        level=clipped_moments(image)[0],
        noise=min(along),
        roughness=max(along),
        finite=float(np.isfinite(image).mean()),
        thumbnail=thumbnail(image),
        pattern=_pattern(image),
    )


def pixel_noise(image: NDArray[np.float32]) -> tuple[float, float]:
    """Noise of a pixel from differences of neighbours in a row and in a column: smooth structure drops out, that of rows or
    columns along one of the axes. Of up to 128 rows."""
    ny, nx = image.shape
    rows = np.unique(np.linspace(0, max(ny - 2, 0), min(_NOISE_ROWS, max(ny - 1, 1))).astype(np.int64))
    across = np.diff(image[rows], axis=1) if nx > 1 else np.zeros((1, 0))
    down = image[rows + 1] - image[rows] if ny > 1 else across
    return tuple(clipped_moments(d)[1] / float(np.sqrt(2.0)) for d in (across, down))


def thumbnail(image: NDArray[np.float32], tiles: int = THUMBNAIL) -> NDArray[np.float32]:
    """Medians of up to `tiles` x `tiles` tiles, of some hundred pixels of each; NaN where a tile holds no number."""
    ny, nx = image.shape
    rows, columns = min(tiles, max(1, ny // 4)), min(tiles, max(1, nx // 4))
    parts = image[: ny // rows * rows, : nx // columns * columns].reshape(rows, ny // rows, columns, nx // columns)
    step = max(1, int(np.sqrt(parts.shape[1] * parts.shape[3] / _TILE_SAMPLES)))
    parts = parts[:, ::step, :, ::step].swapaxes(1, 2).reshape(rows, columns, -1)
    return np.asarray(
        row_medians(np.ascontiguousarray(parts.reshape(rows * columns, -1), dtype=np.float32)).reshape(rows, columns)
    )


def _pattern(image: NDArray[np.float32]) -> NDArray[np.float32]:
    ny, nx = image.shape
    if nx < 2:
        return np.zeros(0, dtype=np.float32)
    # Places spread evenly and alike in all frames; the odd step meets all columns in turn.
    count = min(_PATTERN_SAMPLES, ny * (nx - 1))
    places = (np.arange(count) * (ny * (nx - 1) / count)).astype(np.int64)
    row, column = np.divmod(places, nx - 1)
    return np.asarray(image[row, column + 1] - image[row, column], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class OutlierRules:
    """When a frame is left out of a master."""

    noise_ratio: float = 1.5  # its pixel noise over the median of all frames'
    sigma: float = 6.0  # its level, or the rms of its large-scale shape, from the median's, in units of the usual distance …
    tolerance_noise: float = 0.5  # … and more than this many times the noise of a pixel …
    tolerance: float = 0.0  # … and more than this, in the frames' unit
    level_matters: bool = True  # False where frames are normalised (flats)
    grain: float | None = None  # rms, in the frames' unit, of what a smooth surface leaves of the shape; None: not judged
    finite: float = 0.5  # least part of its pixels that are numbers
    pattern: tuple[float, float] = (0.5, 2.0)  # its fixed pattern, times that of the others


def find_outliers(facts: list[FrameFacts], rules: OutlierRules) -> dict[str, str]:
    """Names of the frames unlike the rest, with all reasons; with fewer than three frames only unreadable ones can be told."""
    reasons = {f.name: f"only {f.finite:.0%} of its pixels are numbers" for f in facts if f.finite < rules.finite}
    sound = [f for f in facts if f.name not in reasons]
    if len(sound) < 3:
        return reasons
    for judge in (_by_noise, _by_level, _by_shape, _by_grain, _by_pattern):
        for name, reason in judge(sound, rules).items():
            reasons[name] = f"{reasons[name]}; {reason}" if name in reasons else reason
    return reasons


def _by_noise(facts: list[FrameFacts], rules: OutlierRules) -> dict[str, str]:
    usual = float(np.median([f.roughness for f in facts]))
    return {
        f.name: f"pixel noise {f.roughness:.4g} is {f.roughness / usual:.2f} times the median of all"
        for f in facts
        if f.roughness > rules.noise_ratio * usual
    }


def _least(facts: list[FrameFacts], rules: OutlierRules) -> float:
    return max(rules.tolerance_noise * float(np.median([f.noise for f in facts])), rules.tolerance)


def _by_level(facts: list[FrameFacts], rules: OutlierRules) -> dict[str, str]:
    levels = np.array([f.level for f in facts])
    middle = float(np.median(levels))
    width = max(rules.sigma * 1.4826 * float(np.median(np.abs(levels - middle))), _least(facts, rules))
    far = [f for f in facts if rules.level_matters and abs(f.level - middle) > width]
    return {f.name: f"level {f.level:.4g} is {f.level - middle:+.4g} from the median of all" for f in far}


def _shapes(facts: list[FrameFacts], rules: OutlierRules) -> NDArray[np.floating]:
    thumbnails = np.stack([f.thumbnail for f in facts])
    shapes = thumbnails - (0.0 if rules.level_matters else np.nanmedian(thumbnails, axis=(1, 2), keepdims=True))
    return np.asarray(shapes - np.nanmedian(shapes, axis=0))


def _by_shape(facts: list[FrameFacts], rules: OutlierRules) -> dict[str, str]:
    distance = np.sqrt(np.nanmean(_shapes(facts, rules) ** 2, axis=(1, 2)))
    limit = max(rules.sigma * float(np.median(distance)), _least(facts, rules))
    return {
        f.name: f"its large-scale shape is {apart:.4g} rms from the median shape (limit {limit:.4g})"
        for f, apart in zip(facts, distance, strict=True)
        if apart > limit
    }


def _by_grain(facts: list[FrameFacts], rules: OutlierRules) -> dict[str, str]:
    """Dust and the like, that a smooth change of the light does not touch: what a paraboloid leaves of the shape's difference."""
    if rules.grain is None:
        return {}
    shapes = _shapes(facts, rules)
    y, x = (g.ravel() for g in np.mgrid[-1 : 1 : 1j * shapes.shape[1], -1 : 1 : 1j * shapes.shape[2]])
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    distance = np.zeros(len(facts))
    for k, shape in enumerate(shapes.reshape(len(facts), -1)):
        known = np.isfinite(shape)
        fit, *_ = np.linalg.lstsq(terms[known], shape[known], rcond=None)
        # Clipped: a cosmic ray or a star in a tile is no other filter.
        distance[k] = clipped_moments(shape[known] - terms[known] @ fit, clip=8.0)[1] if known.any() else 0.0
    middle = float(np.median(distance))
    limit = max(1.5 * middle, middle + rules.sigma * 1.4826 * float(np.median(np.abs(distance - middle))), rules.grain)
    return {
        f.name: f"dust and structure differ by {apart:.4g} rms from the others' (limit {limit:.4g}): another filter or screen"
        " than its header says"
        for f, apart in zip(facts, distance, strict=True)
        if apart > limit
    }


def _by_pattern(facts: list[FrameFacts], rules: OutlierRules) -> dict[str, str]:
    """How much of the others' fixed pattern is in each frame; only where that can be told from noise."""
    patterns = np.nan_to_num(np.stack([f.pattern for f in facts]), posinf=0.0, neginf=0.0)
    common = np.median(patterns, axis=0)
    power = float((common**2).sum())
    if power == 0:
        return {}
    parts = patterns @ common / power
    usual = float(np.median(parts))
    low, high = (limit * usual for limit in rules.pattern)
    found = {}
    for f, part in zip(facts, parts, strict=True):
        error = 8 * f.roughness * np.sqrt(2.0 / power)
        if (part < low and usual - part > error) or (part > high and part - usual > error):
            found[f.name] = (
                f"the detector's fixed pattern is {part / usual:.2f} times as strong in it as in the others: another"
                " detector's frame, or another exposure time than its header says"
            )
    return found

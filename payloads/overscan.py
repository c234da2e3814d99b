"""From a raw frame to the trimmed mosaic: overscan level, saturation, and the amplifiers' places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from backbone.errors import PermanentError
from payloads.camera import Amplifier, Detector, parse_section
from payloads.compiled.medians import row_medians

_CROSSTALK_ROWS = 64
OverscanMode = Literal["row", "amplifier", "none"]


class FrameUnusable(PermanentError):
    """A frame that no processing can mend; the message says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Trimmed:
    """A mosaicked frame. `data` (ny, nx) float32 ADU above overscan, NaN kept; `saturated` (ny, nx) bool; per amplifier, by name,
    the mean overscan `level` in ADU and the `noise` of its overscan pixels in ADU (NaN where the camera has no overscan)."""

    data: NDArray[np.float32]
    saturated: NDArray[np.bool_]
    level: dict[str, float]
    noise: dict[str, float]


def clipped_moments(values: NDArray[np.floating], *, clip: float = 4.0, at_most: int = 200_000) -> tuple[float, float]:
    """Mean and standard deviation of `values` of any shape after clipping at `clip` sigma of the median absolute deviation.

    NaN is ignored; of more than `at_most` values a regular subset is used. A moment, not the MAD itself, is returned because the
    MAD of integer ADU is quantised. (nan, nan) if nothing is finite.
    """
    flat = np.ravel(values)
    if flat.size > at_most:
        step = flat.size // at_most
        # An even step through an even-width frame would meet the same columns on every row.
        flat = flat[:: step + (step % 2 == 0)]
    flat = flat[np.isfinite(flat)].astype(np.float64)
    if not flat.size:
        return float("nan"), float("nan")
    median = np.median(flat)
    width = 1.4826 * np.median(np.abs(flat - median))
    kept = flat[np.abs(flat - median) <= clip * width + 0.5]
    return float(kept.mean()), float(kept.std())


def trim(raw: NDArray[np.generic], detector: Detector, *, mode: OverscanMode = "row", smooth_rows: int = 31) -> Trimmed:
    """Subtract the overscan of each amplifier and mosaic the `data` sections.

    `raw` is the (ny, nx) frame as read, ADU. `mode` "row" subtracts the clipped mean of each row's overscan, smoothed over
    `smooth_rows` rows (a running mean, whose noise is read_noise / sqrt(columns * smooth_rows); 1 follows every row), "amplifier"
    one number, "none" nothing. An amplifier without overscan is left as it is. Saturation is judged above the overscan level;
    without overscan, above zero; the last value of an unsigned raw type is always saturated.
    """
    raw = np.asarray(raw)
    data = np.full(detector.shape, np.nan, dtype=np.float32)
    saturated = np.zeros(detector.shape, dtype=bool)
    levels: dict[str, float] = {}
    noises: dict[str, float] = {}
    # A converter's last value says "or more", whatever the description believes to be within its reach.
    full = np.iinfo(raw.dtype).max if raw.dtype.kind == "u" else np.inf
    for amp in detector.amplifiers:
        section, place = parse_section(amp.data), parse_section(amp.place)
        _check_within(raw.shape, section, amp, detector)
        pixels = raw[section].astype(np.float32)
        levels[amp.name], noises[amp.name] = 0.0, float("nan")
        if amp.overscan is not None and mode != "none":
            strip = parse_section(amp.overscan)
            _check_within(raw.shape, strip, amp, detector)
            level, noises[amp.name] = overscan_level(raw[strip].astype(np.float32), mode=mode, smooth_rows=smooth_rows)
            pixels -= _matched_rows(level, strip[0], section[0])[:, None]
            levels[amp.name] = float(level.mean())
        data[place] = pixels
        saturated[place] = (pixels >= amp.saturation) | (raw[section] == full)
    return Trimmed(data=data, saturated=saturated, level=levels, noise=noises)


def overscan_level(strip: NDArray[np.float32], *, mode: OverscanMode, smooth_rows: int) -> tuple[NDArray[np.float32], float]:
    """The level of each row (ny,) of an overscan strip (ny, nx), and the noise of its pixels, both in ADU."""
    rows = row_medians(strip)
    residual = strip - rows[:, None]
    _, noise = clipped_moments(residual)
    # A clipped mean, not the median: the median of few integers is coarse and 1.25 times as noisy.
    good = np.abs(residual) <= 4.0 * noise + 0.5
    count = good.sum(axis=1)
    if not np.isfinite(noise) or not count.any():
        raise FrameUnusable("the overscan holds no finite value: the frame was not read out; set it aside")
    sums = np.where(good, strip, 0.0).sum(axis=1, dtype=np.float64)
    if mode == "amplifier":
        return np.full(len(strip), sums.sum() / count.sum(), dtype=np.float32), noise
    mean = np.where(count > 0, sums / np.maximum(count, 1), np.nan)
    mean = np.where(np.isfinite(mean), mean, np.nanmedian(mean))
    if smooth_rows > 1:
        mean = ndimage.uniform_filter1d(mean, min(smooth_rows, len(mean)), mode="nearest")
    return mean.astype(np.float32), noise


def amplifier_map(detector: Detector, quantity: Literal["gain", "read_noise", "saturation"]) -> NDArray[np.float32]:
    """A property of the amplifiers as an image (ny, nx) of the trimmed frame, in the camera description's unit."""
    image = np.zeros(detector.shape, dtype=np.float32)
    for amp in detector.amplifiers:
        image[parse_section(amp.place)] = getattr(amp, quantity)
    return image


def correct_crosstalk(data: NDArray[np.float32], detector: Detector, *, overwrite: bool = False) -> NDArray[np.float32]:
    """Undo crosstalk: observed = (1 + X) true for the pixels that the amplifiers read at one time; `data` is in ADU above
    overscan.

    `detector.crosstalk[victim][source]` is X; amplifiers must be of one size, and pixels correspond by their place in the data
    section. NaN and infinite pixels lend nothing to others. Returns a new frame, or `data` itself where no crosstalk is known or
    it may be overwritten.
    """
    if detector.crosstalk is None:
        return data
    places = [parse_section(amp.place) for amp in detector.amplifiers]
    shapes = {tuple(s.stop - s.start for s in place) for place in places}
    if len(shapes) != 1:
        raise FrameUnusable(
            f"detector {detector.name} has crosstalk between amplifiers of different sizes: correct its description"
        )
    coefficients = np.asarray(detector.crosstalk, dtype=np.float64)
    unmix = (np.linalg.inv(np.eye(len(coefficients)) + coefficients) - np.eye(len(coefficients))).astype(np.float32)
    corrected = data if overwrite else data.copy()
    height, width = next(iter(shapes))
    for first in range(0, height, _CROSSTALK_ROWS):
        rows = np.s_[first : first + _CROSSTALK_ROWS]
        parts = [corrected[place][rows] for place in places]
        signals = np.stack([part.ravel() for part in parts])
        np.nan_to_num(signals, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        for part, change in zip(parts, unmix @ signals, strict=True):
            part += change.reshape(-1, width)
    return corrected


def _check_within(shape: tuple[int, ...], section: tuple[slice, slice], amp: Amplifier, detector: Detector) -> None:
    if len(shape) != 2 or section[0].stop > shape[0] or section[1].stop > shape[1]:
        raise FrameUnusable(
            f"the frame is {' x '.join(map(str, shape[::-1]))} pixels, but amplifier {amp.name} of {detector.name} reaches "
            f"to ({section[1].stop}, {section[0].stop}): cut off, or another camera's; set it aside"
        )


def _matched_rows(level: NDArray[np.float32], strip: slice, section: slice) -> NDArray[np.float32]:
    """Overscan level at the rows of the data section (strips may be shorter or a block of rows above)."""
    return np.interp(np.arange(section.start, section.stop), np.arange(strip.start, strip.stop), level).astype(np.float32)

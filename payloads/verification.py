"""Is a new calibration product fit for use? Statistics of frames it was not made of, and its difference from the certified one.

Every check is a number with a band, of an amplifier, so that a scientist reads what is wrong and where. What could not be
measured is no pass. Noise is judged against the frame's own (differences of neighbouring pixels), not against the camera's
description: a wrong description must neither pass nor fail a master. (LDM-151 section 4; DMTN-222: verify before certify.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Detector, parse_section
from payloads.frame_facts import thumbnail
from payloads.isr import Plane
from payloads.mask import Mask
from payloads.overscan import clipped_moments

BLOCK_PX = 16
_LOST = np.uint32(Mask.NO_DATA)
_BAD = np.uint32(Mask.BAD | Mask.NO_DATA)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number and its band; `decisive` ones decide whether the product is fit, the others are for the report alone."""

    name: str
    amplifier: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    decisive: bool = True
    hint: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is a number, and within its band."""
        above = self.low is None or self.value >= self.low
        return math.isfinite(self.value) and above and (self.high is None or self.value <= self.high)

    def words(self) -> str:
        """What is wrong, for a scientist."""
        where = f"amplifier {self.amplifier}: " if self.amplifier else ""
        if not math.isfinite(self.value):
            return f"{where}{self.name} could not be measured: {self.hint}"
        limit = f"below {self.low:g}" if self.low is not None and self.value < self.low else f"above {self.high:g}"
        return f"{where}{self.name} is {self.value:.4g}{' ' + self.unit if self.unit else ''}, {limit}: {self.hint}"

    def as_dict(self) -> dict[str, Any]:
        """For storage; JSON has no NaN, so what could not be measured is null."""
        return {**asdict(self), "value": self.value if math.isfinite(self.value) else None, "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bands. Generous: a product that fails is wrong, one that has merely changed is in the report and in an alarm."""

    offset_sigma: float = 0.5  # of held-out frames from the master, in noises of a pixel
    offset_no_overscan_sigma: float = 5.0  # the level of a camera without overscan drifts
    noise_low: float = 0.6
    noise_high: float = 1.6
    level_sigma: float = 30.0  # of a bias above the overscan
    lost: float = 0.01  # part of an amplifier's pixels without any data
    bad: float = 0.05  # part of an amplifier's pixels that are BAD
    flat_offset: float = 0.01
    flat_structure: float = 0.01
    change_sigma: float = 5.0  # from the certified one, in noises of a pixel of one frame
    change_flat: float = 0.02  # rms of blocks
    change_amplifier: float = 0.05
    time_slope: float = 0.3  # of hot pixels' signal against the master's: is the dark time what the header says?


def amplifier_regions(detector: Detector) -> dict[str, tuple[slice, slice]]:
    """Where each amplifier is in the trimmed frame."""
    return {amp.name: parse_section(amp.place) for amp in detector.amplifiers}


def pixel_noise(image: NDArray[np.floating]) -> float:
    """Noise of a pixel from differences of neighbours, along the axis where they are quieter: structure drops out."""
    along = [clipped_moments(np.diff(image, axis=axis))[1] / math.sqrt(2.0) for axis in (0, 1) if image.shape[axis] > 1]
    return float(min(along)) if along else float("nan")


def blocks(image: NDArray[np.floating], size: int = BLOCK_PX) -> NDArray[np.float32]:
    """Means of whole blocks of `size` pixels, of what is finite; NaN where less than half of a block is."""
    ny, nx = (max(1, n // size) for n in image.shape)
    step_y, step_x = image.shape[0] // ny, image.shape[1] // nx
    tiles = image[: ny * step_y, : nx * step_x].reshape(ny, step_y, nx, step_x).swapaxes(1, 2).reshape(ny, nx, -1)
    finite = np.isfinite(tiles)
    count = finite.sum(axis=2)
    sums = np.where(finite, tiles, 0.0).sum(axis=2, dtype=np.float64)
    return np.where(count * 2 >= tiles.shape[2], sums / np.maximum(count, 1), np.nan).astype(np.float32)


def usable(plane: Plane, bits: Mask = Mask.BAD | Mask.NO_DATA | Mask.SUSPECT) -> NDArray[np.float32]:
    """A product's pixels, NaN where it is flagged."""
    return np.where((plane.mask & np.uint32(bits)) == 0, plane.data, np.float32(np.nan))


def coverage(product: Plane, detector: Detector, limits: Limits) -> list[Check]:
    """How much of each amplifier has no data, and how much is bad."""
    checks = []
    for name, place in amplifier_regions(detector).items():
        mask = product.mask[place]
        lost = float((((mask & _LOST) != 0) | ~np.isfinite(product.data[place])).mean())
        bad = float(((mask & _BAD) != 0).mean())
        checks += [
            Check(name="lost", amplifier=name, value=lost, high=limits.lost, hint="pixels without data in every frame"),
            Check(name="bad", amplifier=name, value=bad, high=limits.bad, hint="pixels that are dead, hot or not a number"),
        ]
    return checks


def against_frames(
    frames: Sequence[NDArray[np.float32]], product: Plane, detector: Detector, limits: Limits, *, used: int, out: bool
) -> list[Check]:
    """Bias or dark (and their frames, in the product's unit) amplifier by amplifier: offset and scatter of frames about it.

    `used`: frames that the product was made of; `out`: whether `frames` are others, so that the product's noise adds to theirs.
    """
    good = usable(product)
    own = math.sqrt(max(1e-3, 1.0 + (1.0 if out else -1.0) / max(used, 1)))
    checks = []
    for amp, place in zip(detector.amplifiers, amplifier_regions(detector).values(), strict=True):
        offsets, ratios = [], []
        for frame in frames:
            noise = pixel_noise(frame[place])
            mean, width = clipped_moments(frame[place] - good[place])
            offsets.append(mean / noise if noise > 0 else math.nan)
            ratios.append(width / (noise * own) if noise > 0 else math.nan)
        shared = {"amplifier": amp.name}
        limit = limits.offset_sigma if amp.overscan else limits.offset_no_overscan_sigma
        hint = "frames that it was not made of lie above or below it: light, a drifting level, or frames of another kind"
        scatter = "frames that it was not made of scatter about it by other than their own noise: it holds structure they lack"
        checks += [
            Check(name="offset_sigma", value=_middle(offsets), low=-limit, high=limit, unit="sigma", hint=hint, **shared),
            Check(
                name="noise_ratio", value=_middle(ratios), low=limits.noise_low, high=limits.noise_high, hint=scatter, **shared
            ),
        ]
    return checks


def bias_level(product: Plane, detector: Detector, noise_adu: float, limits: Limits) -> list[Check]:
    """The level of a bias above the overscan: a lit amplifier stands out."""
    good, checks = usable(product), []
    for amp, place in zip(detector.amplifiers, amplifier_regions(detector).values(), strict=True):
        if amp.overscan is not None:
            level = float(np.nanmedian(good[place])) if np.isfinite(good[place]).any() else math.nan
            value = level / noise_adu if noise_adu > 0 else math.nan
            hint = "its level above the overscan is that of light, not of a bias"
            checks.append(Check(name="level_sigma", amplifier=amp.name, value=value, low=-limits.level_sigma,
                                high=limits.level_sigma, unit="sigma", hint=hint))  # fmt: skip
    return checks


def dark_time(frames: Sequence[NDArray[np.float32]], product: Plane, limits: Limits, *, least: int = 5) -> list[Check]:
    """Slope of hot pixels' signal in frames (ADU/s, by the header's time) against the master's: 1 where the time is true.

    With fewer than `least` hot pixels nothing can be said, and no check is made.
    """
    hot = ((product.mask & np.uint32(Mask.BAD)) != 0) & (product.data > 0)
    if int(hot.sum()) < least or not frames:
        return []
    slopes = [hot_slope(frame, product.data, hot) for frame in frames]
    low, high = 1 - limits.time_slope, 1 + limits.time_slope
    hint = "hot pixels are not as bright as the header's dark time makes them: it is of another time"
    return [Check(name="time_slope", amplifier="", value=_middle(slopes), low=low, high=high, hint=hint)]


def dark_against_certified(product: Plane, certified: Plane, limits: Limits, *, least: int = 5) -> list[Check]:
    """Hot pixels of the certified dark in the new one: darks that are all of a wrong time betray themselves by these alone."""
    hot = ((certified.mask & np.uint32(Mask.BAD)) != 0) & (certified.data > 0)
    if certified.data.shape != product.data.shape or int(hot.sum()) < least:
        return []
    ratio = hot_slope(product.data, certified.data, hot)
    low, high = 1 - 2 * limits.time_slope, 1 + 2 * limits.time_slope
    hint = "hot pixels are brighter or fainter than in the certified one: its frames are of another time, or the detector warmed"
    return [Check(name="change_hot", amplifier="", value=ratio, low=low, high=high, hint=hint)]


def hot_slope(frame: NDArray[np.float32], master: NDArray[np.float32], hot: NDArray[np.bool_]) -> float:
    """Median ratio of hot pixels in a frame to the master (both ADU/s)."""
    ratio = frame[hot] / master[hot]
    return float(np.nanmedian(ratio)) if np.isfinite(ratio).any() else math.nan


def flat_frames(frames: Sequence[NDArray[np.float32]], product: Plane, detector: Detector, limits: Limits) -> list[Check]:
    """Flat frames (electrons over their level) divided by the master: offset, structure and noise of each amplifier."""
    good = usable(product)
    quotients = []
    for frame in frames:
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = frame / good
        quotients.append(quotient / np.float32(np.nanmedian(quotient)) - 1)
    checks = []
    for name, place in amplifier_regions(detector).items():
        inside = [(quotient[place], pixel_noise(quotient[place])) for quotient in quotients]
        offset = _middle([clipped_moments(q)[0] for q, _ in inside])
        structure = _middle([_excess(blocks(q), noise, BLOCK_PX) for q, noise in inside])
        ratio = _middle([clipped_moments(q)[1] / noise if noise > 0 else math.nan for q, noise in inside])
        limit = limits.flat_offset
        dim = "flats that it was not made of are brighter or fainter here: the gain changed, or the light is another's"
        shape = "flats that it was not made of have another large-scale shape: another filter, or other light"
        scatter = "flats scatter about it by other than their own noise"
        checks += [
            Check(name="offset", amplifier=name, value=offset, low=-limit, high=limit, hint=dim),
            Check(name="structure", amplifier=name, value=structure, high=limits.flat_structure, hint=shape),
            # Twilight has gradients that no two flats share: what of them matters is judged as structure.
            Check(name="noise_ratio", amplifier=name, value=ratio, high=limits.noise_high, hint=scatter, decisive=False),
        ]
    return checks


def against_certified(product: Plane, certified: Plane, detector: Detector, limits: Limits, *, noise: float) -> list[Check]:
    """Bias or dark and the certified one: difference of medians, and width of the difference, in noises of one frame's pixel."""
    if certified.data.shape != product.data.shape:
        hint = (
            f"the certified one is {certified.data.shape}, this one {product.data.shape}: another camera's, or another read-out"
        )
        return [Check(name="change_shape", amplifier="", value=math.nan, hint=hint)]
    difference = usable(product) - usable(certified)
    checks = []
    for name, place in amplifier_regions(detector).items():
        mean, width = clipped_moments(difference[place])
        hint = (
            "it differs from the certified one: camera or set-up changed, or it is wrong; `accept_change` says that it is right"
        )
        checks += [
            Check(name="change_sigma", amplifier=name, value=mean / noise if noise > 0 else math.nan, low=-limits.change_sigma,
                  high=limits.change_sigma, unit="sigma", hint=hint),
            Check(name="change_width", amplifier=name, value=width / noise if noise > 0 else math.nan, high=limits.change_sigma,
                  unit="sigma", hint=hint),
        ]  # fmt: skip
    return checks


@dataclass(frozen=True, kw_only=True)
class FlatChange:
    """How a flat differs from another, detector-wide: rms of blocks, its noise, and by amplifier the mean; all fractions."""

    rms: float
    noise: float
    by_amplifier: dict[str, float]
    worst_block: float

    def kind(self) -> str:
        """What the difference looks like: a hint at its cause."""
        spread = float(np.std(list(self.by_amplifier.values()))) if len(self.by_amplifier) > 1 else 0.0
        if spread > 0.7 * self.rms:
            return "whole amplifiers changed: a gain"
        if abs(self.worst_block) > 5 * self.rms:
            return "single places changed: dust, or a defect"
        return "a smooth change: the light's path, or another filter"


def flat_change(flat: NDArray[np.floating], master: Plane, detector: Detector) -> FlatChange:
    """A flat (ny, nx), normalised or not, over a master, both usable parts; blocks of 16 px, noise from the pixels' own."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = flat / usable(master)
    quotient = quotient / np.nanmedian(quotient) - 1
    coarse = blocks(quotient)
    return FlatChange(
        rms=_excess(coarse, pixel_noise(quotient), BLOCK_PX),
        noise=pixel_noise(quotient) / BLOCK_PX,
        by_amplifier={name: clipped_moments(quotient[place])[0] for name, place in amplifier_regions(detector).items()},
        worst_block=float(coarse.ravel()[np.nanargmax(np.abs(coarse))]) if np.isfinite(coarse).any() else math.nan,
    )


def flat_against_certified(product: Plane, certified: Plane, detector: Detector, limits: Limits) -> list[Check]:
    """A new flat and the certified one."""
    if certified.data.shape != product.data.shape:
        hint = (
            f"the certified one is {certified.data.shape}, this one {product.data.shape}: another camera's, or another read-out"
        )
        return [Check(name="change_shape", amplifier="", value=math.nan, hint=hint)]
    found = flat_change(usable(product), certified, detector)
    hint = f"it differs from the certified one ({found.kind()}); `accept_change` says that it is right"
    limit = limits.change_amplifier
    whole = Check(name="change_rms", amplifier="", value=found.rms, high=limits.change_flat, hint=hint)
    return [whole] + [
        Check(name="change", amplifier=name, value=value, low=-limit, high=limit, hint=hint)
        for name, value in found.by_amplifier.items()
    ]


def summary(product: Plane, detector: Detector) -> dict[str, Any]:
    """For trends and pictures: medians and widths by amplifier, and a thumbnail (rows of numbers, null for none)."""
    good = usable(product, Mask.BAD | Mask.NO_DATA)
    amplifiers = {}
    for name, place in amplifier_regions(detector).items():
        mean, width = clipped_moments(good[place])
        amplifiers[name] = {"mean": _json(mean), "width": _json(width)}
    small = thumbnail(np.asarray(good, dtype=np.float32), 24)
    return {"amplifiers": amplifiers, "thumbnail": [[_json(v, 6) for v in row] for row in small.tolist()]}


def _excess(coarse: NDArray[np.floating], noise: float, size: int) -> float:
    """Robust width of blocks beyond what the noise of their pixels makes."""
    _, width = clipped_moments(coarse)
    return math.sqrt(max(0.0, width**2 - (noise / size) ** 2)) if math.isfinite(width) and math.isfinite(noise) else math.nan


def _middle(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else math.nan


def _json(value: float, digits: int = 8) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None

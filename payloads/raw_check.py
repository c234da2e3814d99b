"""Is a calibration frame what its header says? One frame at a time, on arrays, within seconds of its arrival.

Is there light in this bias, is this dark saturated or of another time, does this flat deviate from the master. What is found is
for the observer, who can take the frame again while the set-up stands; productions leave such frames out by their own rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Detector
from payloads.isr import Plane, Prepared, prepare
from payloads.mask import Mask, any_set
from payloads.overscan import FrameUnusable, amplifier_map, clipped_moments
from payloads.verification import amplifier_regions, flat_change, hot_slope, pixel_noise


@dataclass(frozen=True, kw_only=True)
class RawRules:
    """When a frame is not what it should be."""

    bias_light_adu: float = 20.0
    bias_longest_s: float = 0.1
    saturated: float = 0.02
    amplifier: float = 0.5
    dark_light_sigma: float = 1.0
    time_slope: float = 0.2
    hot_least: int = 5
    flat_least_electron: float = 500.0
    flat_change: float = 0.02


@dataclass(frozen=True, kw_only=True)
class Masters:
    """What is certified, as far as it is."""

    bias: Plane | None = None
    dark: Plane | None = None
    flat: Plane | None = None


@dataclass(frozen=True, kw_only=True)
class RawVerdict:
    """`reasons` is empty for a good frame. `numbers`: what was measured, by name."""

    reasons: tuple[str, ...]
    numbers: Mapping[str, float]


def check_raw(
    raw: NDArray[np.generic], detector: Detector, kind: str, *, exposure_time_s: float, dark_time_s: float,
    masters: Masters = Masters(), rules: RawRules = RawRules(),
) -> RawVerdict:  # fmt: skip
    """A frame (ny, nx) as read, ADU, of observation type `kind`; of kinds that are not known the amplifiers alone are checked."""
    numbers: dict[str, float] = {}
    reasons: list[str] = []
    try:
        frame = prepare(raw, detector)
    except FrameUnusable as error:
        return RawVerdict(reasons=(str(error),), numbers=numbers)
    saturated = numbers["saturated"] = float(any_set(frame.plane.mask, Mask.SAT, frame.plane.data.shape).mean())
    lost = [
        n for n, place in amplifier_regions(detector).items() if np.isfinite(frame.plane.data[place]).mean() < rules.amplifier
    ]
    if lost:
        reasons.append(f"amplifier {', '.join(lost)} was not read out: its pixels are no numbers")
    if kind in _CHECKS:
        if saturated > rules.saturated:
            return RawVerdict(reasons=(*reasons, f"{saturated:.1%} of its pixels are saturated"), numbers=numbers)
        reasons += _CHECKS[kind](frame, detector, exposure_time_s, dark_time_s, masters, rules, numbers)
    return RawVerdict(reasons=tuple(reasons), numbers=numbers)


def _bias(
    frame: Prepared, detector: Detector, exposure_s: float, _: float, masters: Masters, rules: RawRules, numbers: dict[str, float]
) -> list[str]:
    reasons: list[str] = []
    if exposure_s > rules.bias_longest_s:
        reasons.append(f"its header says {exposure_s:g} s: a bias is of no time")
    data = frame.plane.data if masters.bias is None else frame.plane.data - masters.bias.data
    numbers["level_adu"] = clipped_moments(data)[0]
    for name, place in amplifier_regions(detector).items():
        level = clipped_moments(data[place])[0]
        if math.isfinite(frame.noise[name]) and abs(level) > rules.bias_light_adu:  # without overscan a level says nothing
            reasons.append(f"amplifier {name} is {level:+.1f} ADU from where a bias is: there is light in it")
    return reasons


def _dark(
    frame: Prepared, detector: Detector, _: float, seconds: float, masters: Masters, rules: RawRules, numbers: dict[str, float]
) -> list[str]:
    if seconds <= 0:
        return ["its dark time is not positive: it is no dark"]
    if masters.bias is None:
        return []
    signal = frame.plane.data - masters.bias.data
    expected = np.float32(0.0) if masters.dark is None else masters.dark.data * np.float32(seconds)
    reasons = []
    for name, place in amplifier_regions(detector).items():
        noise = pixel_noise(signal[place])
        level = clipped_moments((signal - expected)[place])[0] / noise if noise > 0 else math.nan
        numbers["level_sigma"] = max(level, numbers.get("level_sigma", -math.inf))
        if masters.dark is not None and level > rules.dark_light_sigma:
            reasons.append(f"amplifier {name} is {level:.1f} sigma above the master dark: there is light in it, or it was warm")
    if masters.dark is not None:
        hot = any_set(masters.dark.mask, Mask.BAD, signal.shape) & (masters.dark.data > 0)
        if int(hot.sum()) >= rules.hot_least:
            slope = numbers["time_slope"] = hot_slope(signal / np.float32(seconds), masters.dark.data, hot)
            if abs(slope - 1) > rules.time_slope:
                reasons.append(
                    f"its hot pixels are {slope:.2f} times as bright as {seconds:g} s make them: it is of another time"
                )
    return reasons


def _flat(
    frame: Prepared, detector: Detector, _: float, seconds: float, masters: Masters, rules: RawRules, numbers: dict[str, float]
) -> list[str]:
    signal = frame.plane.data.copy()
    if masters.bias is not None:
        signal -= masters.bias.data
    if masters.dark is not None:
        signal -= masters.dark.data * np.float32(seconds)
    signal *= amplifier_map(detector, "gain")
    level = numbers["level_electron"] = float(np.nanmedian(signal))
    if not level > rules.flat_least_electron:
        return [f"its level, {level:.0f} electron, is below {rules.flat_least_electron:.0f}"]
    if masters.flat is None:
        return []
    usable = np.where(frame.plane.mask == 0, signal / np.float32(level), np.float32(np.nan))
    change = flat_change(usable, masters.flat, detector)
    numbers["flat_change_rms"] = change.rms
    if not change.rms <= rules.flat_change:
        said = f"its shape differs by {change.rms:.2%} rms from the master of this filter"
        return [f"{said} ({change.kind()}): another filter than the header says, or other light"]
    return []


_CHECKS: dict[str, Callable[..., list[str]]] = {"bias": _bias, "dark": _dark, "flat": _flat}

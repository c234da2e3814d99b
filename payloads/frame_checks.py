"""What is wrong with one frame, whatever the others are like: each check raises FrameUnusable with the reason."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Detector, parse_section
from payloads.isr import Prepared
from payloads.mask import Mask
from payloads.overscan import FrameUnusable, clipped_moments


def check_amplifiers(data: NDArray[np.floating], detector: Detector, *, least: float = 0.5) -> None:
    """Every amplifier of the trimmed frame must have at least the part `least` of its pixels as numbers."""
    dead = []
    for amplifier in detector.amplifiers:
        part = float(np.isfinite(data[parse_section(amplifier.place)]).mean())
        if part < least:
            dead.append(f"{amplifier.name} ({part:.0%} of its pixels are numbers)")
    if dead:
        raise FrameUnusable(f"amplifier {', '.join(dead)} was not read out")


def check_saturation(mask: NDArray[np.uint32], most: float) -> None:
    """Not more than the part `most` of the pixels may be saturated."""
    saturated = float(((mask & np.uint32(Mask.SAT)) != 0).mean())
    if saturated > most:
        raise FrameUnusable(f"{saturated:.1%} of its pixels are saturated (at most {most:.1%} may be)")


def check_light(prepared: Prepared, detector: Detector, most_adu: float) -> None:
    """A frame that should have seen no light lies within `most_adu` of its overscan, in every amplifier that has one."""
    lit = []
    for amplifier in detector.amplifiers:
        if not np.isfinite(prepared.noise[amplifier.name]):
            continue
        level, _ = clipped_moments(prepared.plane.data[parse_section(amplifier.place)], at_most=20_000)
        if abs(level) > most_adu:
            lit.append(f"{amplifier.name} {level:+.1f} ADU")
    if lit:
        raise FrameUnusable(f"it is not at the level of its overscan ({', '.join(lit)}): there is light in it")


def check_dark_time(seconds: float, usual_s: float, tolerance: float) -> None:
    """A dark time within the part `tolerance` of the usual one; 0 admits any."""
    if tolerance and abs(seconds - usual_s) > tolerance * usual_s:
        raise FrameUnusable(f"its dark time is {seconds:g} s, that of the others {usual_s:g} s")

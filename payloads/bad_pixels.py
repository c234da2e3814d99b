"""The bad-pixel map (DMS-REQ-0059): what the masters know of each pixel, in named bits of 32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from payloads.camera import Detector, parse_section
from payloads.mask import Mask

TESTS = Mask.HOT | Mask.DEAD | Mask.NOISY


def map_bad_pixels(
    masks: list[NDArray[np.uint32]], detector: Detector, *, column_part: float = 0.3, column_gap_px: int = 3
) -> NDArray[np.uint32]:
    """BAD with the bits of the tests that a pixel fails in any of `masks` (ny, nx) of master frames; of their other bits none.

    A column of an amplifier of which at least `column_part` of the rows are BAD is a bad column: its bad pixels and gaps of up to
    `column_gap_px` between them are BAD and COLUMN. A master's NO_DATA is BAD. Method: thresholds on dark, flat and scatter, as
    in the survey's measure of defects (LDM-151 4.3); the masters set HOT, DEAD and NOISY.
    """
    bits = np.zeros(detector.shape, dtype=np.uint32)
    for mask in masks:
        bits |= mask & np.uint32(TESTS | Mask.NO_DATA)
    bits = np.where(bits != 0, bits & np.uint32(TESTS) | np.uint32(Mask.BAD), np.uint32(0))
    for amplifier in detector.amplifiers:
        part = bits[parse_section(amplifier.place)]
        columns = np.flatnonzero((part != 0).mean(axis=0) >= column_part)
        if len(columns):
            # Padded, since closing an array erodes at its edges.
            padded = np.pad(part[:, columns] != 0, ((column_gap_px, column_gap_px), (0, 0)))
            closed = ndimage.binary_closing(padded, np.ones((column_gap_px + 1, 1)))[column_gap_px:-column_gap_px]
            part[:, columns] |= np.where(closed, np.uint32(Mask.BAD | Mask.COLUMN), np.uint32(0))
    return bits


def failed_tests(mask: NDArray[np.uint32]) -> NDArray[np.float32]:
    """How many of the tests each pixel fails."""
    return sum(((mask & np.uint32(bit)) != 0).astype(np.float32) for bit in Mask if bit & TESTS)


def noisy_from_scatter(scatter: NDArray[np.float32], frames: int, *, sigma: float = 8.0) -> NDArray[np.bool_]:
    """Pixels whose robust scatter over `frames` frames, in units of the expected, exceeds 1 by `sigma` of its own error.

    None with fewer than five frames, of which a median deviation says nothing.
    """
    if frames < 5:
        return np.zeros(scatter.shape, dtype=bool)
    # The median deviation of n normal values has a relative error of 1.17 / sqrt(n) / sqrt(2) and a little more for few.
    return scatter > 1 + sigma * 0.9 / np.sqrt(frames)

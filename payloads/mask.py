"""Named bits of a 32-bit mask plane (DMS-REQ-0059: at least 32 bits, extensible downstream).

A bit's number is part of the data format: add bits, never renumber them.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Mask(IntFlag):
    """What is wrong with, or known of, a pixel."""

    BAD = 1 << 0  # defect of the detector: dead, hot, or a bad column
    SAT = 1 << 1  # at or above saturation in the raw frame, or bled into
    CR = 1 << 2  # cosmic ray
    EDGE = 1 << 3  # too near the edge for its kernel
    NO_DATA = 1 << 4  # nothing was measured here
    INTERP = 1 << 5  # value replaced from neighbours
    SUSPECT = 1 << 6  # usable with care: deep vignetting, non-linear range, wings of a saturated star
    DETECTED = 1 << 7  # belongs to a source above threshold
    DETECTED_NEGATIVE = 1 << 8  # belongs to a negative source (differences)
    CLIPPED = 1 << 9  # rejected in at least one input of a stack


UNUSABLE = Mask.BAD | Mask.SAT | Mask.CR | Mask.NO_DATA | Mask.EDGE


def any_set(mask: NDArray[np.uint32] | None, bits: Mask, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where any of `bits` is set; all False, of `shape`, where there is no mask."""
    if mask is None:
        return np.zeros(shape, dtype=bool)
    return (np.asarray(mask, dtype=np.uint32) & np.uint32(bits)) != 0


def header_cards() -> dict[str, Any]:
    """FITS cards that name each bit, so that a file explains itself (`MP_<name>`, eight characters, = bit number)."""
    # Cut to eight characters it would be the card of DETECTED.
    names = {Mask.DETECTED_NEGATIVE: "MP_DETNE"}
    return {names.get(bit, f"MP_{bit.name}"[:8]): int(bit).bit_length() - 1 for bit in Mask}

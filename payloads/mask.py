"""Named bits of a 32-bit mask plane (DMS-REQ-0059: at least 32 bits, extensible downstream).

A bit's number is part of the data format: add bits, never renumber them.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from payloads.compiled.mask import has_bits, paint_discs


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
    HOT = 1 << 10  # BAD because its dark current is far above its surroundings'
    DEAD = 1 << 11  # BAD because its response to light is far from its surroundings'
    NOISY = 1 << 12  # BAD because its values scatter far more than its noise
    COLUMN = 1 << 13  # BAD as part of a column that is mostly BAD


UNUSABLE = Mask.BAD | Mask.SAT | Mask.CR | Mask.NO_DATA | Mask.EDGE


def any_set(mask: NDArray[np.uint32] | None, bits: Mask, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where any of `bits` is set; all False, of `shape`, where there is no mask."""
    if mask is None:
        return np.zeros(shape, dtype=bool)
    mask = np.asarray(mask)
    if mask.dtype.kind != "u" or not mask.dtype.isnative:
        mask = mask.astype(np.uint32)
    out = np.empty(mask.shape, bool)
    has_bits(mask.ravel(), np.uint32(bits), out.ravel())
    return out


def rim(flagged: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the flagged pixels that have an unflagged one, or the border, beside them."""
    rows, columns = np.nonzero(flagged)
    ny, nx = flagged.shape
    inner = (rows > 0) & (rows < ny - 1) & (columns > 0) & (columns < nx - 1)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        inner[inner] = flagged[rows[inner] + dy, columns[inner] + dx]
    return rows[~inner], columns[~inner]


def grown(flagged: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """`flagged` (ny, nx) and all within a radius of it, or just at it; the work goes with the length of the rims."""
    out = flagged.astype(np.uint8)
    rows, columns = rim(flagged)
    paint_discs(out, rows, columns, np.full(len(rows), radius_px + 1e-6), np.uint8(1))
    return out.view(np.bool_)


def header_cards() -> dict[str, Any]:
    """FITS cards that name each bit, so that a file explains itself (`MP_<name>`, eight characters, = bit number)."""
    # Cut to eight characters it would be the card of DETECTED.
    names = {Mask.DETECTED_NEGATIVE: "MP_DETNE"}
    return {names.get(bit, f"MP_{bit.name}"[:8]): int(bit).bit_length() - 1 for bit in Mask}

"""What is kept of a result: files of planes, and the datasets that a Butler gets."""

from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np
from numpy.typing import NDArray

from payloads.prompt.result import PromptResult

_ROWS, _LIMIT = 256, 2.0**31 - 128
_QUANTISE = 16.0
"""Steps of integers to one sigma of the noise: what rounding adds to the variance is a three-thousandth."""


def write_planes(result: PromptResult, path: Path) -> None:
    """Difference and its variance as Rice-compressed FITS, an extension each; DIFFERENCE has the mask's NO_DATA as zero.

    Integers of a step of a sixteenth of the noise compress four times as fast as floats; BSCALE says the step.
    """
    path.unlink(missing_ok=True)
    with fitsio.FITS(str(path), "rw") as file:
        for name, plane in (("DIFFERENCE", result.difference.data), ("VARIANCE", result.difference.variance)):
            step = _step(plane)
            whole = np.empty(plane.shape, np.int32)
            for first in range(0, len(plane), _ROWS):
                rows = np.s_[first : first + _ROWS]
                whole[rows] = np.clip(np.rint(plane[rows] / step), -_LIMIT, _LIMIT)
            file.write(whole, compress="RICE", extname=name, header={"PSCALE": step})


def _step(plane: NDArray[np.float32]) -> np.float32:
    some = plane[::16, ::16]
    width = 1.4826 * np.median(np.abs(some - np.median(some)))
    return np.float32(max(width, 1e-6) / _QUANTISE)

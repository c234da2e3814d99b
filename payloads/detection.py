"""Finding sources in one frame, and the meaning of their flags."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import sep
from numpy.typing import NDArray

from backbone.errors import PermanentError
from payloads.mask import Mask, any_set

_TRIES = 6
"""In fields so crowded that an eighth of all pixels is above threshold, and hangs together, the threshold is doubled so often."""


class SourceFlag(IntFlag):
    """Bits of the column `flags` of `src`; 0 is a clean source."""

    BLENDED = 1 << 0  # shares its pixels with another source
    SATURATED = 1 << 1  # a pixel of its core is saturated
    BAD = 1 << 2  # a pixel of its core is bad, or has no data
    EDGE = 1 << 3  # its PSF reaches over the frame's edge
    COSMIC_RAY = 1 << 4  # a cosmic ray in its core
    SUSPECT = 1 << 5  # where the flat is not to be trusted, or beside saturation
    NO_FIT = 1 << 6  # the PSF could not be fitted; position is that of the detection


class NothingDetected(PermanentError):
    """A frame without a source: clouds, a closed dome, or no star to take the PSF from."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Sources as detected, each array (n,): pixel positions, moments' axes `a` and `b` (px), peak, and whether deblended; the
    `footprint` (ny, nx) of all."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    peak: NDArray[np.float64]
    n_pixels: NDArray[np.int64]
    blended: NDArray[np.bool_]
    footprint: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.x)


def detect(
    data: NDArray[np.float32],
    sigma: NDArray[np.float32] | float,
    unusable: NDArray[np.bool_],
    fwhm_px: float,
    *,
    threshold: float = 4.0,
    min_pixels: int = 3,
    deblend_levels: int = 32,
    deblend_contrast: float = 0.005,
) -> Detections:
    """Sources of background-subtracted `data` (ny, nx): sep (SExtractor) on the image smoothed by a Gaussian of the PSF's width.

    `threshold` counts in the noise of the smoothed image, so that a point source of that signal-to-noise just reaches it; over
    at least `min_pixels` connected pixels; it is doubled where a field is so crowded that an eighth of it is above. `sigma` is
    the noise of a pixel; `unusable` pixels count as nothing.
    """
    half = int(np.clip(round(fwhm_px), 2, 4))
    grid = np.arange(-half, half + 1)
    kernel = np.exp(-0.5 * (grid[:, None] ** 2 + grid[None, :] ** 2) / (fwhm_px / 2.3548) ** 2).astype(np.float32)
    # sep compares the smoothed image with the noise of the unsmoothed one.
    smoothing = float(np.sqrt((kernel**2).sum()) / kernel.sum())
    sep.set_extract_pixstack(max(1_000_000, data.size // 8))
    sep.set_sub_object_limit(4096)
    image = np.ascontiguousarray(data, dtype=np.float32)
    for level in threshold * 2.0 ** np.arange(_TRIES):
        try:
            found, segments = sep.extract(
                image,
                level * smoothing,
                err=sigma,
                mask=unusable,
                filter_kernel=kernel,
                filter_type="conv",
                minarea=min_pixels,
                deblend_nthresh=deblend_levels,
                deblend_cont=deblend_contrast,
                segmentation_map=True,
            )
            break
        except Exception as error:  # sep has no class of its own for this
            if "pixel buffer full" not in str(error) or level >= threshold * 2.0 ** (_TRIES - 1):
                raise
    return Detections(
        x=found["x"],
        y=found["y"],
        a=found["a"],
        b=found["b"],
        peak=found["peak"],
        n_pixels=found["npix"],
        blended=(found["flag"] & sep.OBJ_MERGED) != 0,
        footprint=segments > 0,
    )


def flag_sources(
    x: NDArray[np.float64], y: NDArray[np.float64], mask: NDArray[np.uint32], *, core_px: int, reach_px: int
) -> NDArray[np.int32]:
    """Flags (n,) from the `mask` within `core_px` of each source, and EDGE within `reach_px` of the frame's edge."""
    ny, nx = mask.shape
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    offsets = np.arange(-core_px, core_px + 1)
    rows = np.clip(row[:, None] + offsets, 0, ny - 1)[:, :, None]
    columns = np.clip(column[:, None] + offsets, 0, nx - 1)[:, None, :]
    disc = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= core_px**2 + 1
    seen = np.bitwise_or.reduce(np.where(disc, mask[rows, columns], np.uint32(0)), axis=(1, 2))
    flags = np.zeros(len(x), dtype=np.int32)
    for bits, flag in (
        (Mask.SAT, SourceFlag.SATURATED),
        (Mask.BAD | Mask.NO_DATA, SourceFlag.BAD),
        (Mask.CR, SourceFlag.COSMIC_RAY),
        (Mask.SUSPECT, SourceFlag.SUSPECT),
    ):
        flags[any_set(seen, bits, seen.shape)] |= int(flag)
    near = (column < reach_px) | (row < reach_px) | (column >= nx - reach_px) | (row >= ny - reach_px)
    flags[near] |= int(SourceFlag.EDGE)
    return flags

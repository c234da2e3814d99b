"""The sky as it was, on the grid of a frame: patches of a template warped and joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backbone.errors import PermanentError
from payloads.difference import Image, Masks
from payloads.isr import Plane
from payloads.kernel_field import Floats
from payloads.mask import Mask, any_set
from payloads.warp import PixelMap, warp_pixels

ZEROPOINT_MAG = 27.0
"""AB magnitude of one unit of a coadd."""


class NoTemplate(PermanentError):
    """The template does not cover the frame."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplatePatch:
    """One patch of the template, as coadd made it: `plane` with variance and mask, its `wcs` (astropy), the FWHM of its PSF in
    its own pixels, and the AB magnitude of one of its units. `repaired`: the plane is one that warp.repair_image made."""

    plane: Plane
    wcs: Any
    fwhm_px: float
    zeropoint_mag: float = ZEROPOINT_MAG
    repaired: bool = False


def warp_template(
    patches: Iterable[TemplatePatch], wcs: Any, shape: tuple[int, int], zeropoint_mag: float, *, kernel: str = "lanczos4"
) -> tuple[Image, float]:
    """The patches as one image on the grid of `wcs` of `shape`, in units of AB `zeropoint_mag`; and the share that they cover.

    Its FWHM is the broadest patch's; its mask is of 8 or 16 bits. NoTemplate where no patch reaches the frame.
    """
    patches = list(patches)
    pieces, widths = [], []
    mask_type = np.uint8 if all(patch.plane.mask.dtype == np.uint8 for patch in patches) else np.uint16
    for patch in patches:
        pixel_map = PixelMap.between(patch.wcs, wcs, shape)
        planes = (patch.plane.data, patch.plane.variance, patch.plane.mask)
        warped = warp_pixels(*planes, pixel_map, kernel=kernel, repaired=patch.repaired, mask_type=mask_type)
        if any_set(warped.mask, Mask.NO_DATA, shape).all():
            continue
        scale = np.float32(10 ** (0.4 * (zeropoint_mag - patch.zeropoint_mag)))
        np.multiply(warped.data, scale, out=warped.data)
        if warped.variance is not None:
            np.multiply(warped.variance, scale**2, out=warped.variance)
        pieces.append((warped.data, warped.variance, warped.mask))
        widths.append(patch.fwhm_px / float(np.sqrt(np.nanmedian(pixel_map.area))))
    if not pieces:
        raise NoTemplate(f"none of {len(patches)} patches of the template reaches the frame")
    data, variance, mask = merge_templates(pieces) if len(pieces) > 1 else pieces[0]
    coverage = float(1 - any_set(mask, Mask.NO_DATA, shape).mean())
    return Image(data=data, variance=variance, mask=mask, fwhm_px=max(widths)), coverage


def merge_templates(pieces: Sequence[tuple[Floats, Floats, Masks]]) -> tuple[Floats, Floats, Masks]:
    """One template (data, variance, mask) from patches already on the science grid; where several have data the first counts.

    Neighbouring patches overlap with the same pixels, so averaging would gain nothing; but at its border a patch has pixels whose
    interpolation kernel lacked data (EDGE), and those of its neighbour are better.
    """
    data, variance, mask = (np.array(part) for part in pieces[0])
    for worse in (Mask.NO_DATA, Mask.NO_DATA | Mask.EDGE):
        for more, more_variance, more_mask in pieces[1:] if worse == Mask.NO_DATA else pieces:
            take = any_set(mask, worse, data.shape) & ~any_set(more_mask, worse, data.shape) & np.isfinite(more)
            data[take], variance[take], mask[take] = more[take], more_variance[take], more_mask[take]
    return data, variance, mask

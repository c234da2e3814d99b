"""Stored images as arrays with their masks, and back."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, VarianceUncertainty

from payloads.image import MaskedImage
from payloads.isr import Plane
from payloads.mask import header_cards


def plane_of(image: CCDData | None) -> Plane | None:
    """A stored calibration as arrays; None stays None."""
    if image is None:
        return None
    mask = np.zeros(image.data.shape, dtype=np.uint32) if image.mask is None else np.asarray(image.mask, dtype=np.uint32)
    variance = None if image.uncertainty is None else np.asarray(image.uncertainty.array, dtype=np.float32)
    return Plane(data=np.asarray(image.data, dtype=np.float32), mask=mask, variance=variance)


def image_of(plane: Plane, unit: u.Unit | str, meta: dict[str, Any]) -> CCDData:
    """Arrays as an image to store; the mask's bits are named in the header."""
    variance = None if plane.variance is None else VarianceUncertainty(plane.variance)
    return MaskedImage(plane.data, unit=unit, mask=plane.mask, uncertainty=variance, meta={**header_cards(), **meta})

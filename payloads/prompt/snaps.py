"""Two snaps make a visit: their electrons are added, and what is in one of them alone is a cosmic ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from payloads.exposure import ExposureFacts
from payloads.isr import Plane
from payloads.mask import UNUSABLE, Mask, any_set

_SIGMA = 7.0
_FLUX_ERROR = 0.1  # of a pixel's signal: seeing and guiding differ from snap to snap


def join_snaps(snaps: Sequence[tuple[Plane, ExposureFacts]]) -> tuple[Plane, ExposureFacts]:
    """The sum of reduced snaps of one pointing: data and variance added, masks joined, times added and the middle averaged.

    Of two snaps a pixel that is brighter in one than in the other by `_SIGMA` of its noise, and by a tenth of its signal, is
    CR: the telescope did not move, and nothing in the sky is that fast.
    """
    if len(snaps) == 1:
        return snaps[0]
    planes = [plane for plane, _ in snaps]
    facts = [fact for _, fact in snaps]
    data = np.sum([plane.data for plane in planes], axis=0, dtype=np.float32)
    variance = np.sum([plane.variance for plane in planes], axis=0, dtype=np.float32)
    mask = np.bitwise_or.reduce([plane.mask for plane in planes])
    low = np.min([plane.data for plane in planes], axis=0)
    high = np.max([plane.data for plane in planes], axis=0)
    level = np.median(low)
    rise = _SIGMA * np.sqrt(variance) + _FLUX_ERROR * np.maximum(low - level, 0)
    hit = (high - low > rise) & ~any_set(mask, UNUSABLE, mask.shape)
    mask[hit] |= np.uint32(Mask.CR)
    joined = replace(
        facts[0],
        exposure_time_s=sum(f.exposure_time_s for f in facts),
        dark_time_s=sum(f.dark_time_s for f in facts),
        mjd_mid_tai=float(np.mean([f.mjd_mid_tai for f in facts])),
    )
    return Plane(data=data, mask=mask, variance=variance), joined

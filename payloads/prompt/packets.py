"""Alert packets of a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from payloads.alerts import packets
from payloads.cutouts import CutoutMaker
from payloads.prompt.preloaded import KnownObjects
from payloads.prompt.result import PromptResult


def alert_packets(
    result: PromptResult,
    known: KnownObjects,
    *,
    processed_mjd_tai: float,
    forced_before: Table | None = None,
    observation_reason: str | None = None,
    target_name: str | None = None,
    cutout_px: int = 31,
) -> list[dict[str, Any]]:
    """One packet (payloads.alerts) for each source of the result that is told, with its object's history and cut-outs.

    `forced_before`: forced photometry of earlier visits, columns as `PromptResult.forced` and `timeProcessedMjdTai`.
    """
    told = result.dia_sources[result.told]
    of_object = np.asarray(told["diaObjectId"], np.int64)
    named = of_object != 0
    association = Table({"diaSourceId": np.asarray(told["diaSourceId"], np.int64)[named], "diaObjectId": of_object[named]})
    makers = _makers(result, cutout_px)
    # The difference has the science PSF only where the template was the one convolved.
    with_psf = {"Science"} | ({"Difference"} if result.difference.convolved == "template" else set())

    def cutouts(x: float, y: float) -> dict[str, bytes]:
        stamp = result.psf.at(x, y)
        return {f"cutout{name}": maker.cut(x, y, stamp if name in with_psf else None) for name, maker in makers.items()}

    return list(
        packets(
            told,
            association=association,
            objects=result.objects,
            past=known.sources,
            forced=_all_forced(result.forced, forced_before, processed_mjd_tai),
            cutouts=cutouts,
            processed_mjd_tai=processed_mjd_tai,
            observation_reason=observation_reason,
            target_name=target_name,
        )
    )


def _all_forced(now: Table, before: Table | None, processed_mjd_tai: float) -> Table:
    if before is None or not len(before):
        return now
    now = now.copy(copy_data=False)
    now["timeProcessedMjdTai"] = np.full(len(now), processed_mjd_tai)
    return vstack([before, now], join_type="inner", metadata_conflicts="silent")


@dataclass(frozen=True, eq=False)
class _TemplateVariance:
    """What the template's variance was before its PSF was matched: the difference's less the frame's, to scale. Taken where a
    cut-out wants it; at full size a plane is 65 MB."""

    of_difference: NDArray[np.float32]
    of_frame: NDArray[np.float32]
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of_difference.shape

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return self.of_difference.dtype

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.float32]:
        return (self.of_difference[part] - self.of_frame[part]) * np.float32(self.factor)


def _makers(result: PromptResult, size_px: int) -> dict[str, CutoutMaker]:
    difference, science = result.difference, result.science
    spread = _TemplateVariance(difference.variance, science.variance, difference.kernel_sum**-2)
    planes = {
        "Difference": (difference.data, difference.variance, difference.mask),
        "Science": (science.data, science.variance, science.mask),
        "Template": (difference.matched_template, spread, result.template_mask),
    }
    return {name: CutoutMaker(*plane, result.solution["wcs"], unit="electron", size_px=size_px) for name, plane in planes.items()}

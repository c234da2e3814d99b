"""Coadds of a patch: templates for differences, and deep images for a release. One task, two sets of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.wcs import WCS
from lsst.pex.config import ChoiceField, Field
from lsst.pipe.base import connectionTypes as cT

from payloads.coadd import (
    NJY_PER_UNIT,
    ZEROPOINT_MAG,
    Coadd,
    CoaddSettings,
    InputPsf,
    Stack,
    best_seeing,
    coadd_psf,
    combine,
    warp_to_patch,
)
from payloads.formatters import wcs_of
from payloads.isr import Plane
from payloads.mask import UNUSABLE, Mask, any_set
from payloads.psf import PsfModel
from payloads.skymap import SkyMap
from payloads.tasks.planes import image_of, plane_of
from payloads.warp import PixelMap

_FRAME = ("instrument", "visit", "detector")
_PATCH_BAND = ("skymap", "tract", "patch", "band")


class CoaddConnections(pipe_base.PipelineTaskConnections, dimensions=_PATCH_BAND, defaultTemplates={"coaddName": "deep"}):
    """All frames that overlap the patch, and what is known of them."""

    skymap = cT.PrerequisiteInput(
        doc="tracts and patches", name="skymap_definition", storageClass="StructuredDataDict", dimensions=("skymap",)
    )
    calexps = cT.Input(
        doc="calibrated frames", name="calexp", storageClass="CCDData", dimensions=_FRAME, multiple=True, deferLoad=True
    )
    psfs = cT.Input(doc="their PSFs", name="psf", storageClass="CCDData", dimensions=_FRAME, multiple=True, deferLoad=True)
    solutions = cT.Input(
        doc="their astrometry and photometric scale",
        name="visit_solution",
        storageClass="StructuredDataDict",
        dimensions=_FRAME,
        multiple=True,
        deferLoad=True,
    )
    coadd = cT.Output(
        doc="AB mag 27 = 1, on the patch's grid", name="{coaddName}_coadd", storageClass="CCDData", dimensions=_PATCH_BAND
    )
    psf = cT.Output(doc="its PSF", name="{coaddName}_psf", storageClass="CCDData", dimensions=_PATCH_BAND)


class CoaddConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CoaddConnections):
    """Which frames, and how they become one."""

    statistic = ChoiceField[str](
        doc="how pixels are combined",
        allowed={"clipped": "mean without what only single inputs see", "mean": "of everything", "median": "of everything"},
        default="clipped",
    )
    clip_sigma = Field[float](doc="pixels this far from the median start a clipped area, in their noise", default=5.0)
    best_seeing_fraction = Field[float](doc="share of the inputs, by FWHM, that is used", default=1.0)
    min_inputs = Field[int](doc="never fewer by that selection", default=3)
    max_fwhm_arcsec = Field[float](doc="broader inputs are left out; 0: no limit", default=0.0)
    psf_order = Field[int](doc="order of the PSF's variation over the patch", default=1)

    def validate(self) -> None:
        """Refuse fractions that are none."""
        super().validate()
        if not 0 < self.best_seeing_fraction <= 1:
            raise ValueError(f"best_seeing_fraction is {self.best_seeing_fraction}; it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class _Input:
    """One frame that may go in: handles, and what its header says."""

    visit: int
    detector: int
    calexp: Any
    psf: Any
    solution: dict[str, Any]
    header: dict[str, Any]

    @property
    def fwhm_px(self) -> float:
        return float(self.header["PSFFWHM"])


class CoaddTask(pipe_base.PipelineTask):
    """Warp the overlapping frames to a patch with their `visit_solution`, scale them to AB mag 27 = 1 and combine them.

    Frames are read one at a time and their warps spooled to scratch disk: memory does not grow with their number.
    """

    ConfigClass = CoaddConfig
    _DefaultName = "coadd"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Find the patch on the sky map; frames stay handles, read one after another."""
        inputs = butlerQC.get(inputRefs)
        data_id = butlerQC.quantum.dataId
        sky_map = SkyMap.model_validate(inputs["skymap"])
        result = self.run(
            calexps=inputs["calexps"],
            psfs=inputs["psfs"],
            solutions=inputs["solutions"],
            patch_wcs=sky_map.patch_wcs(data_id["tract"], data_id["patch"]),
            patch_shape=sky_map.patch_shape,
            band=data_id["band"],
        )
        butlerQC.put(result, outputRefs)

    def run(
        self,
        *,
        calexps: Sequence[Any],
        psfs: Sequence[Any],
        solutions: Sequence[Any],
        patch_wcs: WCS,
        patch_shape: tuple[int, int],
        band: str,
    ) -> pipe_base.Struct:
        """Handles of the three inputs, matched by visit and detector; NoWorkFound if none of them reaches the patch."""
        chosen = self._select(self._match(calexps, psfs, solutions))
        with Stack(patch_shape) as stack:
            used, psf_inputs = self._fill(stack, chosen, patch_wcs)
            if not used:
                raise pipe_base.NoWorkFound(f"none of {len(chosen)} frames reaches the patch")
            settings = CoaddSettings(statistic=self.config.statistic, clip_sigma=self.config.clip_sigma)
            coadd = combine(stack, settings)
        psf = coadd_psf(psf_inputs, patch_shape, order=self.config.psf_order)
        meta = self._meta(coadd, psf, used, psf_inputs, band)
        image = image_of(Plane(data=coadd.data, mask=coadd.mask, variance=coadd.variance), u.dimensionless_unscaled, meta)
        image.wcs = patch_wcs
        return pipe_base.Struct(coadd=image, psf=psf.to_ccddata())

    def _match(self, calexps: Sequence[Any], psfs: Sequence[Any], solutions: Sequence[Any]) -> list[_Input]:
        by_frame = [{(h.dataId["visit"], h.dataId["detector"]): h for h in handles} for handles in (calexps, psfs, solutions)]
        both = sorted(set(by_frame[0]) & set(by_frame[1]) & set(by_frame[2]))
        self.metadata["n_candidates"] = len(by_frame[0])
        self.metadata["n_without_solution"] = len(by_frame[0]) - len(both)
        return [
            _Input(
                visit=visit,
                detector=detector,
                calexp=by_frame[0][visit, detector],
                psf=by_frame[1][visit, detector],
                solution=by_frame[2][visit, detector].get(),
                header=by_frame[0][visit, detector].get(component="header"),
            )
            for visit, detector in both
        ]

    def _select(self, inputs: list[_Input]) -> list[_Input]:
        """By seeing: whole visits would be too coarse where the field varies, so frame by frame."""
        limit = self.config.max_fwhm_arcsec
        sharp = [i for i in inputs if not limit or i.fwhm_px * _scale_arcsec(i) <= limit]
        if not sharp:
            raise pipe_base.NoWorkFound(f"none of {len(inputs)} frames has a solution and a FWHM below {limit} arcsec")
        kept = best_seeing([i.fwhm_px for i in sharp], self.config.best_seeing_fraction, self.config.min_inputs)
        self.metadata["n_left_out_by_seeing"] = len(inputs) - len(kept)
        return [sharp[k] for k in kept]

    def _fill(self, stack: Stack, chosen: list[_Input], patch_wcs: WCS) -> tuple[list[_Input], list[InputPsf]]:
        used, psf_inputs = [], []
        for entry in chosen:
            plane = plane_of(entry.calexp.get())
            pixel_map = PixelMap.between(wcs_of(entry.solution["wcs"]), patch_wcs, stack.shape)
            warped = warp_to_patch(plane.data, plane.variance, plane.mask, pixel_map, float(entry.solution["zeropoint_mag"]))
            fwhm_px = entry.fwhm_px / float(np.sqrt(np.nanmedian(pixel_map.area)))  # in pixels of the patch
            if weight := stack.add(warped, fwhm_px):
                used.append(entry)
                psf = PsfModel.from_ccddata(entry.psf.get())
                psf_inputs.append(InputPsf(psf=psf, pixel_map=pixel_map, shape=plane.data.shape, weight=weight))
            self.log.debug("visit %d detector %d: weight %.3g", entry.visit, entry.detector, weight)
        return used, psf_inputs

    def _meta(self, coadd: Coadd, psf: PsfModel, used: list[_Input], psf_inputs: list[InputPsf], band: str) -> dict[str, Any]:
        """Header of the coadd; the same numbers go into the task's metadata."""
        seen = coadd.n_inputs > 0
        covered = coadd.n_inputs[seen] if seen.any() else np.zeros(1)
        usable = ~any_set(coadd.mask, UNUSABLE, coadd.mask.shape)
        sky_sigma = float(np.sqrt(np.median(coadd.variance[usable]))) if usable.any() else float("nan")
        times = [float(i.header["MJD-MID"]) for i in used]
        quality = {
            "n_inputs": len(used),
            "n_inputs_median": float(np.median(covered)),
            "n_inputs_min": int(covered.min()),
            "covered_fraction": float(seen.mean()),
            "clipped_fraction": float(any_set(coadd.mask, Mask.CLIPPED, coadd.mask.shape).mean()),
            "psf_fwhm_px": psf.fwhm_px,
            "sky_sigma_njy": sky_sigma * NJY_PER_UNIT,
        }
        for name, value in quality.items():
            self.metadata[name] = value
        self.metadata["wcs_kinds"] = sorted({str(i.solution["wcs_kind"]) for i in used})
        self.metadata["zeropoint_kinds"] = sorted({str(i.solution["zeropoint_kind"]) for i in used})
        total = sum(p.weight for p in psf_inputs)
        provenance = [
            {
                "visit": i.visit,
                "detector": i.detector,
                "weight": p.weight / total,
                "zeropoint_mag": float(i.solution["zeropoint_mag"]),
            }
            for i, p in zip(used, psf_inputs, strict=True)
        ]
        return {
            "BAND": band,
            "ZEROPT": ZEROPOINT_MAG,
            "NINPUT": len(used),
            "NINPMED": quality["n_inputs_median"],
            "NINPMIN": quality["n_inputs_min"],
            "PSFFWHM": psf.fwhm_px,
            "SKYLEVEL": 0.0,
            "SKYSIGMA": sky_sigma,
            "EXPTIME": float(sum(float(i.header["EXPTIME"]) for i in used)),
            "MJD-BEG": min(times),
            "MJD-END": max(times),
            "MJD-MID": float(np.mean(times)),
            "STATISTC": self.config.statistic,
            "inputs": provenance,
        }


def _scale_arcsec(entry: _Input) -> float:
    wcs = wcs_of(entry.solution["wcs"])
    return float(np.sqrt(wcs.proj_plane_pixel_area().to_value("arcsec2")))

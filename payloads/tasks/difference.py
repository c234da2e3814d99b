"""Science frame minus template, and the DIASources that it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS
from lsst.pex.config import ConfigField, Field
from lsst.pipe.base import connectionTypes as cT

from payloads.camera import Camera
from payloads.dia_catalog import dia_source_table
from payloads.dia_sources import DiaSourceConfig, Score, detect, psf_field
from payloads.difference import Difference, DifferenceConfig, Image, spread_mask, subtract
from payloads.formatters import wcs_of
from payloads.isr import Plane
from payloads.kernel import KernelConfig
from payloads.psf import PsfModel
from payloads.tasks.bodies import ORBITS_INPUT, BodiesConfig, name_known
from payloads.tasks.planes import image_of, plane_of
from payloads.template import NoTemplate, TemplatePatch, warp_template

_FRAME = ("instrument", "visit", "detector")
_PATCH_BAND = ("skymap", "tract", "patch", "band")


class DifferenceConnections(pipe_base.PipelineTaskConnections, dimensions=_FRAME):
    """A frame, and the patches of the template that it overlaps."""

    calexp = cT.Input(doc="the frame, background subtracted", name="calexp", storageClass="CCDData", dimensions=_FRAME)
    psf = cT.Input(doc="its PSF", name="psf", storageClass="CCDData", dimensions=_FRAME)
    solution = cT.Input(
        doc="its astrometry and photometric scale", name="visit_solution", storageClass="StructuredDataDict", dimensions=_FRAME
    )
    templates = cT.Input(
        doc="the sky as it was",
        name="template_coadd",
        storageClass="CCDData",
        dimensions=_PATCH_BAND,
        multiple=True,
        deferLoad=True,
    )
    template_psfs = cT.Input(
        doc="its PSF", name="template_psf", storageClass="CCDData", dimensions=_PATCH_BAND, multiple=True, deferLoad=True
    )
    camera = cT.PrerequisiteInput(
        doc="where its telescope stands",
        name="camera",
        storageClass="StructuredDataDict",
        dimensions=("instrument",),
        minimum=0,
    )
    orbits = ORBITS_INPUT
    difference = cT.Output(doc="science minus matched template", name="difference", storageClass="CCDData", dimensions=_FRAME)
    warped_template = cT.Output(doc="what was subtracted", name="warped_template", storageClass="CCDData", dimensions=_FRAME)
    dia_source = cT.Output(doc="what has changed", name="dia_source", storageClass="ArrowAstropy", dimensions=_FRAME)


class DifferenceTaskConfig(pipe_base.PipelineTaskConfig, pipelineConnections=DifferenceConnections):
    """How the template is matched and sources are found."""

    kernel_order = Field[int](doc="highest spatial order of the matching kernel; fewer stars lower it", default=2)
    stamp_snr = Field[float](doc="least signal-to-noise of stars that the kernel is solved on", default=40.0)
    decorrelate = Field[bool](doc="whiten the noise of the difference", default=True)
    threshold_snr = Field[float](doc="least signal-to-noise of a source", default=5.0)
    min_coverage = Field[float](doc="share of the frame that the template must cover for a difference to be made", default=0.05)
    warp_kernel = Field[str](doc="interpolation of the template onto the frame's grid", default="lanczos4")
    bodies = ConfigField(doc="of the Solar System, where there are orbits", dtype=BodiesConfig)
    release = Field[int](doc="release that the sources' ids carry; 0: prompt processing", default=0)

    def validate(self) -> None:
        """Refuse a coverage that is no fraction."""
        super().validate()
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage is {self.min_coverage}; it must be between 0 and 1")


class DifferenceTask(pipe_base.PipelineTask):
    """Warp the template's patches onto the frame, match PSF and scale, subtract, detect and measure."""

    ConfigClass = DifferenceTaskConfig
    _DefaultName = "subtract"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """The data ID goes into the sources' ids; the clock is read here and nowhere deeper. Where there are orbits, sources that
        are bodies of the Solar System are named as at night."""
        data_id, inputs = butlerQC.quantum.dataId, butlerQC.get(inputRefs)
        camera, orbits = (inputs.pop(name, None) for name in ("camera", "orbits"))
        result = self.run(
            visit=data_id["visit"],
            detector=data_id["detector"],
            processed_mjd_tai=float(Time.now().tai.mjd),
            **inputs,
        )
        if camera is not None and orbits is not None:
            known, day_obs = Camera.from_dict(camera), int(data_id.records["visit"].day_obs)
            found = name_known(result.dia_source, orbits, known, day_obs, self.config.bodies.settings())
            if found is not None:
                self.metadata["n_bodies"] = found
        butlerQC.put(result, outputRefs)

    def run(
        self,
        *,
        calexp: CCDData,
        psf: CCDData,
        solution: dict[str, Any],
        templates: Sequence[Any],
        template_psfs: Sequence[Any],
        visit: int,
        detector: int,
        processed_mjd_tai: float,
    ) -> pipe_base.Struct:
        """`templates` and `template_psfs` are handles, matched by patch; NoWorkFound where they hardly cover the frame."""
        plane, model = plane_of(calexp), PsfModel.from_ccddata(psf)
        wcs, zeropoint = wcs_of(solution["wcs"]), float(solution["zeropoint_mag"])
        science = Image(data=plane.data, variance=plane.variance, mask=plane.mask, fwhm_px=model.fwhm_px)
        template = self._template(templates, template_psfs, wcs, plane.data.shape, zeropoint)
        config = DifferenceConfig(
            kernel=KernelConfig(order=self.config.kernel_order, stamp_snr=self.config.stamp_snr),
            decorrelate=self.config.decorrelate,
        )
        result = subtract(science, template, psf_field(model, plane.data.shape), config)
        fwhm = result.fwhm_px
        measured, score = detect(result, fwhm, DiaSourceConfig(threshold_snr=self.config.threshold_snr))
        table = dia_source_table(
            measured,
            shape=plane.data.shape,
            wcs=wcs,
            zeropoint_mag=zeropoint,
            visit=visit,
            detector=detector,
            band=str(calexp.meta["BAND"]),
            midpoint_mjd_tai=float(calexp.meta["MJD-MID"]),
            processed_mjd_tai=processed_mjd_tai,
            release=self.config.release,
        )
        self._report(result, score, table)
        return self._outputs(result, template, table, calexp, wcs, fwhm)

    def _template(
        self, templates: Sequence[Any], psfs: Sequence[Any], wcs: WCS, shape: tuple[int, int], zeropoint_mag: float
    ) -> Image:
        """The patches as one image on the frame's grid, in its electrons."""
        by_patch = {(h.dataId["tract"], h.dataId["patch"]): h for h in psfs}

        def patches() -> Iterator[TemplatePatch]:
            """One at a time: a frame may overlap many."""
            for handle in sorted(templates, key=lambda h: (h.dataId["tract"], h.dataId["patch"])):
                coadd = handle.get()
                model = PsfModel.from_ccddata(by_patch[handle.dataId["tract"], handle.dataId["patch"]].get())
                yield TemplatePatch(plane=plane_of(coadd), wcs=coadd.wcs, fwhm_px=model.fwhm_px)

        try:
            template, coverage = warp_template(patches(), wcs, shape, zeropoint_mag, kernel=self.config.warp_kernel)
        except NoTemplate as error:
            raise pipe_base.NoWorkFound(str(error)) from error
        self.metadata["template_coverage"] = coverage
        if coverage < self.config.min_coverage:
            raise pipe_base.NoWorkFound(
                f"the template covers {coverage:.1%} of the frame, less than {self.config.min_coverage:.1%}"
            )
        return template

    def _report(self, result: Difference, score: Score, table: Table) -> None:
        """Quality numbers into the metadata."""
        quality = {
            "kernel_sum": result.kernel_sum,
            "kernel_chi2": result.kernel.chi2,
            "kernel_order": result.kernel.field.order,
            "n_stamps": result.kernel.n_stamps,
            "n_stamps_used": result.kernel.n_used,
            "convolved": result.convolved,
            "score_width": score.width,
            "systematic_fraction": score.systematic,
            "unusable_fraction": float(score.unusable.mean()),
            "n_sources": len(table),
            "n_reliable": int((np.asarray(table["reliability"]) >= 0.5).sum()),
            "n_dipoles": int(np.asarray(table["isDipole"]).sum()),
        }
        for name, value in quality.items():
            self.metadata[name] = value
        self.log.info("%d sources, %d reliable; kernel on %d stars", len(table), quality["n_reliable"], quality["n_stamps_used"])

    def _outputs(
        self, result: Difference, template: Image, table: Table, calexp: CCDData, wcs: WCS, fwhm_px: float
    ) -> pipe_base.Struct:
        meta = {key: calexp.meta[key] for key in ("BAND", "MJD-MID", "EXPTIME", "FILTER") if key in calexp.meta}
        cards = {
            "KSUM": result.kernel_sum,
            "KCHI2": result.kernel.chi2,
            "KORDER": result.kernel.field.order,
            "NSTAMP": result.kernel.n_stamps,
            "NSTAMPU": result.kernel.n_used,
            "CONVOLVD": result.convolved,
            "PSFFWHM": fwhm_px,
            "DECORR": self.config.decorrelate,
        }
        filled = template.filled()
        matched_mask = filled.mask
        if result.convolved == "template":
            matched_mask = matched_mask | spread_mask(filled.mask, result.kernel.field, DifferenceConfig().spread_fraction)
        difference = image_of(Plane(data=result.data, mask=result.mask, variance=result.variance), u.electron, meta | cards)
        matched = image_of(
            Plane(
                data=result.matched_template,
                mask=matched_mask,
                variance=(filled.variance * np.float32(result.kernel_sum**2)).astype(np.float32),
            ),
            u.electron,
            meta | cards,
        )
        difference.wcs = matched.wcs = wcs
        return pipe_base.Struct(difference=difference, warped_template=matched, dia_source=table)

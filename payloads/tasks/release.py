"""The tables of a release: objects of a patch, and their fluxes in every frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from astropy.table import Table, vstack
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as cT

from payloads.forced import forced_fluxes, njy, on_frame
from payloads.formatters import wcs_of
from payloads.ids import object_id
from payloads.objects import BandImage, ObjectSettings, measure_objects
from payloads.psf import PsfModel
from payloads.skymap import SkyMap
from payloads.tasks.planes import plane_of

_FRAME = ("instrument", "visit", "detector")
_PATCH = ("skymap", "tract", "patch")
_PATCH_BAND = ("skymap", "tract", "patch", "band")


class MeasureObjectsConnections(pipe_base.PipelineTaskConnections, dimensions=_PATCH):
    """All bands of a patch."""

    skymap = cT.PrerequisiteInput(
        doc="tracts and patches", name="skymap_definition", storageClass="StructuredDataDict", dimensions=("skymap",)
    )
    coadds = cT.Input(
        doc="coadds of all bands",
        name="deep_coadd",
        storageClass="CCDData",
        dimensions=_PATCH_BAND,
        multiple=True,
        deferLoad=True,
    )
    psfs = cT.Input(
        doc="their PSFs", name="deep_psf", storageClass="CCDData", dimensions=_PATCH_BAND, multiple=True, deferLoad=True
    )
    objects = cT.Output(doc="objects that the patch owns", name="object", storageClass="ArrowAstropy", dimensions=_PATCH)


class MeasureObjectsConfig(pipe_base.PipelineTaskConfig, pipelineConnections=MeasureObjectsConnections):
    """How objects are found."""

    release = Field[int](doc="number of the release, 1 to 63: part of every object's id, so that ids never repeat", default=1)
    threshold_sigma = Field[float](doc="detection threshold of all bands together, as a Gaussian's chance", default=5.0)
    deblend_contrast = Field[float](doc="least part of a blend's flux that is a source of its own", default=0.0002)
    aperture_fwhm = Field[float](doc="radius of the aperture, FWHM of the broadest band", default=2.0)

    def validate(self) -> None:
        """Release 0 is prompt processing's."""
        super().validate()
        if not 1 <= self.release < 64:
            raise ValueError(f"release is {self.release}; data releases count from 1 to 63")


class MeasureObjectsTask(pipe_base.PipelineTask):
    """Detect on all bands of a patch together, measure in each, and keep what lies in the patch's own area."""

    ConfigClass = MeasureObjectsConfig
    _DefaultName = "measureObjects"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Match coadds and PSFs by band."""
        inputs = butlerQC.get(inputRefs)
        data_id = butlerQC.quantum.dataId
        coadds, psfs = ({h.dataId["band"]: h for h in inputs[name]} for name in ("coadds", "psfs"))
        bands = {band: _band_image(coadds[band].get(), psfs[band].get()) for band in sorted(set(coadds) & set(psfs))}
        sky_map = SkyMap.model_validate(inputs["skymap"])
        butlerQC.put(self.run(bands=bands, sky_map=sky_map, tract=data_id["tract"], patch=data_id["patch"]), outputRefs)

    def run(self, *, bands: dict[str, BandImage], sky_map: SkyMap, tract: int, patch: int) -> pipe_base.Struct:
        """`bands`: name → image on the patch's grid."""
        if not bands:
            raise pipe_base.NoWorkFound("no band has both a coadd and its PSF")
        settings = ObjectSettings(
            threshold_sigma=self.config.threshold_sigma,
            deblend_contrast=self.config.deblend_contrast,
            aperture_fwhm=self.config.aperture_fwhm,
        )
        found = measure_objects(bands, settings)
        table = found[sky_map.owned(tract, patch, found["x"], found["y"])]
        wcs = sky_map.patch_wcs(tract, patch)
        ra, dec = wcs.pixel_to_world_values(table["x"], table["y"]) if len(table) else (np.zeros(0), np.zeros(0))
        scale_deg = sky_map.pixel_scale_arcsec / 3600
        first = {
            "objectId": np.array([object_id(self.config.release, tract, patch, k + 1) for k in range(len(table))], np.int64),
            "ra": np.asarray(ra, float),
            "dec": np.asarray(dec, float),
            "raErr": np.asarray(table["xErr"] * scale_deg),
            "decErr": np.asarray(table["yErr"] * scale_deg),
            "tract": np.full(len(table), tract, np.int32),
            "patch": np.full(len(table), patch, np.int32),
        }
        table.add_columns(list(first.values()), names=list(first), indexes=[0] * len(first))
        self.metadata["n_objects"] = len(table)
        self.metadata["n_in_borders"] = len(found) - len(table)
        self.metadata["n_stars"] = int(np.sum(table["isStar"]))
        self.metadata["bands"] = sorted(bands)
        return pipe_base.Struct(objects=table)


def _band_image(coadd: CCDData, psf: CCDData) -> BandImage:
    plane = plane_of(coadd)
    return BandImage(data=plane.data, variance=plane.variance, mask=plane.mask, psf=PsfModel.from_ccddata(psf))


class ForcedPhotometryConnections(pipe_base.PipelineTaskConnections, dimensions=_FRAME):
    """A frame, and the objects of the patches that it overlaps."""

    calexp = cT.Input(doc="calibrated frame", name="calexp", storageClass="CCDData", dimensions=_FRAME)
    psf = cT.Input(doc="its PSF", name="psf", storageClass="CCDData", dimensions=_FRAME)
    solution = cT.Input(
        doc="its astrometry and photometric scale", name="visit_solution", storageClass="StructuredDataDict", dimensions=_FRAME
    )
    objects = cT.Input(
        doc="objects of overlapping patches", name="object", storageClass="ArrowAstropy", dimensions=_PATCH, multiple=True
    )
    sources = cT.Output(doc="fluxes at their places", name="forced_source", storageClass="ArrowAstropy", dimensions=_FRAME)


class ForcedPhotometryConfig(pipe_base.PipelineTaskConfig, pipelineConnections=ForcedPhotometryConnections):
    """Nothing to choose: the fit has no knobs that a release should turn."""


class ForcedPhotometryTask(pipe_base.PipelineTask):
    """PSF fluxes (nJy) in one frame at the positions of all objects on it; a row for each, NaN where there is no flux."""

    ConfigClass = ForcedPhotometryConfig
    _DefaultName = "forcedPhotometry"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Add which frame it is."""
        inputs = butlerQC.get(inputRefs)
        data_id = butlerQC.quantum.dataId
        butlerQC.put(self.run(visit=data_id["visit"], detector=data_id["detector"], **inputs), outputRefs)

    def run(
        self, *, calexp: CCDData, psf: CCDData, solution: dict[str, Any], objects: Sequence[Table], visit: int, detector: int
    ) -> pipe_base.Struct:
        """`objects`: one table per patch; positions in degrees (ICRS)."""
        plane = plane_of(calexp)
        places = vstack([table["objectId", "ra", "dec"] for table in objects], metadata_conflicts="silent")
        wcs = wcs_of(solution["wcs"])
        index, x, y = on_frame(wcs, np.asarray(places["ra"]), np.asarray(places["dec"]), plane.data.shape)
        fluxes = forced_fluxes(plane.data, plane.variance, plane.mask, PsfModel.from_ccddata(psf), x, y)
        scale = njy(float(solution["zeropoint_mag"]))
        count = len(index)
        table = Table(
            {
                "objectId": np.asarray(places["objectId"], np.int64)[index],
                "visit": np.full(count, visit, np.int64),
                "detector": np.full(count, detector, np.int32),
                "band": np.full(count, str(calexp.meta["BAND"])),
                "midpointMjdTai": np.full(count, float(calexp.meta["MJD-MID"])),
                "ra": np.asarray(places["ra"], float)[index],
                "dec": np.asarray(places["dec"], float)[index],
                "x": x,
                "y": y,
                "psfFlux": fluxes.flux * scale,
                "psfFluxErr": fluxes.flux_err * scale,
                "maskBits": fluxes.bits.astype(np.int64),
            }
        )
        self.metadata["n_objects"] = len(places)
        self.metadata["n_on_frame"] = count
        self.metadata["n_measured"] = int(fluxes.good.sum())
        return pipe_base.Struct(sources=table)

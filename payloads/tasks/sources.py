"""From electrons to sources, their PSF, and where they are on the sky."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.table import Table, vstack
from astropy.wcs import WCS
from lsst.pex.config import Config, ConfigField, Field
from lsst.pipe.base import connectionTypes as cT

from backbone.errors import PermanentError
from payloads.astrometry import AstrometryConfig
from payloads.camera import Camera
from payloads.characterize import CharacterizeConfig, Characterized, characterize
from payloads.exposure import ExposureFacts
from payloads.ids import source_id
from payloads.image import MaskedImage
from payloads.mask import header_cards
from payloads.matching import NoMatch
from payloads.solution import initial_wcs, solve

_VISIT = ("instrument", "visit", "detector")
_CAMERA = cT.PrerequisiteInput(
    doc="what is known of the camera", name="camera", storageClass="StructuredDataDict", dimensions=("instrument",)
)


def config_of(settings: type[Any], name: str) -> type[Config]:
    """A pex_config class with the fields of a settings dataclass whose defaults are numbers."""
    members = {f.name: Field[type(f.default)](doc=f"{settings.__name__}.{f.name}", default=f.default) for f in fields(settings)}
    return type(name, (Config,), {"__doc__": f"Fields of {settings.__name__}.", "__module__": __name__, **members})


def settings_of(settings: type[Any], config: Config) -> Any:
    """The settings dataclass that a config of `config_of` holds."""
    return settings(**{f.name: getattr(config, f.name) for f in fields(settings)})


CharacterizeSettings = config_of(CharacterizeConfig, "CharacterizeSettings")
AstrometrySettings = config_of(AstrometryConfig, "AstrometrySettings")


class CharacterizeConnections(pipe_base.PipelineTaskConnections, dimensions=_VISIT):
    """One exposure's reduced frame to calibrated exposure, PSF and sources."""

    camera = _CAMERA
    frames = cT.Input(
        doc="reduced frames of the visit: one",
        name="post_isr",
        storageClass="CCDData",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
    )
    calexp = cT.Output(doc="background-subtracted electrons", name="calexp", storageClass="CCDData", dimensions=_VISIT)
    psf = cT.Output(doc="PSF model", name="psf", storageClass="CCDData", dimensions=_VISIT)
    src = cT.Output(doc="sources", name="src", storageClass="ArrowAstropy", dimensions=_VISIT)


class CharacterizeTaskConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CharacterizeConnections):
    """How a frame is characterized."""

    settings = ConfigField(doc="of payloads.characterize", dtype=CharacterizeSettings)
    release = Field[int](doc="release number in the ids of sources; 0 is prompt processing", default=0)


class CharacterizeTask(pipe_base.PipelineTask):
    """Background, cosmic rays, PSF, sources; the initial WCS is the header's, or the nominal one of the pointing."""

    ConfigClass = CharacterizeTaskConfig
    _DefaultName = "characterize"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Visits are single exposures: exactly one frame."""
        inputs = butlerQC.get(inputRefs)
        data_id = butlerQC.quantum.dataId
        if len(inputs["frames"]) != 1:
            raise PermanentError(f"visit {data_id['visit']} has {len(inputs['frames'])} exposures: it should have one")
        outputs = self.run(
            frame=inputs["frames"][0],
            camera=Camera.from_dict(inputs["camera"]),
            visit=data_id["visit"],
            number=data_id["detector"],
        )
        butlerQC.put(outputs, outputRefs)

    def run(self, *, frame: CCDData, camera: Camera, visit: int, number: int) -> pipe_base.Struct:
        """`frame`: post_isr; `number`: the detector's id."""
        facts = ExposureFacts.from_meta(frame.meta)
        variance = np.asarray(frame.uncertainty.array, dtype=np.float32)
        found = characterize(
            np.asarray(frame.data, dtype=np.float32),
            variance,
            np.asarray(frame.mask, dtype=np.uint32),
            settings_of(CharacterizeConfig, self.config.settings),
        )
        wcs, kind = initial_wcs(frame.wcs, facts, camera, number)
        meta = {
            **header_cards(),
            **facts.to_meta(),
            "PSFFWHM": found.psf.fwhm_px,
            "SKYLEVEL": found.sky.level,
            "SKYSIGMA": found.sky.sigma,
            "WCSKIND": kind,
        }
        calexp = MaskedImage(
            found.data, unit=u.electron, mask=found.mask, uncertainty=VarianceUncertainty(variance), wcs=wcs, meta=meta
        )
        self._report(found, variance)
        table = source_table(found.columns, wcs, source_id(self.config.release, visit, number, 0))
        return pipe_base.Struct(calexp=calexp, psf=found.psf.to_ccddata(), src=table)

    def _report(self, found: Characterized, variance: np.ndarray) -> None:
        columns = found.columns
        self.metadata["n_sources"] = len(columns["x"])
        self.metadata["n_clean"] = int((columns["flags"] == 0).sum())
        self.metadata["n_stars"] = int(columns["isStar"].sum())
        self.metadata["n_psf_stars"] = found.n_psf_stars
        self.metadata["psf_order"] = found.psf.order
        self.metadata["fwhm_px"] = found.psf.fwhm_px
        self.metadata["sky_electron"] = found.sky.level
        self.metadata["sky_sigma_electron"] = found.sky.sigma
        self.metadata["noise_ratio"] = found.sky.sigma / float(np.sqrt(np.median(variance)))
        self.metadata["n_cosmic_ray_pixels"] = found.n_cosmic_ray_pixels


def source_table(columns: dict[str, np.ndarray], wcs: WCS, first_id: int) -> Table:
    """`src`: the columns with ids counted from `first_id` in front and sky positions at the end; units on the columns."""
    ra, dec = (np.asarray(a, dtype=np.float64) for a in wcs.all_pix2world(columns["x"], columns["y"], 0))
    identifiers = first_id + np.arange(1, len(ra) + 1, dtype=np.int64)
    units = {"x": u.pix, "y": u.pix, "xErr": u.pix, "yErr": u.pix, "fwhm": u.pix, "ra": u.deg, "dec": u.deg}
    units |= dict.fromkeys(("psfFlux", "psfFluxErr", "apFlux", "apFluxErr"), u.electron)
    table = Table({"id": identifiers, **columns, "ra": ra, "dec": dec})
    for name, unit in units.items():
        table[name].unit = unit
    return table


class AstrometryConnections(pipe_base.PipelineTaskConnections, dimensions=_VISIT):
    """Sources and reference catalogue to the visit's solution."""

    camera = _CAMERA
    src = cT.Input(doc="sources", name="src", storageClass="ArrowAstropy", dimensions=_VISIT)
    calexp = cT.Input(doc="for WCS and header", name="calexp", storageClass="CCDData", dimensions=_VISIT, deferLoad=True)
    ref_cat = cT.PrerequisiteInput(
        doc="reference stars around the visit",
        name="ref_cat",
        storageClass="ArrowAstropy",
        dimensions=("htm7",),
        multiple=True,
        deferLoad=True,
    )
    visit_solution = cT.Output(
        doc="WCS and zero point", name="visit_solution", storageClass="StructuredDataDict", dimensions=_VISIT
    )


class AstrometryTaskConfig(pipe_base.PipelineTaskConfig, pipelineConnections=AstrometryConnections):
    """How sources are matched and the WCS fitted."""

    settings = ConfigField(doc="of payloads.astrometry", dtype=AstrometrySettings)


class AstrometryTask(pipe_base.PipelineTask):
    """WCS and zero point from the reference catalogue."""

    ConfigClass = AstrometryTaskConfig
    _DefaultName = "astrometry"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Of the calibrated exposure only WCS and header are read."""
        inputs = butlerQC.get(inputRefs)
        camera = Camera.from_dict(inputs["camera"])
        outputs = self.run(
            src=inputs["src"],
            initial=inputs["calexp"].get(component="wcs"),
            facts=ExposureFacts.from_meta(inputs["calexp"].get(component="header")),
            reference=read_shards(inputs["ref_cat"]),
            camera=camera,
            number=butlerQC.quantum.dataId["detector"],
        )
        butlerQC.put(outputs, outputRefs)

    def run(
        self, *, src: Table, initial: WCS, facts: ExposureFacts, reference: Table, camera: Camera, number: int
    ) -> pipe_base.Struct:
        """`reference` has `ra dec` in degrees and `mag_<band>`; NoMatch where sources and reference do not agree."""
        band = facts.band
        column = f"mag_{band}"
        mag = np.asarray(reference[column], dtype=np.float64) if column in reference.colnames else _any_mag(reference)
        found = solve(
            {name: np.asarray(src[name]) for name in src.colnames},
            (np.asarray(reference["ra"], dtype=np.float64), np.asarray(reference["dec"], dtype=np.float64), mag),
            initial,
            facts,
            camera,
            number,
            settings_of(AstrometryConfig, self.config.settings),
            photometric=column in reference.colnames,
        )
        solution, zero = found.entries, found.zero
        for name in ("n_matched", "rms_pix", "zeropoint_mag", "zeropoint_err", "zeropoint_kind"):
            self.metadata[name] = solution[name]
        self.metadata["sip_order"] = found.astrometry.order
        self.metadata["pointing_offset_arcsec"] = found.astrometry.offset_arcsec
        self.metadata["zeropoint_scatter_mag"] = zero.scatter if zero else float("nan")
        self.metadata["n_zeropoint_stars"] = zero.n if zero else 0
        return pipe_base.Struct(visit_solution=solution)


def read_shards(handles: list[Any]) -> Table:
    """The reference catalogue of a visit: its shards as one table. NoMatch where no shard overlaps it."""
    tables = [handle.get() for handle in handles]
    if not tables:
        raise NoMatch("no reference catalogue overlaps this visit: ingest one, or run register in place of astrometry")
    return vstack(tables, metadata_conflicts="silent") if len(tables) > 1 else tables[0]


def _any_mag(reference: Table) -> np.ndarray:
    """Some magnitude, to order stars by brightness where the catalogue lacks the band."""
    names = [name for name in reference.colnames if name.startswith("mag_")]
    return np.asarray(reference[names[0]], dtype=np.float64) if names else np.zeros(len(reference))

"""Solutions of visits of one field without a reference catalogue: relative to one of them."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from lsst.pex.config import ConfigField, Field
from lsst.pipe.base import connectionTypes as cT

from payloads.astrometry import wcs_cards, with_affine
from payloads.camera import Camera
from payloads.detection import SourceFlag
from payloads.exposure import ExposureFacts
from payloads.matching import NoMatch
from payloads.registration import Registration, RegistrationConfig, StarList, choose_reference, register_frames
from payloads.solution import NOMINAL_ERR_MAG, nominal_zeropoint
from payloads.tasks.sources import config_of, settings_of

_VISIT = ("instrument", "visit", "detector")
RegistrationSettings = config_of(RegistrationConfig, "RegistrationSettings")


class RegisterConnections(pipe_base.PipelineTaskConnections, dimensions=("instrument", "detector")):
    """Sources of all visits of the query to their solutions."""

    camera = cT.PrerequisiteInput(
        doc="what is known of the camera", name="camera", storageClass="StructuredDataDict", dimensions=("instrument",)
    )
    srcs = cT.Input(doc="sources", name="src", storageClass="ArrowAstropy", dimensions=_VISIT, multiple=True)
    calexps = cT.Input(
        doc="for their WCS and headers", name="calexp", storageClass="CCDData", dimensions=_VISIT, multiple=True, deferLoad=True
    )
    visit_solutions = cT.Output(
        doc="WCS and zero point", name="visit_solution", storageClass="StructuredDataDict", dimensions=_VISIT, multiple=True
    )


class RegisterConfig(pipe_base.PipelineTaskConfig, pipelineConnections=RegisterConnections):
    """How frames are brought together."""

    settings = ConfigField(doc="of payloads.registration", dtype=RegistrationSettings)
    snr_min = Field[float](doc="sources of less signal-to-noise are not looked at", default=10.0)


class RegisterTask(pipe_base.PipelineTask):
    """Registers visits of one field to the best of them. Campaigns over several fields need a group, or a where, for each."""

    ConfigClass = RegisterConfig
    _DefaultName = "register"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Outputs are put by visit: one that could not be registered gets none, and the metadata says why."""
        camera = Camera.from_dict(butlerQC.get(inputRefs.camera))
        srcs = {ref.dataId["visit"]: butlerQC.get(ref) for ref in inputRefs.srcs}
        headers = {ref.dataId["visit"]: butlerQC.get(ref) for ref in inputRefs.calexps}
        outputs = self.run(
            srcs=srcs,
            headers={visit: handle.get(component="header") for visit, handle in headers.items()},
            wcs={visit: handle.get(component="wcs") for visit, handle in headers.items()},
            camera=camera,
        )
        for ref in outputRefs.visit_solutions:
            if (solution := outputs.visit_solutions.get(ref.dataId["visit"])) is not None:
                butlerQC.put(solution, ref)

    def run(
        self, *, srcs: dict[int, Table], headers: dict[int, dict[str, Any]], wcs: dict[int, WCS], camera: Camera
    ) -> pipe_base.Struct:
        """All by visit: `src` tables, headers and initial WCS of the calexps. NoMatch where no frame fits the reference."""
        frames = {visit: self._stars(srcs[visit], headers[visit]) for visit in sorted(srcs) if visit in headers}
        reference = choose_reference(frames)
        done, failed = register_frames(frames, reference, settings_of(RegistrationConfig, self.config.settings))
        for visit, reason in failed.items():
            self.log.warning("visit %d is not registered: %s", visit, reason)
        if len(done) == 1 and failed:
            first = next(iter(failed.values()))
            raise NoMatch(f"none of {len(failed)} visits could be registered to {reference}; of the first: {first}")
        facts = ExposureFacts.from_meta(headers[reference])
        solutions = {
            visit: solution(found, visit == reference, wcs[reference], nominal_zeropoint(camera, facts))
            for visit, found in done.items()
        }
        self.metadata["reference"] = reference
        self.metadata["n_registered"] = len(done)
        self.metadata["n_failed"] = len(failed)
        self.metadata["failed"] = [f"{visit}: {reason}" for visit, reason in failed.items()] or ["none"]
        self.metadata["visits"] = list(done)
        self.metadata["rms_pix"] = [found.rms_px for found in done.values()]
        self.metadata["flux_scale"] = [found.scale for found in done.values()]
        self.metadata["n_matched"] = [found.n_matched for found in done.values()]
        return pipe_base.Struct(visit_solutions=solutions)

    def _stars(self, src: Table, header: dict[str, Any]) -> StarList:
        clean = (np.asarray(src["flags"]) & ~int(SourceFlag.BLENDED)) == 0
        table = src[clean & (np.asarray(src["snr"]) > self.config.snr_min)]
        x, y, flux, error = (np.asarray(table[name], dtype=np.float64) for name in ("x", "y", "psfFlux", "psfFluxErr"))
        return StarList(x=x, y=y, flux=flux, flux_err=error, fwhm_px=float(header["PSFFWHM"]))


def solution(found: Registration, reference: bool, wcs: WCS, zeropoint_mag: float) -> dict[str, Any]:
    """`visit_solution` of a registered visit: the reference's WCS seen through the affine, its zero point through the flux
    scale."""
    return {
        "wcs": wcs_cards(with_affine(wcs, found.affine)),
        "wcs_kind": "nominal" if reference else "registered",
        # A star gives `scale` times the reference's electrons here, at the same magnitude.
        "zeropoint_mag": zeropoint_mag + 2.5 * float(np.log10(found.scale)),
        "zeropoint_err": float(np.hypot(NOMINAL_ERR_MAG, 1.0857 * found.scale_err)) if reference else 1.0857 * found.scale_err,
        "zeropoint_kind": "nominal" if reference else "relative",
        "n_matched": found.n_matched,
        "rms_pix": found.rms_px,
    }

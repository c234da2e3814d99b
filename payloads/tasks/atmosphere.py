"""A night's atmosphere from spectra of standard stars (method in `payloads.atmosphere`), and its verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.table import Table
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as cT

from payloads.atmosphere import (
    CENTRES,
    NAMES,
    NM,
    AtmosphereFit,
    Spectrum,
    fit_atmosphere,
    transmission,
    transmission_error,
)
from payloads.camera import Camera, Detector, Dispersion
from payloads.combine import CombineError
from payloads.holdout import held_out, not_used, rejected_by, used_by
from payloads.isr import Prepared, prepare
from payloads.mask import UNUSABLE, any_set
from payloads.overscan import FrameUnusable, amplifier_map
from payloads.spectra import at_wavelengths, extract, oxygen_shift
from payloads.tasks.products import ProductConfig, ProductConnections, ProductTask
from payloads.tasks.verification import VerifyConfig, VerifyConnections, _VerifyTask, candidate_and_certified
from payloads.verification_atmosphere import judge

NIGHT = ("instrument", "detector", "day_obs")
_UNLIKE = 10.0  # chi squared of a degree of freedom of an exposure that is left out


def standards_of(table: Table) -> dict[str, Any]:
    """Photons per nm at the model's wavelengths, by target, of a table `target nm photons`."""
    target = np.asarray(table["target"]).astype(str)
    found = {}
    for name in np.unique(target):
        nm, photons = (np.asarray(table[column], float)[target == name] for column in ("nm", "photons"))
        order = np.argsort(nm)
        if nm[order[0]] <= NM[0] and nm[order[-1]] >= NM[-1]:
            found[str(name)] = np.interp(NM, nm[order], photons[order])
    return found


def _standards() -> cT.PrerequisiteInput:
    return cT.PrerequisiteInput(doc="reference spectra", name="standard_spectra", storageClass="ArrowAstropy", dimensions=())


def spectrum_of(
    exposure: int,
    frame: Prepared,
    header: Mapping[str, Any],
    detector: Detector,
    dispersion: Dispersion,
    known: Mapping[str, Any],
) -> Spectrum:
    """Of a prepared frame; FrameUnusable where its header says too little or its star is no standard."""
    target = str(header.get("OBJECT") or "").strip()
    if target not in known:
        raise FrameUnusable(f"its star, {target or 'unnamed'}, has no reference spectrum; known are {', '.join(sorted(known))}")
    airmass, pressure = (header.get(key) for key in ("AIRMASS", "PRESSURE"))
    if not isinstance(airmass, (int, float)) or not isinstance(pressure, (int, float)):
        raise FrameUnusable("its header lacks AIRMASS or PRESSURE [hPa]")
    data = frame.plane.data * amplifier_map(detector, "gain")
    noise = float(np.mean([a.read_noise for a in detector.amplifiers]))
    trace = extract(data, any_set(frame.plane.mask, UNUSABLE, data.shape), noise)
    shift = oxygen_shift(trace, dispersion, airmass, pressure)
    signal, variance = at_wavelengths(trace, dispersion, shift)
    sigma_nm = trace.sigma_px * dispersion.nm_per_px
    return Spectrum(
        exposure=exposure, target=target, airmass=float(airmass), pressure_hpa=float(pressure), sigma_nm=sigma_nm,
        signal=signal, variance=variance,
    )  # fmt: skip


class AtmosphereConnections(ProductConnections, dimensions=NIGHT):
    """A night's spectra and the standards' to its atmosphere."""

    standards = _standards()
    atmosphere = cT.Output(
        doc="transmission, parameters, covariance", name="atmosphere", storageClass="StructuredDataDict", dimensions=NIGHT,
        isCalibration=True,
    )  # fmt: skip


class AtmosphereConfig(ProductConfig, pipelineConnections=AtmosphereConnections):
    """Of the fit."""

    hold_out = Field[int](doc="of so many exposures one is kept out, to verify the product with; 0: none", default=5)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """Fewer tell nothing of four parameters."""
        super().setDefaults()
        self.minimum = 8


class MeasureAtmosphereTask(ProductTask):
    """Aerosols, ozone and water of a night from spectra of standard stars at several airmasses."""

    ConfigClass = AtmosphereConfig
    _DefaultName = "measureAtmosphere"

    def particulars(self, camera: Camera, data_id: Any) -> dict[str, Any]:
        """The camera's grating."""
        if camera.dispersion is None:
            raise pipe_base.NoWorkFound(f"camera {camera.name} takes no spectra: its description has no dispersion")
        return {"dispersion": camera.dispersion, "day_obs": int(data_id["day_obs"])}

    def run(self, raws: Sequence[Any], detector: Detector, standards: Table, dispersion: Dispersion, day_obs: int) -> Any:
        """`raws`: handles of spectra; `standards`: a table `target nm photons`."""
        known, rejected = standards_of(standards), {}
        out = held_out((h.dataId["exposure"] for h in raws), self.config.hold_out)
        spectra = []
        for name, read in self.prepared([h for h in raws if h.dataId["exposure"] not in out], detector):
            try:
                frame, _, header = read()
                spectra.append(spectrum_of(int(name), frame, header, detector, dispersion, known))
            except FrameUnusable as error:
                rejected[name] = str(error)
        fit = self._fit(spectra, known, rejected)
        # One after another: one that is wrong makes the others look so.
        while max(chi2 := unlikeness(fit)) > _UNLIKE:
            worst = spectra.pop(int(np.argmax(chi2)))
            rejected[str(worst.exposure)] = f"its spectrum is unlike the others (chi squared {max(chi2):.0f}): another star?"
            fit = self._fit(spectra, known, rejected)
        used = tuple(str(s.exposure) for s in spectra)
        self.report_rejected(used, rejected)
        content = atmosphere_content(fit, spectra, dispersion)
        self.metadata["chi2"] = fit.chi2
        for name in NAMES:
            self.metadata[name] = content["parameters"][name]
        content |= {"detector": detector.id, "day_obs": day_obs}
        return pipe_base.Struct(atmosphere=content, used=used, rejected=rejected)

    def _fit(self, spectra: Sequence[Spectrum], known: Mapping[str, Any], rejected: Mapping[str, str]) -> AtmosphereFit:
        why = "; ".join(f"{name}: {reason}" for name, reason in rejected.items()) or "none was rejected"
        if len(spectra) < self.config.minimum:
            raise CombineError(f"{len(spectra)} usable spectra, {self.config.minimum} needed ({why}): take more")
        try:
            return fit_atmosphere(spectra, known)
        except ValueError as error:
            raise CombineError(f"{error} ({why})") from error


def unlikeness(fit: AtmosphereFit) -> list[float]:
    """Chi squared of a bin, of each spectrum."""
    return [
        float(np.mean((left / error)[np.isfinite(error)] ** 2)) for left, error in zip(fit.residuals, fit.errors, strict=True)
    ]


def atmosphere_content(fit: AtmosphereFit, spectra: Sequence[Spectrum], dispersion: Dispersion) -> dict[str, Any]:
    """What is stored: docs/interfaces.md."""
    pressure = float(np.mean([s.pressure_hpa for s in spectra]))
    airmasses = [s.airmass for s in spectra]
    errors = np.sqrt(np.diag(fit.covariance))
    return {
        "parameters": asdict(fit.atmosphere),
        "errors": dict(zip(NAMES, errors.tolist(), strict=True)),
        "names": list(NAMES),
        "covariance": fit.covariance.tolist(),
        "pressure_hpa": pressure,
        "wavelength_nm": NM.tolist(),
        "transmission": transmission(NM, 1.0, pressure, fit.atmosphere).tolist(),
        "transmission_err": transmission_error(NM, 1.0, pressure, fit.atmosphere, fit.covariance).tolist(),
        "bins_nm": CENTRES.tolist(),
        "throughput": fit.throughput.tolist(),
        "grey": {str(exposure): value for exposure, value in fit.grey.items()},
        "chi2": fit.chi2,
        "n_spectra": len(spectra),
        "airmass": [min(airmasses), max(airmasses)],
        "dispersion": dispersion.model_dump(),
    }


class VerifyAtmosphereConnections(VerifyConnections, dimensions=NIGHT, defaultTemplates={"product": "atmosphere"}):
    """Of a night's atmosphere."""

    raws = cT.Input(
        doc="raw spectra", name="raw", storageClass="CCDData", dimensions=("instrument", "exposure", "detector"), multiple=True,
        deferLoad=True,
    )  # fmt: skip
    products = cT.PrerequisiteInput(
        doc="the product of this campaign, and the certified one", name="{product}", storageClass="StructuredDataDict",
        dimensions=NIGHT, isCalibration=True, multiple=True, minimum=0, deferLoad=True, lookupFunction=candidate_and_certified,
    )  # fmt: skip
    verification = cT.Output(
        doc="the verdict, with every number", name="{product}_verification", storageClass="StructuredDataDict", dimensions=NIGHT
    )
    standards = _standards()


class VerifyAtmosphereConfig(VerifyConfig, pipelineConnections=VerifyAtmosphereConnections):
    """Which exposures."""

    hold_out = Field[int](doc="of so many exposures one was held out, where the product does not say itself", default=5)


class VerifyAtmosphereTask(_VerifyTask):
    """A night's atmosphere: it foretells the spectra that it was not made of, and its parameters are well measured."""

    ConfigClass = VerifyAtmosphereConfig
    _DefaultName = "verifyAtmosphere"

    def run(
        self,
        raws: Sequence[Any],
        candidate: Any,
        certified: Any,
        detector: Detector,
        subject: Mapping[str, Any],
        standards: Table,
    ) -> dict[str, Any]:
        """`candidate`: deferred handle; a night is compared with no other."""
        table, known = candidate.get(), standards_of(standards)
        handles = {h.dataId["exposure"]: h for h in raws}
        provenance = table.get("provenance", {})
        rejected = rejected_by(provenance)
        out = not_used([e for e in handles if e not in rejected], self.config.hold_out, used_by(provenance))
        spectra, notes = [], {str(exposure): reason for exposure, reason in rejected.items()}
        for exposure in sorted(out):
            try:
                raw = handles[exposure].get()
                frame = prepare(raw.data, detector)
                dispersion = Dispersion(**table["dispersion"])
                spectra.append(spectrum_of(exposure, frame, raw.meta, detector, dispersion, known))
            except FrameUnusable as error:
                notes[str(exposure)] = str(error)
        wrong = [] if spectra else ["no usable spectrum to verify it with"]
        said = {"held_out": True, "n_frames": len(spectra), "frames": [s.exposure for s in spectra], "frames_left_out": notes}
        return self._verdict(candidate, certified, subject, judge(table, spectra, known), wrong=wrong, **said)

"""Monochromatic flats, and the flats of any spectrum that are made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from lsst.pex.config import ChoiceField, Field

from payloads.camera import Camera, Detector
from payloads.combine import CombineError, Frame, Master, NoiseMaps, OutlierRules, Source, combine
from payloads.exposure import ExposureFacts
from payloads.image import MaskedImage
from payloads.isr import Plane, Prepared
from payloads.mono_flats import black_body, even_photons, synthesise, wavelength_weights
from payloads.overscan import amplifier_map
from payloads.tasks.planes import image_of, plane_of
from payloads.tasks.products import (
    FILTERED,
    PRODUCT,
    CombineConfig,
    MeasuredConnections,
    ProductConfig,
    ProductConnections,
    ProductTask,
    calibration,
    flat_frame,
    product,
)


class MonoFlatConnections(MeasuredConnections, dimensions=PRODUCT):
    """Flats of single wavelengths to a cube."""

    bias = calibration("bias")
    dark = calibration("dark", optional=True)
    mono_flat = product("mono_flat", "cube of flats, each of median 1")


class MonoFlatConfig(CombineConfig, pipelineConnections=MonoFlatConnections):
    """Of the cube."""

    wavelength = Field[str](doc="keyword of the wavelength, nm", default="WAVELEN")
    monitor = Field[str](doc="keyword of the dose", default="MONITOR")
    grid_nm = Field[float](doc="wavelengths are rounded to this", default=1.0)
    saturated_fraction = Field[float](doc="frames with more saturated pixels than this are rejected", default=0.01)
    minimum_electron = Field[float](doc="frames of a lower level are rejected, electron", default=500.0)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """One frame a wavelength is better than a gap."""
        super().setDefaults()
        self.minimum = 1


class CombineMonoFlatTask(ProductTask):
    """Cube of monochromatic flats without filter (DMS-REQ-0063; Stubbs & Tonry 2006), one wavelength after another."""

    ConfigClass = MonoFlatConfig
    _DefaultName = "combineMonoFlat"

    def run(self, raws: Sequence[Any], detector: Detector, bias: CCDData, dark: CCDData | None = None) -> pipe_base.Struct:
        """`raws`: handles; their headers (component `header`) say the wavelength."""
        groups = self._by_wavelength(raws)
        wavelengths = np.array(sorted(groups))
        cube = np.empty((len(wavelengths), *detector.shape), dtype=np.float32)
        responses, noises = [], []
        used: list[str] = []
        rejected: dict[str, str] = {}
        for plane, nm in zip(cube, wavelengths, strict=True):
            rates: dict[str, float] = {}
            master = self._combine(groups[nm], detector, plane_of(bias), plane_of(dark), rates)
            median = float(np.nanmedian(master.mean))
            plane[:] = np.nan_to_num(master.mean / np.float32(median))
            noises.append(master.noise_expected / median)
            responses.append(np.mean([rates.get(name, np.nan) for name in master.names]))
            used += master.names
            rejected |= master.rejected
        self.report_rejected(used, rejected)
        self.metadata["n_wavelengths"] = len(wavelengths)
        self.metadata["noise_expected"] = float(np.median(noises))
        response = (np.array(responses) / np.nanmax(responses)).tolist() if np.isfinite(responses).all() else None
        meta = {"WAVELENGTHS_NM": wavelengths.tolist(), "RESPONSE": response}
        image = MaskedImage(cube, unit=u.dimensionless_unscaled, meta=meta)
        return pipe_base.Struct(mono_flat=image, used=tuple(used), rejected=rejected)

    def _by_wavelength(self, raws: Sequence[Any]) -> dict[float, list[Any]]:
        groups = defaultdict(list)
        for handle in raws:
            nm = handle.get(component="header").get(self.config.wavelength)
            if not isinstance(nm, (int, float)) or nm <= 0:
                raise CombineError(
                    f"exposure {handle.dataId['exposure']}: {self.config.wavelength} is {nm!r}, no wavelength in nm: leave it out"
                )
            groups[round(nm / self.config.grid_nm) * self.config.grid_nm].append(handle)
        return groups

    def _combine(
        self, raws: Sequence[Any], detector: Detector, zero: Plane, current: Plane | None, rates: dict[str, float]
    ) -> Master:
        """One plane; `rates` receives the electrons per unit of dose of each frame whose header has the dose."""
        gain = amplifier_map(detector, "gain")

        def correct(name: str, frame: Prepared, facts: ExposureFacts, header: Mapping[str, Any]) -> Frame:
            made = flat_frame(frame, facts, gain, zero, current, self.config)
            if header.get(self.config.monitor):
                rates[name] = made.weight / float(header[self.config.monitor])
            return made

        sources = [
            Source(name=name, load=lambda name=name, read=read: correct(name, *read()))
            for name, read in self.prepared(raws, detector)
        ]
        return combine(
            sources,
            detector.shape,
            NoiseMaps(read=amplifier_map(detector, "read_noise"), photon=np.ones(detector.shape, dtype=np.float32)),
            rules=OutlierRules(level_matters=False, tolerance=0.005, noise_ratio=self.config.noise_ratio),
            clip=self.config.clip,
            minimum=self.config.minimum,
            budget_mb=self.config.budget_mb,
            batch=self.config.batch,
        )


class SyntheticFlatConnections(ProductConnections, dimensions=FILTERED):
    """The cube to a filter's flat; the raws are flats of that filter, and say by their time which cube is meant."""

    mono_flat = calibration("mono_flat", optional=True)
    flat = calibration("flat", optional=True, filtered=True)
    synthetic_flat = product("synthetic_flat", "flat of a spectrum through the filter, median 1", filtered=True)

    def adjustQuantum(self, inputs: Any, outputs: Any, label: str, data_id: Any) -> Any:  # noqa: N802 - the base class's name
        """Without a cube there is nothing to make: no failure of a camera that has no monochromatic light."""
        if not inputs["mono_flat"][1]:
            raise pipe_base.NoWorkFound(f"{label}: no mono_flat for {data_id}")
        return super().adjustQuantum(inputs, outputs, label, data_id)


class SyntheticFlatConfig(ProductConfig, pipelineConnections=SyntheticFlatConnections):
    """Of what light."""

    source = ChoiceField[str](
        doc="the source's spectrum",
        allowed={"even": "as many photons at every wavelength", "black body": "of `temperature_k`"},
        default="even",
    )
    temperature_k = Field[float](doc="of the black body, K", default=5800.0)


class SynthesizeFlatTask(ProductTask):
    """Synthetic broadband flat (DMS-REQ-0130; method in `payloads.mono_flats`) of a filter with a known transmission."""

    ConfigClass = SyntheticFlatConfig
    _DefaultName = "synthesizeFlat"

    def particulars(self, camera: Camera, data_id: Any) -> dict[str, Any]:
        """What the filter passes."""
        name = data_id["physical_filter"]
        transmission = next(f.transmission for f in camera.filters if f.name == name)
        if transmission is None:
            raise CombineError(f"the description of camera {camera.name} has no transmission of filter {name}: add it")
        return {"transmission": transmission}

    def run(
        self,
        raws: Sequence[Any],
        detector: Detector,
        mono_flat: CCDData,
        transmission: Sequence[tuple[float, float]],
        flat: CCDData | None = None,
    ) -> pipe_base.Struct:
        """`raws` are not read; `flat` is compared with."""
        wavelengths = np.array(mono_flat.meta["WAVELENGTHS_NM"], dtype=np.float64)
        response = mono_flat.meta.get("RESPONSE")
        relative = np.ones(len(wavelengths)) if response is None else np.array(response)
        spectrum = even_photons if self.config.source == "even" else black_body(self.config.temperature_k)
        weights = wavelength_weights(wavelengths, relative, spectrum, transmission)
        made = synthesise(np.asarray(mono_flat.data), weights)
        self.metadata["n_wavelengths"] = int((weights > 0).sum())
        self.metadata["response_known"] = response is not None
        other = plane_of(flat)
        if other is not None:
            good = (other.mask == 0) & (made > 0)
            self.metadata["rms_from_flat"] = float(np.std((other.data / made)[good]))
        used = tuple(str(handle.dataId["exposure"]) for handle in raws)
        plane = Plane(data=made, mask=np.zeros(made.shape, dtype=np.uint32))
        image = image_of(plane, u.dimensionless_unscaled, {"SOURCE": self.config.source})
        return pipe_base.Struct(synthetic_flat=image, used=used, rejected={})

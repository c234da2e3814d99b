"""Illumination and fringes, from the sky of science frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from lsst.pex.config import Field
from numpy.typing import NDArray

from payloads.camera import Detector
from payloads.combine import Frame, Master, NoiseMaps, OutlierRules, combine
from payloads.exposure import ExposureFacts
from payloads.fringes import fringe_pattern, relative_sky
from payloads.isr import Plane, Prepared, master_plane, remove_signature
from payloads.light import even_sky, smooth_surface
from payloads.mask import Mask
from payloads.overscan import FrameUnusable, amplifier_map
from payloads.tasks.planes import image_of, plane_of
from payloads.tasks.products import FILTERED, CombineConfig, MeasuredConnections, ProductTask, calibration, product

Relative = Callable[[NDArray[np.float32], NDArray[np.uint32]], tuple[NDArray[np.float32], float]]


class SkyConnections(MeasuredConnections, dimensions=FILTERED):
    """Science frames of one filter, and what takes their signature off."""

    bias = calibration("bias")
    dark = calibration("dark", optional=True)
    flat = calibration("flat", filtered=True)
    bad_pixels = calibration("bad_pixels", optional=True)


class SkyConfig(CombineConfig, pipelineConnections=SkyConnections):
    """Of the sky."""

    minimum_electron = Field[float](doc="frames of a fainter sky are rejected, electron", default=50.0)
    order = Field[int](doc="of the polynomial surface through the sky", default=4)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """Sources must be in few of the frames at any place."""
        super().setDefaults()
        self.minimum = 5


class _SkyTask(ProductTask):
    """Science frames, flat-fielded, as relative sky; their mean."""

    def mean_sky(
        self, raws: Sequence[Any], detector: Detector, masters: Mapping[str, CCDData | None], relative: Relative
    ) -> Master:
        """The clipped mean of what `relative(image, mask)` makes of each frame, weighted by its sky."""
        planes = {name: plane_of(image) for name, image in masters.items()}

        def correct(frame: Prepared, facts: ExposureFacts, _: Mapping[str, Any]) -> Frame:
            plane, _ = remove_signature(
                frame,
                detector,
                bias=planes["bias"],
                dark=planes.get("dark"),
                flat=planes["flat"],
                dark_time_s=facts.dark_time_s,
                illumination=planes.get("illumination"),
                bad_pixels=planes.get("bad_pixels"),
            )
            try:
                image, level = relative(plane.data, plane.mask)
            except ValueError as error:
                raise FrameUnusable(str(error)) from error
            if not level > self.config.minimum_electron:
                raise FrameUnusable(f"its sky, {level:.0f} electron, is below {self.config.minimum_electron:.0f}")
            return Frame(image=image, weight=level, read=1 / level, photon=1 / level)

        master = combine(
            self.sources(raws, detector, correct),
            detector.shape,
            NoiseMaps(read=amplifier_map(detector, "read_noise"), photon=np.ones(detector.shape, dtype=np.float32)),
            # Skies slope differently each time, and sources leave holes: only what is far off is no sky.
            rules=OutlierRules(level_matters=False, tolerance=0.05, noise_ratio=self.config.noise_ratio, finite=0.2),
            clip=self.config.clip,
            minimum=self.config.minimum,
            budget_mb=self.config.budget_mb,
            batch=self.config.batch,
        )
        self.report_rejected(master.names, master.rejected)
        return master


class IlluminationConnections(SkyConnections, dimensions=FILTERED):
    """Science frames to illumination."""

    illumination = product("illumination", "flat-fielded light of an even sky, median 1", filtered=True)


class IlluminationConfig(SkyConfig, pipelineConnections=IlluminationConnections):
    """Of the illumination."""

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """A screen's unevenness is a slope and a bowl; higher orders would take fringes for illumination."""
        super().setDefaults()
        self.order = 2


class CombineIlluminationTask(_SkyTask):
    """Illumination correction (DMS-REQ-0062): how the flat-fielded sky of many frames, sources left out, lies on the detector at
    large, as the dome's screen lights the telescope otherwise than the sky does (Bernstein et al. 2017, PASP 129, 114502)."""

    ConfigClass = IlluminationConfig
    _DefaultName = "combineIllumination"

    def run(self, raws: Sequence[Any], detector: Detector, **masters: CCDData | None) -> pipe_base.Struct:
        """`raws`: handles of science frames; `masters` by the names of the connections."""
        master = self.mean_sky(raws, detector, masters, even_sky)
        surface = smooth_surface(master.mean, np.isfinite(master.mean), order=self.config.order)
        surface /= np.float32(np.median(surface))
        residual = master.mean / surface
        self.metadata["range"] = float(np.ptp(surface))
        self.metadata["residual_rms"] = float(np.nanstd(residual))
        plane = Plane(data=surface, mask=np.zeros(surface.shape, dtype=np.uint32))
        image = image_of(plane, u.dimensionless_unscaled, {"NCOMBINE": len(master.names)})
        return pipe_base.Struct(illumination=image, used=master.names, rejected=master.rejected)


class FringeConnections(SkyConnections, dimensions=FILTERED):
    """Science frames to fringes."""

    illumination = calibration("illumination", optional=True, filtered=True)
    fringe = product("fringe", "pattern, fraction of the sky, mean 0", filtered=True)


class FringeConfig(SkyConfig, pipelineConnections=FringeConnections):
    """Of the fringes."""

    smooth_px = Field[float](doc="width of the Gaussian that smooths the pattern, px", default=2.0)
    least_rms = Field[float](doc="no frame is made of a fainter pattern, rms, fraction of the sky: no fringes", default=0.001)


class CombineFringeTask(_SkyTask):
    """Fringe frame of a red filter (DMS-REQ-0283; method in `payloads.fringes`) from its science frames."""

    ConfigClass = FringeConfig
    _DefaultName = "combineFringe"

    def run(self, raws: Sequence[Any], detector: Detector, **masters: CCDData | None) -> pipe_base.Struct:
        """`raws`: handles of science frames; `masters` by the names of the connections."""
        order = self.config.order
        master = self.mean_sky(raws, detector, masters, lambda image, mask: relative_sky(image, mask, order=order))
        pattern = fringe_pattern(master.mean, smooth_px=self.config.smooth_px)
        self.metadata["amplitude_rms"] = rms = float(np.std(pattern))
        if rms < self.config.least_rms:  # to subtract it would add noise
            raise pipe_base.NoWorkFound(f"the sky has no fringes in this filter: the pattern's rms is {rms:.2%} of the sky")
        # A pixel that no frame shows has a bridged value: the pattern is smooth, so it can be used with care.
        mask = np.where(np.isfinite(master.mean), np.uint32(0), np.uint32(Mask.SUSPECT))
        variance = master_plane(master, mask).variance
        plane = Plane(data=pattern, mask=mask, variance=variance)
        image = image_of(plane, u.dimensionless_unscaled, {"NCOMBINE": len(master.names)})
        return pipe_base.Struct(fringe=image, used=master.names, rejected=master.rejected)

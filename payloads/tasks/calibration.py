"""Master bias, dark and flat from raw frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from lsst.pex.config import Field

from payloads.bad_pixels import noisy_from_scatter
from payloads.camera import Detector
from payloads.combine import Frame, Master, NoiseMaps, OutlierRules, combine
from payloads.exposure import ExposureFacts
from payloads.frame_checks import check_dark_time, check_light, check_saturation
from payloads.holdout import held_out
from payloads.isr import Prepared, bad_from_dark, mask_from_flat, master_plane
from payloads.mask import Mask
from payloads.overscan import FrameUnusable, amplifier_map
from payloads.tasks.planes import image_of, plane_of
from payloads.tasks.products import (
    FILTERED,
    PRODUCT,
    CombineConfig,
    MeasuredConnections,
    ProductConnections,
    ProductTask,
    calibration,
    flat_frame,
    product,
)

Correct = Callable[[Prepared, ExposureFacts, Mapping[str, Any]], Frame]


class _CombineTask(ProductTask):
    """Common to the three."""

    def combine(self, raws: Sequence[Any], detector: Detector, correct: Correct, noise: NoiseMaps, **rules: Any) -> Master:
        """What the configuration makes of the frames that are not held out."""
        out = held_out((handle.dataId["exposure"] for handle in raws), self.config.hold_out)
        self.metadata["held_out"] = sorted(out) or [0]
        return combine(
            self.sources([handle for handle in raws if handle.dataId["exposure"] not in out], detector, correct),
            detector.shape,
            noise,
            rules=OutlierRules(noise_ratio=self.config.noise_ratio, **rules),
            clip=self.config.clip,
            minimum=self.config.minimum,
            budget_mb=self.config.budget_mb,
            batch=self.config.batch,
        )


class CombineBiasConnections(ProductConnections, dimensions=PRODUCT):
    """Raws to bias."""

    bias = product("bias", "master bias, ADU")


class CombineBiasConfig(CombineConfig, pipelineConnections=CombineBiasConnections):
    """Of the master bias."""

    light_adu = Field[float](doc="a frame is rejected that is further than this from its overscan, ADU", default=50.0)
    noisy_sigma = Field[float](doc="BAD, NOISY: a pixel's scatter exceeds its noise by this many sigma", default=8.0)


class CombineBiasTask(_CombineTask):
    """Master bias: clipped mean of overscan-subtracted zero-second frames (DMS-REQ-0060; Howell 2006, Handbook of CCD
    Astronomy, 4.3)."""

    ConfigClass = CombineBiasConfig
    _DefaultName = "combineBias"

    def run(self, raws: Sequence[Any], detector: Detector) -> pipe_base.Struct:
        """`raws`: handles of raw frames with expanded data IDs."""
        read_noise = amplifier_map(detector, "read_noise") / amplifier_map(detector, "gain")

        def correct(frame: Prepared, _: ExposureFacts, __: Mapping[str, Any]) -> Frame:
            check_light(frame, detector, self.config.light_adu)
            return Frame(image=frame.plane.data)

        master = self.combine(raws, detector, correct, NoiseMaps(read=read_noise, at_least_measured=True))
        noisy = noisy_from_scatter(master.scatter, len(master.names), sigma=self.config.noisy_sigma)
        plane = master_plane(master, np.where(noisy, np.uint32(Mask.BAD | Mask.NOISY), np.uint32(0)))
        cards = self.report_master(master, plane)
        self.metadata["noise_ratio_read_noise"] = master.noise / float(np.median(read_noise)) * len(master.names) ** 0.5
        return pipe_base.Struct(bias=image_of(plane, u.adu, cards), used=master.names, rejected=master.rejected)


class CombineDarkConnections(MeasuredConnections, dimensions=PRODUCT):
    """Raws and the bias to dark."""

    bias = calibration("bias")
    dark = product("dark", "master dark, ADU/s")


class CombineDarkConfig(CombineConfig, pipelineConnections=CombineDarkConnections):
    """Of the master dark."""

    hot_sigma = Field[float](doc="a hot pixel stands out by this many times the width of the others", default=10.0)
    hot_adu_s = Field[float](doc="and by at least this, ADU/s", default=0.0)
    saturated_fraction = Field[float](doc="frames with more saturated pixels than this are rejected", default=0.01)
    time_tolerance = Field[float](
        doc="frames are rejected whose dark time differs by more than this part from the usual; 0: any time will do", default=0.2
    )


class CombineDarkTask(_CombineTask):
    """Master dark: clipped mean of bias-subtracted frames, each scaled to one second (DMS-REQ-0282, LDM-151 4.3); cosmic rays go
    with the clipping."""

    ConfigClass = CombineDarkConfig
    _DefaultName = "combineDark"

    def run(self, raws: Sequence[Any], detector: Detector, bias: CCDData) -> pipe_base.Struct:
        """`raws`: handles; `bias`: the master."""
        zero = plane_of(bias)
        gain = amplifier_map(detector, "gain")
        times = {str(h.dataId["exposure"]): ExposureFacts.from_data_id(h.dataId).dark_time_s for h in raws}
        usual_s = float(np.median(list(times.values()))) if times else 0.0

        def correct(frame: Prepared, facts: ExposureFacts, _: Mapping[str, Any]) -> Frame:
            seconds = facts.dark_time_s
            if seconds <= 0:
                raise FrameUnusable("its dark time is not positive: it is no dark")
            check_dark_time(seconds, usual_s, self.config.time_tolerance)
            check_saturation(frame.plane.mask, self.config.saturated_fraction)
            image = (frame.plane.data - zero.data) / np.float32(seconds)
            return Frame(image=image, weight=seconds, read=1 / seconds, photon=1 / seconds)

        noise = NoiseMaps(read=amplifier_map(detector, "read_noise") / gain, photon=1 / gain)
        master = self.combine(raws, detector, correct, noise)
        hot = bad_from_dark(master.mean, sigma=self.config.hot_sigma, floor=self.config.hot_adu_s)
        plane = master_plane(master, np.where(hot, np.uint32(Mask.BAD | Mask.HOT), np.uint32(0)))
        cards = self.report_master(master, plane)
        if zero.variance is not None:
            # The one bias was taken off every frame: its noise is common to all and no combination lessens it.
            mean_s = np.mean([times[name] for name in master.names])
            plane = replace(plane, variance=plane.variance + zero.variance / np.float32(mean_s**2))
            cards["NOISEEXP"] = float(np.sqrt(np.median(plane.variance[plane.mask == 0])))
        self.metadata["median_adu_s"] = float(np.median(plane.data[~hot]))
        return pipe_base.Struct(dark=image_of(plane, u.adu / u.s, cards), used=master.names, rejected=master.rejected)


class CombineFlatConnections(MeasuredConnections, dimensions=FILTERED):
    """Raws, bias and dark to flat."""

    bias = calibration("bias")
    dark = calibration("dark", optional=True)
    flat = product("flat", "master flat, median 1", filtered=True)

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.do_dark:
            del self.dark


class CombineFlatConfig(CombineConfig, pipelineConnections=CombineFlatConnections):
    """Of the master flat."""

    do_dark = Field[bool](doc="subtract the dark where one is certified", default=True)
    minimum_electron = Field[float](doc="frames of a lower level are rejected, electron", default=500.0)
    saturated_fraction = Field[float](doc="frames with more saturated pixels than this are rejected", default=0.05)
    shape_tolerance = Field[float](
        doc="frames whose shape differs by more than this from the rest are rejected, rms", default=0.005
    )
    grain_tolerance = Field[float](
        doc="and those whose dust and structure, beside a smooth slope, differ by more than this, rms", default=0.0007
    )
    dead = Field[float](doc="BAD: response below this part of the surroundings'", default=0.5)
    suspect = Field[float](doc="SUSPECT: surroundings' response below this part of the median", default=0.3)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """One twilight flat is better than none (the 42-inch has one in V): its metadata say how many there were."""
        super().setDefaults()
        self.minimum = 1


class CombineFlatTask(_CombineTask):
    """Master flat: frames in electrons, each divided by its level, combined by photon weight, median 1 (DMS-REQ-0130; Howell
    2006, 4.5).

    In electrons, because a flat in ADU would hold the ratios of the amplifiers' gains, which the frames' own gains would then
    undo.
    """

    ConfigClass = CombineFlatConfig
    _DefaultName = "combineFlat"

    def run(self, raws: Sequence[Any], detector: Detector, bias: CCDData, dark: CCDData | None = None) -> pipe_base.Struct:
        """`raws`: handles; `bias` and `dark`: the masters."""
        zero, current = plane_of(bias), plane_of(dark)
        gain = amplifier_map(detector, "gain")
        levels: list[float] = []

        def correct(frame: Prepared, facts: ExposureFacts, _: Mapping[str, Any]) -> Frame:
            made = flat_frame(frame, facts, gain, zero, current, self.config)
            levels.append(made.weight)
            return made

        noise = NoiseMaps(read=amplifier_map(detector, "read_noise"), photon=np.ones(detector.shape, dtype=np.float32))
        tolerances = {"tolerance": self.config.shape_tolerance, "grain": self.config.grain_tolerance}
        master = self.combine(raws, detector, correct, noise, level_matters=False, **tolerances)
        median = np.float32(np.nanmedian(master.mean))
        scaled = replace(master, mean=master.mean / median, variance=master.variance / median**2)
        plane = master_plane(scaled, mask_from_flat(scaled.mean, dead=self.config.dead, suspect=self.config.suspect))
        cards = self.report_master(scaled, plane)
        self.metadata["levels_electron"] = levels or [float("nan")]
        self.metadata["dark_subtracted"] = current is not None
        flat = image_of(plane, u.dimensionless_unscaled, cards)
        return pipe_base.Struct(flat=flat, used=master.names, rejected=master.rejected)

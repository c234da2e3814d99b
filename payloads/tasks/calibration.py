"""Master bias, dark and flat from raw frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import astropy.units as u
import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData, VarianceUncertainty
from lsst.pex.config import ChoiceField, Field
from lsst.pipe.base import connectionTypes as cT
from numpy.typing import NDArray

from payloads.camera import Camera, Detector
from payloads.combine import FrameStack, Master, OutlierRules, combine, find_outliers
from payloads.exposure import ExposureFacts
from payloads.image import MaskedImage
from payloads.isr import Plane, bad_from_dark, flat_noise, mask_from_flat, master_plane, prepare
from payloads.mask import Mask, header_cards
from payloads.overscan import FrameUnusable, amplifier_map

_FRAME = ("instrument", "exposure", "detector")
_PRODUCT = ("instrument", "detector")


def plane_of(image: CCDData | None) -> Plane | None:
    """A stored calibration as arrays; None stays None."""
    if image is None:
        return None
    mask = np.zeros(image.data.shape, dtype=np.uint32) if image.mask is None else np.asarray(image.mask, dtype=np.uint32)
    variance = None if image.uncertainty is None else np.asarray(image.uncertainty.array, dtype=np.float32)
    return Plane(data=np.asarray(image.data, dtype=np.float32), mask=mask, variance=variance)


def image_of(plane: Plane, unit: u.Unit | str, meta: dict[str, Any]) -> CCDData:
    """Arrays as an image to store; the mask's bits are named in the header."""
    variance = None if plane.variance is None else VarianceUncertainty(plane.variance)
    return MaskedImage(plane.data, unit=unit, mask=plane.mask, uncertainty=variance, meta={**header_cards(), **meta})


class CombineConnections(pipe_base.PipelineTaskConnections, dimensions=_PRODUCT):
    """What every combination reads."""

    camera = cT.PrerequisiteInput(
        doc="what is known of the camera", name="camera", storageClass="StructuredDataDict", dimensions=("instrument",)
    )
    raws = cT.Input(doc="raw frames", name="raw", storageClass="CCDData", dimensions=_FRAME, multiple=True, deferLoad=True)

    def getTemporalBoundsConnections(self) -> Iterable[str]:  # noqa: N802 - the base class's name
        """Calibrations used must be valid when the raws were taken: the product itself has no time."""
        return ("raws",)


class CombineConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CombineConnections):
    """How frames are prepared and combined."""

    overscan = ChoiceField[str](
        doc="how the overscan is subtracted",
        allowed={"row": "a smooth function of the row", "amplifier": "one number per amplifier", "none": "not"},
        default="row",
    )
    overscan_smooth_rows = Field[int](doc="rows over which the overscan is averaged, px", default=31)
    clip = Field[float](doc="values further than this many sigma from the pixel's median are left out", default=4.0)
    minimum = Field[int](doc="fewest usable frames for a master", default=3)
    budget_mb = Field[float](doc="memory for the stack, MB; larger stacks go through scratch space", default=512.0)
    noise_ratio = Field[float](doc="a frame is rejected whose noise exceeds the median frame's by this factor", default=1.5)


class _CombineTask(pipe_base.PipelineTask):
    """Common to the three: one frame at a time, outliers rejected with a reason, quality numbers in the metadata."""

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Read the prerequisites; raws stay handles, read one after another."""
        inputs = butlerQC.get(inputRefs)
        camera = Camera.from_dict(inputs.pop("camera"))
        detector = camera.detector(butlerQC.quantum.dataId["detector"])
        butlerQC.put(self.run(detector=detector, **inputs), outputRefs)

    def _fill(
        self, stack: FrameStack, raws: Sequence[Any], detector: Detector, correct: Callable[[Plane, ExposureFacts], Any]
    ) -> dict[str, str]:
        """Add what `correct` makes of each frame, in order of exposure; reasons of those it refused, by exposure."""
        refused = {}
        for handle in sorted(raws, key=lambda h: h.dataId["exposure"]):
            name = str(handle.dataId["exposure"])
            try:
                prepared = prepare(
                    handle.get().data, detector, mode=self.config.overscan, smooth_rows=self.config.overscan_smooth_rows
                )
                stack.add(name, correct(prepared.plane, ExposureFacts.from_data_id(handle.dataId)))
            except FrameUnusable as error:
                self.log.warning("exposure %s is left out: %s", name, error)
                refused[name] = str(error)
        return refused

    def _outliers(self, stack: FrameStack, refused: dict[str, str], **rules: Any) -> dict[str, str]:
        found = find_outliers(stack.facts, OutlierRules(noise_ratio=self.config.noise_ratio, **rules))
        for name, reason in found.items():
            self.log.warning("exposure %s is left out: %s", name, reason)
        return refused | found

    def _report(self, master: Master, plane: Plane) -> dict[str, Any]:
        """Quality numbers into the task's metadata; returns the product's header cards."""
        self.metadata["n_inputs"] = len(master.names) + len(master.rejected)
        self.metadata["n_used"] = len(master.names)
        self.metadata["n_rejected"] = len(master.rejected)
        self.metadata["rejected"] = [f"{name}: {reason}" for name, reason in master.rejected.items()] or ["none"]
        self.metadata["noise"] = master.noise
        self.metadata["noise_expected"] = master.noise_expected
        self.metadata["noise_ratio"] = master.noise / master.noise_expected if master.noise_expected else float("nan")
        self.metadata["clipped_fraction"] = float(
            master.clipped.sum() / max(1, int(master.clipped.sum()) + int(master.used.sum()))
        )
        for bit in (Mask.BAD, Mask.SUSPECT):
            self.metadata[f"n_{bit.name.lower()}"] = int(((plane.mask & np.uint32(bit)) != 0).sum())
        return {"NCOMBINE": len(master.names), "NREJECT": len(master.rejected), "NOISEEXP": master.noise_expected}


class CombineBiasConnections(CombineConnections, dimensions=_PRODUCT):
    """Raws to bias."""

    bias = cT.Output(doc="master bias, ADU", name="bias", storageClass="CCDData", dimensions=_PRODUCT, isCalibration=True)


class CombineBiasConfig(CombineConfig, pipelineConnections=CombineBiasConnections):
    """Of the master bias."""


class CombineBiasTask(_CombineTask):
    """Master bias: clipped mean of overscan-subtracted zero-second frames."""

    ConfigClass = CombineBiasConfig
    _DefaultName = "combineBias"

    def run(self, raws: Sequence[Any], detector: Detector) -> pipe_base.Struct:
        """`raws`: handles of raw frames with expanded data IDs."""
        read_noise = amplifier_map(detector, "read_noise") / amplifier_map(detector, "gain")
        with FrameStack(detector.shape, budget_mb=self.config.budget_mb) as stack:
            rejected = self._outliers(stack, self._fill(stack, raws, detector, lambda plane, _: plane.data))
            noise = combined_noise(stack, rejected, read_noise)
            master = combine(
                stack, lambda _, rows: noise[rows], rejected=rejected, clip=self.config.clip, minimum=self.config.minimum
            )
        plane = master_plane(master, np.zeros(detector.shape, dtype=np.uint32))
        cards = self._report(master, plane)
        self.metadata["noise_ratio_read_noise"] = master.noise / float(np.median(read_noise)) * len(master.names) ** 0.5
        return pipe_base.Struct(bias=image_of(plane, u.adu, cards))


class CombineDarkConnections(CombineConnections, dimensions=_PRODUCT):
    """Raws and the bias to dark."""

    bias = cT.PrerequisiteInput(doc="master bias", name="bias", storageClass="CCDData", dimensions=_PRODUCT, isCalibration=True)
    dark = cT.Output(doc="master dark, ADU/s", name="dark", storageClass="CCDData", dimensions=_PRODUCT, isCalibration=True)


class CombineDarkConfig(CombineConfig, pipelineConnections=CombineDarkConnections):
    """Of the master dark."""

    hot_sigma = Field[float](doc="a hot pixel stands out by this many times the width of the others", default=10.0)
    hot_adu_s = Field[float](doc="and by at least this, ADU/s", default=0.0)


class CombineDarkTask(_CombineTask):
    """Master dark: clipped mean of bias-subtracted frames, each scaled to one second; cosmic rays go with the clipping."""

    ConfigClass = CombineDarkConfig
    _DefaultName = "combineDark"

    def run(self, raws: Sequence[Any], detector: Detector, bias: CCDData) -> pipe_base.Struct:
        """`raws`: handles; `bias`: the master."""
        zero = plane_of(bias)
        times: dict[str, float] = {}
        gain = amplifier_map(detector, "gain")
        read_noise = amplifier_map(detector, "read_noise") / gain

        def correct(plane: Plane, facts: ExposureFacts) -> NDArray[np.float32]:
            if facts.dark_time_s <= 0:
                raise FrameUnusable("its dark time is not positive: it is no dark")
            times[str(len(times))] = facts.dark_time_s
            return (plane.data - zero.data) / np.float32(facts.dark_time_s)

        with FrameStack(detector.shape, budget_mb=self.config.budget_mb) as stack:
            rejected = self._outliers(stack, self._fill(stack, raws, detector, correct))
            seconds = dict(zip((f.name for f in stack.facts), times.values(), strict=True))
            used = np.array([seconds[f.name] for f in stack.facts if f.name not in rejected], dtype=np.float32)[:, None, None]

            def noise(centre: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
                charge = np.maximum(np.nan_to_num(centre), 0.0) * used / gain[rows]
                return np.sqrt(read_noise[rows] ** 2 + charge) / used

            master = combine(stack, noise, rejected=rejected, weights=seconds, clip=self.config.clip, minimum=self.config.minimum)
        hot = bad_from_dark(master.mean, sigma=self.config.hot_sigma, floor=self.config.hot_adu_s)
        plane = master_plane(master, np.where(hot, np.uint32(Mask.BAD), np.uint32(0)))
        cards = self._report(master, plane)
        if zero.variance is not None:
            # The one bias was taken off every frame: its noise is common to all and no combination lessens it.
            plane = replace(plane, variance=plane.variance + zero.variance / np.float32(np.mean(used) ** 2))
            cards["NOISEEXP"] = float(np.sqrt(np.median(plane.variance[plane.mask == 0])))
        self.metadata["median_adu_s"] = float(np.median(plane.data[~hot]))
        return pipe_base.Struct(dark=image_of(plane, u.adu / u.s, cards))


class CombineFlatConnections(CombineConnections, dimensions=("instrument", "detector", "physical_filter")):
    """Raws, bias and dark to flat."""

    bias = cT.PrerequisiteInput(doc="master bias", name="bias", storageClass="CCDData", dimensions=_PRODUCT, isCalibration=True)
    dark = cT.PrerequisiteInput(
        doc="master dark, if the camera takes any", name="dark", storageClass="CCDData", dimensions=_PRODUCT,
        isCalibration=True, minimum=0,
    )  # fmt: skip
    flat = cT.Output(
        doc="master flat, median 1", name="flat", storageClass="CCDData",
        dimensions=("instrument", "detector", "physical_filter"), isCalibration=True,
    )  # fmt: skip

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
    dead = Field[float](doc="BAD: response below this part of the surroundings'", default=0.5)
    suspect = Field[float](doc="SUSPECT: surroundings' response below this part of the median", default=0.3)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """One twilight flat is better than none (the 42-inch has one in V): its metadata say how many there were."""
        super().setDefaults()
        self.minimum = 1


class CombineFlatTask(_CombineTask):
    """Master flat: frames in electrons, each divided by its level, combined by photon weight, median 1.

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

        def correct(plane: Plane, facts: ExposureFacts) -> NDArray[np.float32]:
            saturated = float(((plane.mask & np.uint32(Mask.SAT)) != 0).mean())
            if saturated > self.config.saturated_fraction:
                raise FrameUnusable(f"{saturated:.1%} of its pixels are saturated")
            signal = plane.data - zero.data
            if current is not None:
                signal -= np.float32(facts.dark_time_s) * current.data
            signal *= gain
            level = float(np.nanmedian(signal))
            if not level > self.config.minimum_electron:
                raise FrameUnusable(f"its level, {level:.0f} electron, is below {self.config.minimum_electron:.0f}")
            levels.append(level)
            return np.where(plane.mask == 0, signal / np.float32(level), np.float32(np.nan))

        with FrameStack(detector.shape, budget_mb=self.config.budget_mb) as stack:
            rules = {"level_matters": False, "tolerance": self.config.shape_tolerance}
            rejected = self._outliers(stack, self._fill(stack, raws, detector, correct), **rules)
            level = dict(zip((f.name for f in stack.facts), levels, strict=True))
            noise = flat_noise(
                amplifier_map(detector, "read_noise"), [level[f.name] for f in stack.facts if f.name not in rejected]
            )
            master = combine(stack, noise, rejected=rejected, weights=level, clip=self.config.clip, minimum=self.config.minimum)
        median = np.float32(np.nanmedian(master.mean))
        scaled = replace(master, mean=master.mean / median, variance=master.variance / median**2)
        plane = master_plane(scaled, mask_from_flat(scaled.mean, dead=self.config.dead, suspect=self.config.suspect))
        cards = self._report(scaled, plane)
        self.metadata["levels_electron"] = levels or [float("nan")]
        self.metadata["dark_subtracted"] = current is not None
        return pipe_base.Struct(flat=image_of(plane, u.dimensionless_unscaled, cards))


def combined_noise(stack: FrameStack, rejected: dict[str, str], read_noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """The camera's read noise (ny, nx) in ADU, raised to what the frames show where they are noisier than their description."""
    measured = float(np.median([f.noise for f in stack.facts if f.name not in rejected] or [0.0]))
    return read_noise * np.float32(max(1.0, measured / float(np.median(read_noise))))

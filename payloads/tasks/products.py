"""What all tasks that make a calibration product share: their connections, how they read frames, and how they sign the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from lsst.pex.config import ChoiceField, Field
from lsst.pipe.base import connectionTypes as cT
from numpy.typing import NDArray

from payloads.camera import Camera, Detector
from payloads.combine import Frame, Master, Source
from payloads.exposure import ExposureFacts
from payloads.frame_checks import check_amplifiers, check_saturation
from payloads.isr import Plane, Prepared, prepare
from payloads.mask import Mask, any_set
from payloads.overscan import FrameUnusable, amplifier_map
from payloads.provenance import Provenance, configuration_of, flattened
from payloads.response import MEASURED, measured

FRAME = ("instrument", "exposure", "detector")
PRODUCT = ("instrument", "detector")
FILTERED = ("instrument", "detector", "physical_filter")


def calibration(name: str, *, optional: bool = False, filtered: bool = False, table: bool = False) -> cT.PrerequisiteInput:
    """The certified product of that name, valid when the frames were taken."""
    return cT.PrerequisiteInput(
        doc=f"{name}, where one is certified" if optional else name,
        name=name,
        storageClass="StructuredDataDict" if table else "CCDData",
        dimensions=FILTERED if filtered else PRODUCT,
        isCalibration=True,
        minimum=0 if optional else 1,
    )


def product(name: str, doc: str, *, filtered: bool = False, table: bool = False) -> cT.Output:
    """A product to be certified."""
    return cT.Output(
        doc=doc,
        name=name,
        storageClass="StructuredDataDict" if table else "CCDData",
        dimensions=FILTERED if filtered else PRODUCT,
        isCalibration=True,
    )


def as_measured(camera: Camera, number: int, inputs: dict[str, Any]) -> Detector:
    """A detector with what is certified of its amplifiers, which is taken out of a task's `inputs`."""
    return measured(camera.detector(number), **{name: inputs.pop(name, None) for name in MEASURED})


class ProductConnections(pipe_base.PipelineTaskConnections, dimensions=PRODUCT):
    """What every product is made from."""

    camera = cT.PrerequisiteInput(
        doc="what is known of the camera", name="camera", storageClass="StructuredDataDict", dimensions=("instrument",)
    )
    raws = cT.Input(doc="raw frames", name="raw", storageClass="CCDData", dimensions=FRAME, multiple=True, deferLoad=True)

    def getTemporalBoundsConnections(self) -> Iterable[str]:  # noqa: N802 - the base class's name
        """Calibrations used must be valid when the raws were taken: the product itself has no time."""
        return ("raws",)


class MeasuredConnections(ProductConnections, dimensions=PRODUCT):
    """And what was measured of the amplifiers."""

    crosstalk = calibration("crosstalk", optional=True, table=True)
    ptc = calibration("ptc", optional=True, table=True)
    linearity = calibration("linearity", optional=True, table=True)


class ProductConfig(pipe_base.PipelineTaskConfig, pipelineConnections=ProductConnections):
    """How frames are prepared."""

    overscan = ChoiceField[str](
        doc="how the overscan is subtracted",
        allowed={"row": "a smooth function of the row", "amplifier": "one number per amplifier", "none": "not"},
        default="row",
    )
    overscan_smooth_rows = Field[int](doc="rows over which the overscan is averaged, px", default=31)
    minimum = Field[int](doc="fewest usable frames for a product", default=3)
    budget_mb = Field[float](doc="memory for the stack, MB; larger stacks go through scratch space", default=512.0)


class CombineConfig(ProductConfig, pipelineConnections=ProductConnections):
    """How frames are combined."""

    clip = Field[float](doc="values further than this many sigma from the pixel's median are left out", default=4.0)
    batch = Field[int](doc="frames that are clipped together, at most", default=32)
    hold_out = Field[int](doc="of each so many frames one is kept out, to verify the product with; 0: none", default=0)
    noise_ratio = Field[float](doc="a frame is rejected whose noise exceeds the median frame's by this factor", default=1.5)


class ProductTask(pipe_base.PipelineTask):
    """One frame at a time, those that cannot be used left out with a reason, quality numbers in the metadata, a signed product.

    `run` of each gets handles of raw frames (with expanded data IDs), the `detector` as measured, and stored prerequisites. What
    it returns has, besides the products, `used` (exposures) and `rejected` (exposure → reason).
    """

    ConfigClass = ProductConfig
    _DefaultName = "product"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Read the prerequisites; raws stay handles, read one after another. The products are signed with what they came of."""
        inputs = butlerQC.get(inputRefs)
        camera = Camera.from_dict(inputs.pop("camera"))
        number = butlerQC.quantum.dataId["detector"]
        detector = as_measured(camera, number, inputs)
        inputs |= self.particulars(camera, butlerQC.quantum.dataId)
        result = self.run(detector=detector, **inputs)
        spans = [ref.dataId.records["exposure"].timespan for ref in inputRefs.raws if str(ref.dataId["exposure"]) in result.used]
        for name, ref in outputRefs:
            provenance = Provenance(
                product=ref.datasetType.name,
                instrument=camera.name,
                detector=number,
                physical_filter=ref.dataId.get("physical_filter"),
                inputs=[int(exposure) for exposure in result.used],
                rejected=result.rejected,
                spans=[(span.begin, span.end) for span in spans],
                calibrations=_calibrations(inputRefs),
                parameters=flattened(self.getName(), self.config.toDict()),
                configuration=configuration_of(camera),
            )
            sign(getattr(result, name), provenance)
        butlerQC.put(result, outputRefs)

    def particulars(self, camera: Camera, data_id: Any) -> dict[str, Any]:
        """Further arguments of `run` that follow from the camera's description."""
        return {}

    def prepared(self, raws: Sequence[Any], detector: Detector) -> Iterator[tuple[str, Callable[[], tuple[Prepared, Any, Any]]]]:
        """In order of exposure: its number, and what reads it: the frame prepared, its ExposureFacts, its header."""
        for handle in sorted(raws, key=lambda h: h.dataId["exposure"]):
            yield str(handle.dataId["exposure"]), lambda handle=handle: self._prepare(handle, detector)

    def _prepare(self, handle: Any, detector: Detector) -> tuple[Prepared, ExposureFacts, Mapping[str, Any]]:
        raw = handle.get()
        frame = prepare(raw.data, detector, mode=self.config.overscan, smooth_rows=self.config.overscan_smooth_rows)
        check_amplifiers(frame.plane.data, detector)
        return frame, ExposureFacts.from_data_id(handle.dataId), raw.meta

    def sources(
        self, raws: Sequence[Any], detector: Detector, correct: Callable[[Prepared, ExposureFacts, Mapping[str, Any]], Frame]
    ) -> list[Source]:
        """What `payloads.combine` combines: what `correct` makes of each frame."""
        return [Source(name=name, load=lambda read=read: correct(*read())) for name, read in self.prepared(raws, detector)]

    def report_rejected(self, used: Sequence[str], rejected: Mapping[str, str]) -> None:
        """Who was left out and why, into log and metadata."""
        for name, reason in rejected.items():
            self.log.warning("exposure %s is left out: %s", name, reason)
        self.metadata["n_inputs"] = len(used) + len(rejected)
        self.metadata["n_used"] = len(used)
        self.metadata["n_rejected"] = len(rejected)
        self.metadata["rejected"] = [f"{name}: {reason}" for name, reason in rejected.items()] or ["none"]

    def report_master(self, master: Master, plane: Plane) -> dict[str, Any]:
        """Quality numbers into the task's metadata; returns the product's header cards."""
        self.report_rejected(master.names, master.rejected)
        self.metadata["noise"] = master.noise
        self.metadata["noise_expected"] = master.noise_expected
        self.metadata["noise_ratio"] = master.noise / master.noise_expected if master.noise_expected else float("nan")
        clipped, used = int(master.clipped.sum()), int(master.used.sum())
        self.metadata["clipped_fraction"] = clipped / max(1, clipped + used)
        for bit in (Mask.BAD, Mask.SUSPECT):
            self.metadata[f"n_{str(bit.name).lower()}"] = int(any_set(plane.mask, bit, plane.data.shape).sum())
        return {"NCOMBINE": len(master.names), "NOISEEXP": master.noise_expected, "NOISEOBS": master.noise}


def flat_frame(
    frame: Prepared, facts: ExposureFacts, gain: NDArray[np.float32], zero: Plane, current: Plane | None, config: Any
) -> Frame:
    """A flat in electrons over its level, to be combined by photons; FrameUnusable where it is saturated or too dim."""
    check_saturation(frame.plane.mask, config.saturated_fraction)
    signal = frame.plane.data - zero.data
    if current is not None:
        signal -= np.float32(facts.dark_time_s) * current.data
    signal *= gain
    # Of a million pixels, spread evenly: as good, and a tenth of the time where there are sixteen.
    step = max(1, int(np.sqrt(signal.size / 1_000_000)))
    level = float(np.nanmedian(signal[::step, ::step]))
    if not level > config.minimum_electron:
        raise FrameUnusable(f"its level, {level:.0f} electron, is below {config.minimum_electron:.0f}")
    signal[frame.plane.mask != 0] = np.float32(np.nan)
    signal /= np.float32(level)
    return Frame(image=signal, weight=level, read=1 / level, photon=1 / level)


def flat_normaliser(
    detector: Detector, zero: Plane, current: Plane | None, config: Any
) -> Callable[[Prepared, ExposureFacts], NDArray[np.float32]]:
    """What makes a frame into a flat over its own level, NaN where it is saturated; FrameUnusable where it is no good."""
    gain = amplifier_map(detector, "gain")
    return lambda frame, facts: flat_frame(frame, facts, gain, zero, current, config).image


def sign(content: Any, provenance: Provenance) -> None:
    """Put the provenance into a product: an image's header, or under `provenance` of a table."""
    if isinstance(content, dict):
        content["provenance"] = provenance.cards()
    else:
        content.meta.update(provenance.cards())


def _calibrations(refs: pipe_base.InputQuantizedConnection) -> list[tuple[str, str, str]]:
    groups = [value if isinstance(value, (list, tuple)) else [value] for name, value in refs if name != "raws"]
    return sorted((ref.datasetType.name, str(ref.id), ref.run) for group in groups for ref in group if ref is not None)

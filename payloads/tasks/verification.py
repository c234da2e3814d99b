"""Verification of calibration products: each task reads a product of this campaign and the one certified before, and judges.

A verification is data: `product dataset run certified passed reasons held_out n_frames frames checks metrics summary`; the engine
certifies nothing whose verification is missing or did not pass (`finish: certify` with `verified_by`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from lsst.daf.butler import CollectionType, DataCoordinate, DatasetRef, DatasetType
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as cT
from numpy.typing import NDArray

from payloads.camera import Camera, Detector
from payloads.exposure import ExposureFacts
from payloads.frame_checks import check_amplifiers, check_light
from payloads.holdout import not_used, rejected_by, used_by
from payloads.isr import Prepared, prepare
from payloads.overscan import FrameUnusable
from payloads.tasks.planes import plane_of
from payloads.tasks.products import as_measured, calibration, flat_normaliser
from payloads.verification import (
    Check,
    Limits,
    against_certified,
    against_frames,
    bias_level,
    coverage,
    dark_against_certified,
    dark_time,
    flat_against_certified,
    flat_frames,
    pixel_noise,
    summary,
)

_FRAME = ("instrument", "exposure", "detector")
_PRODUCT = ("instrument", "detector")
_FILTERED = ("instrument", "detector", "physical_filter")


def candidate_and_certified(
    dataset_type: DatasetType, registry: Any, data_id: DataCoordinate, collections: Sequence[str]
) -> Iterable[DatasetRef]:
    """The product that an earlier step of the campaign made (in a RUN), and the newest certified one; none without the first."""
    if not list(registry.queryDatasetTypes(dataset_type.name)):
        return []
    runs = list(registry.queryCollections(collections, collectionTypes={CollectionType.RUN}, flattenChains=True))
    candidate = registry.findDataset(dataset_type, data_id, collections=runs)
    if candidate is None:
        return []
    for name in registry.queryCollections(collections, collectionTypes={CollectionType.CALIBRATION}, flattenChains=True):
        for found in registry.queryDatasetAssociations(
            dataset_type, collections=[name], collectionTypes={CollectionType.CALIBRATION}
        ):
            if found.ref.dataId == candidate.dataId:
                return [candidate] if found.ref.id == candidate.id else [candidate, found.ref]
    return [candidate]


class VerifyConnections(pipe_base.PipelineTaskConnections, dimensions=_PRODUCT, defaultTemplates={"product": ""}):
    """What every verification reads and writes."""

    camera = cT.PrerequisiteInput(
        doc="what is known of the camera", name="camera", storageClass="StructuredDataDict", dimensions=("instrument",)
    )
    products = cT.PrerequisiteInput(
        doc="the product of this campaign, and the certified one", name="{product}", storageClass="CCDData",
        dimensions=_PRODUCT, isCalibration=True, multiple=True, minimum=0, deferLoad=True, lookupFunction=candidate_and_certified,
    )  # fmt: skip
    verification = cT.Output(
        doc="the verdict, with every number", name="{product}_verification", storageClass="StructuredDataDict",
        dimensions=_PRODUCT,
    )  # fmt: skip

    def adjustQuantum(self, inputs: Any, outputs: Any, label: str, data_id: DataCoordinate) -> Any:  # noqa: N802
        """Nothing of this campaign for this data ID: nothing to verify."""
        _, products = inputs["products"]
        if not products:
            raise pipe_base.NoWorkFound(f"{label}: no product of this campaign for {data_id}")
        return super().adjustQuantum(inputs, outputs, label, data_id)


class VerifyConfig(pipe_base.PipelineTaskConfig, pipelineConnections=VerifyConnections):
    """What every verification asks."""

    accept_change = Field[bool](
        doc="a difference from the certified product is what is wanted: say so, do not fail", default=False
    )


class VerifyFramesConnections(VerifyConnections, dimensions=_PRODUCT, defaultTemplates={"product": ""}):
    """With frames that the product was not made of."""

    raws = cT.Input(doc="raw frames", name="raw", storageClass="CCDData", dimensions=_FRAME, multiple=True, deferLoad=True)
    # Frames are compared with a product of frames that were made linear, free of crosstalk and electrons by the same numbers.
    crosstalk = calibration("crosstalk", optional=True, table=True)
    ptc = calibration("ptc", optional=True, table=True)
    linearity = calibration("linearity", optional=True, table=True)

    def getTemporalBoundsConnections(self) -> Iterable[str]:  # noqa: N802 - the base class's name
        """Calibrations used are those of the frames' time."""
        return ("raws",)


class VerifyFramesConfig(VerifyConfig, pipelineConnections=VerifyFramesConnections):
    """Which frames, and how they are prepared."""

    hold_out = Field[int](doc="of so many frames one was held out, where the product does not say itself", default=5)
    at_most = Field[int](doc="frames to look at", default=5)
    frame_type = Field[str](doc="observation type of the frames", default="")


class _VerifyTask(pipe_base.PipelineTask):
    """Common to all: the candidate and the certified product apart, the verdict put together."""

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Tell the two products apart by their RUN."""
        inputs = butlerQC.get(inputRefs)
        camera = Camera.from_dict(inputs.pop("camera"))
        mine = outputRefs.verification.run.rsplit("/", 2)[0]
        products = {handle.ref.run.rsplit("/", 2)[0] == mine: handle for handle in inputs.pop("products")}
        if True not in products:
            raise pipe_base.NoWorkFound("the certified product alone was found, none of this campaign")
        data_id = outputRefs.verification.dataId
        detector = as_measured(camera, data_id["detector"], inputs)
        verification = self.run(
            candidate=products[True],
            certified=products.get(False),
            detector=detector,
            subject={key: data_id[key] for key in data_id.dimensions.names if key in ("detector", "physical_filter", "day_obs")},
            **inputs,
        )
        butlerQC.put(pipe_base.Struct(verification=verification), outputRefs)

    def _verdict(
        self, candidate: Any, certified: Any, subject: Mapping[str, Any], checks: Sequence[Check], **more: Any
    ) -> dict[str, Any]:
        product = candidate.ref.datasetType.name
        if self.config.accept_change:
            checks = [replace(c, decisive=False) if c.name.startswith("change") else c for c in checks]
        reasons = [check.words() for check in checks if check.decisive and not check.passed] + more.pop("wrong", [])
        for reason in reasons:
            self.log.warning("%s %s: %s", product, dict(subject), reason)
        self.metadata["passed"] = not reasons
        self.metadata["reasons"] = reasons or ["none"]
        metrics = [_metric(product, check, subject) for check in checks]
        verified = {"name": f"{product}_verified", "value": float(not reasons), "unit": "", "subject": dict(subject)}
        return {
            "product": product,
            "dataset": str(candidate.ref.id),
            "run": candidate.ref.run,
            "certified": str(certified.ref.id) if certified is not None else None,
            "subject": dict(subject),
            "passed": not reasons,
            "reasons": reasons,
            "checks": [check.as_dict() for check in checks],
            "metrics": [*metrics, verified],
            **more,
        }


def _metric(product: str, check: Check, subject: Mapping[str, Any]) -> dict[str, Any]:
    about = {**subject, **({"amplifier": check.amplifier} if check.amplifier else {})}
    value = check.value if math.isfinite(check.value) else None
    return {"name": f"{product}_{check.name}", "value": value, "unit": check.unit, "subject": about}


class _VerifyFramesTask(_VerifyTask):
    """Products that are judged by frames of their own kind."""

    def _frames(
        self, raws: Sequence[Any], meta: Mapping[str, Any], detector: Detector, correct: Callable[..., Any]
    ) -> tuple[list[NDArray[np.float32]], dict[str, Any]]:
        """Prepared frames that the product, of header `meta`, was not made of (or, where there is none, that it was), and what
        is said of them. Those that were no good for the product are no good for judging it.
        """
        kind, rejected = self.config.frame_type, rejected_by(meta)
        every = {h.dataId["exposure"]: h for h in raws if h.dataId.records["exposure"].observation_type == kind}
        mine = {exposure: handle for exposure, handle in every.items() if exposure not in rejected}
        out = not_used(mine, self.config.hold_out, used_by(meta))
        frames, names, notes = self._read(sorted(out), mine, detector, correct)
        notes |= {str(exposure): reason for exposure, reason in rejected.items() if exposure in every}
        held_out = bool(frames)
        if not frames:
            frames, names, more = self._read(sorted(set(mine) - out), mine, detector, correct)
            notes |= more
        said = {"held_out": held_out, "n_frames": len(frames), "frames": names, "frames_left_out": notes}
        return frames, said

    def _read(
        self, exposures: Sequence[int], handles: Mapping[int, Any], detector: Detector, correct: Callable[..., Any]
    ) -> tuple[list[NDArray[np.float32]], list[int], dict[str, str]]:
        frames, names, notes = [], [], {}
        for exposure in exposures:
            if len(frames) == self.config.at_most:
                break
            handle = handles[exposure]
            try:
                frame = prepare(handle.get().data, detector)
                check_amplifiers(frame.plane.data, detector)
                frames.append(correct(frame, ExposureFacts.from_data_id(handle.dataId)))
                names.append(exposure)
            except FrameUnusable as error:
                notes[str(exposure)] = str(error)
        return frames, names, notes


def _n_used(meta: Mapping[str, Any]) -> int:
    return int(meta.get("NCOMBINE", meta.get("NINPUT", 1)))


def _noise(frames: Sequence[NDArray[np.float32]]) -> float:
    return float(np.median([pixel_noise(frame) for frame in frames])) if frames else math.nan


_NO_FRAMES = ["no usable frame to verify it with"]


class VerifyBiasConnections(VerifyFramesConnections, dimensions=_PRODUCT, defaultTemplates={"product": "bias"}):
    """Of a bias."""


class VerifyBiasConfig(VerifyFramesConfig, pipelineConnections=VerifyBiasConnections):
    """Of a bias."""

    light_adu = Field[float](doc="a frame is not looked at that is further than this from its overscan, ADU", default=50.0)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """Frames of its own kind."""
        super().setDefaults()
        self.frame_type = "bias"


class VerifyBiasTask(_VerifyFramesTask):
    """A master bias: held-out frames lie on it, its level is no light, no amplifier is lost, it is like the certified one."""

    ConfigClass = VerifyBiasConfig
    _DefaultName = "verifyBias"

    def run(self, raws: Any, candidate: Any, certified: Any, detector: Detector, subject: Mapping[str, Any]) -> dict[str, Any]:
        """`candidate`, `certified`: deferred handles; returns the verification."""
        limits = Limits()
        image: CCDData = candidate.get()
        product = plane_of(image)

        def correct(frame: Prepared, _: ExposureFacts) -> NDArray[np.float32]:
            check_light(frame, detector, self.config.light_adu)
            return frame.plane.data

        frames, said = self._frames(raws, image.meta, detector, correct)
        noise = _noise(frames)
        checks = coverage(product, detector, limits)
        checks += against_frames(frames, product, detector, limits, used=_n_used(image.meta), out=said["held_out"])
        checks += bias_level(product, detector, noise, limits)
        if certified is not None:
            checks += against_certified(product, plane_of(certified.get()), detector, limits, noise=noise)
        more = {**said, "summary": summary(product, detector), "wrong": [] if frames else _NO_FRAMES}
        return self._verdict(candidate, certified, subject, checks, **more)


class VerifyDarkConnections(VerifyFramesConnections, dimensions=_PRODUCT, defaultTemplates={"product": "dark"}):
    """Of a dark."""

    bias = cT.PrerequisiteInput(doc="master bias", name="bias", storageClass="CCDData", dimensions=_PRODUCT, isCalibration=True)


class VerifyDarkConfig(VerifyFramesConfig, pipelineConnections=VerifyDarkConnections):
    """Of a dark."""

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """Frames of its own kind."""
        super().setDefaults()
        self.frame_type = "dark"


class VerifyDarkTask(_VerifyFramesTask):
    """A master dark: held-out frames lie on it, hot pixels are as bright as the header's time says, it is like the certified."""

    ConfigClass = VerifyDarkConfig
    _DefaultName = "verifyDark"

    def run(
        self, raws: Any, candidate: Any, certified: Any, detector: Detector, subject: Mapping[str, Any], bias: CCDData
    ) -> dict[str, Any]:
        """As for a bias; `bias`: the master that the dark was made with."""
        limits, zero = Limits(), plane_of(bias)
        image: CCDData = candidate.get()
        product = plane_of(image)

        def correct(frame: Prepared, facts: ExposureFacts) -> NDArray[np.float32]:
            if facts.dark_time_s <= 0:
                raise FrameUnusable("its dark time is not positive: it is no dark")
            return (frame.plane.data - zero.data) / np.float32(facts.dark_time_s)

        frames, said = self._frames(raws, image.meta, detector, correct)
        noise = _noise(frames)
        checks = coverage(product, detector, limits)
        checks += against_frames(frames, product, detector, limits, used=_n_used(image.meta), out=said["held_out"])
        checks += dark_time(frames, product, limits)
        if certified is not None:
            old = plane_of(certified.get())
            checks += against_certified(product, old, detector, limits, noise=noise)
            checks += dark_against_certified(product, old, limits)
        more = {**said, "summary": summary(product, detector), "wrong": [] if frames else _NO_FRAMES}
        return self._verdict(candidate, certified, subject, checks, **more)


class VerifyFlatConnections(VerifyFramesConnections, dimensions=_FILTERED, defaultTemplates={"product": "flat"}):
    """Of a flat."""

    products = cT.PrerequisiteInput(
        doc="the product of this campaign, and the certified one", name="{product}", storageClass="CCDData",
        dimensions=_FILTERED, isCalibration=True, multiple=True, minimum=0, deferLoad=True,
        lookupFunction=candidate_and_certified,
    )  # fmt: skip
    verification = cT.Output(
        doc="the verdict, with every number", name="{product}_verification", storageClass="StructuredDataDict",
        dimensions=_FILTERED,
    )  # fmt: skip
    bias = cT.PrerequisiteInput(doc="master bias", name="bias", storageClass="CCDData", dimensions=_PRODUCT, isCalibration=True)
    dark = cT.PrerequisiteInput(
        doc="master dark, if the camera takes any", name="dark", storageClass="CCDData", dimensions=_PRODUCT,
        isCalibration=True, minimum=0,
    )  # fmt: skip


class VerifyFlatConfig(VerifyFramesConfig, pipelineConnections=VerifyFlatConnections):
    """Of a flat."""

    minimum_electron = Field[float](doc="frames of a lower level are not looked at, electron", default=500.0)
    saturated_fraction = Field[float](doc="frames with more saturated pixels than this are not looked at", default=0.05)

    def setDefaults(self) -> None:  # noqa: N802 - the base class's name
        """Frames of its own kind."""
        super().setDefaults()
        self.frame_type = "flat"


class VerifyFlatTask(_VerifyFramesTask):
    """A master flat: held-out flats divided by it are even, no amplifier is lost, it is like the certified one."""

    ConfigClass = VerifyFlatConfig
    _DefaultName = "verifyFlat"

    def run(
        self,
        raws: Any,
        candidate: Any,
        certified: Any,
        detector: Detector,
        subject: Mapping[str, Any],
        bias: CCDData,
        dark: CCDData | None = None,
    ) -> dict[str, Any]:
        """As for a bias; `bias` and `dark`: the masters that the flat was made with."""
        limits = Limits()
        image: CCDData = candidate.get()
        product = plane_of(image)
        normalise = flat_normaliser(detector, plane_of(bias), plane_of(dark), self.config)
        frames, said = self._frames(raws, image.meta, detector, normalise)
        checks = coverage(product, detector, limits)
        if said["held_out"] or _n_used(image.meta) > 1:  # over itself alone a frame is 1 everywhere: nothing can be said
            checks += flat_frames(frames, product, detector, limits)
        if certified is not None:
            checks += flat_against_certified(product, plane_of(certified.get()), detector, limits)
        more = {**said, "summary": summary(product, detector), "wrong": [] if frames else _NO_FRAMES}
        return self._verdict(candidate, certified, subject, checks, **more)

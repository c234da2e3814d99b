"""What is looked at every day: each raw calibration frame by itself, and the day's flats against the certified masters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.nddata import CCDData
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as cT

from payloads.camera import Camera, Detector
from payloads.exposure import ExposureFacts
from payloads.frame_facts import thumbnail
from payloads.isr import Plane, prepare
from payloads.overscan import FrameUnusable
from payloads.raw_check import Masters, check_raw
from payloads.tasks.planes import plane_of
from payloads.tasks.products import FILTERED, as_measured, calibration, flat_normaliser
from payloads.verification import FlatChange, flat_change

FRAME = ("instrument", "exposure", "detector")


class CheckRawConnections(pipe_base.PipelineTaskConnections, dimensions=FRAME):
    """A frame, and what is certified: masters, and what was measured of the amplifiers, which masters are in units of."""

    camera = cT.PrerequisiteInput(
        doc="what is known of the camera", name="camera", storageClass="StructuredDataDict", dimensions=("instrument",)
    )
    raw = cT.Input(doc="the frame as read", name="raw", storageClass="CCDData", dimensions=FRAME)
    bias = calibration("bias", optional=True)
    dark = calibration("dark", optional=True)
    flat = calibration("flat", optional=True, filtered=True)
    crosstalk = calibration("crosstalk", optional=True, table=True)
    ptc = calibration("ptc", optional=True, table=True)
    linearity = calibration("linearity", optional=True, table=True)
    verdict = cT.Output(doc="what is wrong with it", name="raw_check", storageClass="StructuredDataDict", dimensions=FRAME)


class CheckRawConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CheckRawConnections):
    """Nothing to say."""


class CheckRawTask(pipe_base.PipelineTask):
    """Is a calibration frame what its header says (payloads/raw_check.py)?"""

    ConfigClass = CheckRawConfig
    _DefaultName = "checkRaw"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """The kind of frame is that of its record."""
        inputs = butlerQC.get(inputRefs)
        data_id = inputRefs.raw.dataId
        camera = Camera.from_dict(inputs["camera"])
        masters = Masters(**{name: plane_of(inputs.get(name)) for name in ("bias", "dark", "flat")})
        kind, facts = data_id.records["exposure"].observation_type, ExposureFacts.from_data_id(data_id)
        detector = as_measured(camera, data_id["detector"], inputs)
        verdict = self.run(inputs["raw"].data, detector, kind, facts, masters)
        verdict["metrics"] = [
            {"name": f"raw_{name}", "value": value, "unit": "", "subject": _subject(data_id, kind)}
            for name, value in verdict.pop("numbers").items()
        ]
        butlerQC.put(pipe_base.Struct(verdict=verdict), outputRefs)

    def run(self, raw: Any, detector: Detector, kind: str, facts: ExposureFacts, masters: Masters) -> dict[str, Any]:
        """Reasons and numbers as plain values."""
        found = check_raw(
            raw, detector, kind, exposure_time_s=facts.exposure_time_s, dark_time_s=facts.dark_time_s, masters=masters
        )
        for reason in found.reasons:
            self.log.warning("%s frame: %s", kind, reason)
        numbers = {**found.numbers, "refused": float(len(found.reasons))}
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {"kind": kind, "reasons": list(found.reasons), "numbers": plain}


def _subject(data_id: Any, kind: str) -> dict[str, Any]:
    return {"detector": data_id["detector"], "exposure": data_id["exposure"], "kind": kind}


class CompareFlatConnections(pipe_base.PipelineTaskConnections, dimensions=FILTERED):
    """The day's flats, and what is certified."""

    camera = cT.PrerequisiteInput(
        doc="what is known of the camera", name="camera", storageClass="StructuredDataDict", dimensions=("instrument",)
    )
    raws = cT.Input(doc="raw flats", name="raw", storageClass="CCDData", dimensions=FRAME, multiple=True, deferLoad=True)
    bias = calibration("bias")
    dark = calibration("dark", optional=True)
    flat = calibration("flat", filtered=True)
    crosstalk = calibration("crosstalk", optional=True, table=True)
    ptc = calibration("ptc", optional=True, table=True)
    linearity = calibration("linearity", optional=True, table=True)
    comparison = cT.Output(
        doc="how the day's flat differs", name="flat_comparison", storageClass="StructuredDataDict", dimensions=FILTERED
    )

    def getTemporalBoundsConnections(self) -> Iterable[str]:  # noqa: N802 - the base class's name
        """Masters valid when the flats were taken."""
        return ("raws",)


class CompareFlatConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CompareFlatConnections):
    """What is a significant change (LDM-151: it starts regeneration)."""

    significant_rms = Field[float](doc="rms of 16 px blocks of the day's flat over the master, beyond noise", default=0.005)
    significant_amplifier = Field[float](doc="an amplifier's mean in that quotient, from 1", default=0.01)
    minimum_electron = Field[float](doc="frames of a lower level are not looked at, electron", default=500.0)
    saturated_fraction = Field[float](doc="frames with more saturated pixels than this are not looked at", default=0.05)


class CompareFlatTask(pipe_base.PipelineTask):
    """The mean of a day's flats in a filter over the certified master: has anything changed?"""

    ConfigClass = CompareFlatConfig
    _DefaultName = "compareFlat"

    def runQuantum(  # noqa: N802 - the base class's name
        self,
        butlerQC: pipe_base.QuantumContext,
        inputRefs: pipe_base.InputQuantizedConnection,
        outputRefs: pipe_base.OutputQuantizedConnection,
    ) -> None:
        """Raws stay handles, read one after another."""
        inputs = butlerQC.get(inputRefs)
        data_id = outputRefs.comparison.dataId
        detector = as_measured(Camera.from_dict(inputs.pop("camera")), data_id["detector"], inputs)
        subject = {name: data_id[name] for name in ("detector", "physical_filter")}
        butlerQC.put(pipe_base.Struct(comparison=self.run(detector=detector, subject=subject, **inputs)), outputRefs)

    def run(
        self,
        raws: Sequence[Any],
        detector: Detector,
        subject: dict[str, Any],
        bias: CCDData,
        flat: CCDData,
        dark: CCDData | None = None,
    ) -> dict[str, Any]:
        """The comparison as plain values; NoWorkFound where no frame is a flat that can be used."""
        normalise = flat_normaliser(detector, plane_of(bias), plane_of(dark), self.config)
        total, count, used, left_out = 0.0, 0.0, [], {}
        for handle in sorted(raws, key=lambda h: h.dataId["exposure"]):
            name = str(handle.dataId["exposure"])
            try:
                frame = normalise(prepare(handle.get().data, detector), ExposureFacts.from_data_id(handle.dataId))
            except FrameUnusable as error:
                left_out[name] = str(error)
                continue
            finite = np.isfinite(frame)
            total, count = total + np.where(finite, frame, 0.0), count + finite
            used.append(name)
        if not used:
            raise pipe_base.NoWorkFound(f"no flat that can be compared: {left_out}")
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.asarray(total / count, dtype=np.float32)
        master: Plane = plane_of(flat)
        change = flat_change(mean, master, detector)
        why = self._why(change)
        about = [("flat_change_rms", change.rms, subject), ("flat_change_significant", float(bool(why)), subject)]
        about += [("flat_change_amplifier", v, {**subject, "amplifier": name}) for name, v in change.by_amplifier.items()]
        return {
            "subject": subject,
            "significant": bool(why),
            "why": why,
            "frames": used,
            "left_out": left_out,
            "by_amplifier": change.by_amplifier,
            "rms": change.rms,
            "thumbnail": np.nan_to_num(thumbnail(mean, 24), nan=0.0).astype(float).round(5).tolist(),
            "metrics": [
                {"name": name, "value": value if math.isfinite(value) else None, "unit": "", "subject": of}
                for name, value, of in about
            ],
        }

    def _why(self, change: FlatChange) -> str:
        worst = max(change.by_amplifier, key=lambda name: abs(change.by_amplifier[name]))
        part = change.by_amplifier[worst]
        if not change.rms <= self.config.significant_rms:
            return f"{change.rms:.2%} rms from the master ({change.kind()}), amplifier {worst} {part:+.2%}"
        if not abs(part) <= self.config.significant_amplifier:
            return f"amplifier {worst} is {part:+.2%} from the master"
        return ""

"""Verification of the crosstalk matrix: by its own numbers, against the certified one, and on frames of the sky."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from astropy.nddata import CCDData
from lsst.pex.config import Field

from payloads import verification_others as judges
from payloads.camera import Detector
from payloads.crosstalk import CrosstalkSettings
from payloads.holdout import used_by
from payloads.isr import prepare
from payloads.mask import Mask, any_set
from payloads.overscan import FrameUnusable
from payloads.tasks.amplifiers import unmeasured
from payloads.tasks.planes import plane_of
from payloads.tasks.products import calibration
from payloads.tasks.verification import VerifyConfig, _VerifyTask
from payloads.tasks.verification_others import VerifyTableConnections
from payloads.verification_crosstalk import GhostTest, verdict

_PRODUCT = ("instrument", "detector")


class VerifyCrosstalkConnections(VerifyTableConnections, dimensions=_PRODUCT, defaultTemplates={"product": "crosstalk"}):
    """Of the matrix, with raws of which those of the sky are read."""

    bias = calibration("bias", optional=True)

    def getTemporalBoundsConnections(self) -> Iterable[str]:  # noqa: N802 - the base class's name
        """The bias is that of the frames' time."""
        return ("raws",)


class VerifyCrosstalkConfig(VerifyConfig, pipelineConnections=VerifyCrosstalkConnections):
    """Which frames, and which sources."""

    frame_type = Field[str](doc="observation type of the frames of the sky", default="science")
    at_most = Field[int](doc="frames with bright stars to look at", default=20)
    bright_adu = Field[float](doc="stars are pixels this far above their background, ADU", default=5000.0)


class VerifyCrosstalkTask(_VerifyTask):
    """The crosstalk matrix (DMS-REQ-0061: verified on science data; method in `payloads.verification_crosstalk`)."""

    ConfigClass = VerifyCrosstalkConfig
    _DefaultName = "verifyCrosstalk"

    def run(
        self,
        raws: Sequence[Any],
        candidate: Any,
        certified: Any,
        detector: Detector,
        subject: Mapping[str, Any],
        bias: CCDData | None = None,
    ) -> dict[str, Any]:
        """As for a table; `bias`: the master. Frames that the matrix was made of do not judge it."""
        table = candidate.get()
        checks = judges.crosstalk(table, None if certified is None else certified.get(), detector)
        test, frames, left_out = self._on_sky(raws, table, unmeasured(detector), None if bias is None else plane_of(bias).data)
        more, science, notes = verdict(test, len(frames))
        for note in notes:
            self.log.info("crosstalk %s: %s", dict(subject), note)
        found = self._verdict(candidate, certified, subject, [*checks, *more], notes=notes)
        metric = {
            "name": "crosstalk_verified_on_science",
            "value": float(science["verified"]),
            "unit": "",
            "subject": dict(subject),
        }
        science |= {"frames": frames, "frames_left_out": left_out}
        return found | {"science": science, "metrics": [*found["metrics"], metric]}

    def _on_sky(
        self, raws: Sequence[Any], table: Mapping[str, Any], bare: Detector, zero: Any
    ) -> tuple[GhostTest | None, list[int], dict[str, str]]:
        """Frames of the sky with bright stars, evenly out of all that there are; those that are unusable with the reason."""
        if len(bare.amplifiers) < 2:
            return None, [], {}
        made_of = used_by(table.get("provenance", {})) or frozenset()
        sky = {h.dataId["exposure"]: h for h in raws if h.dataId.records["exposure"].observation_type == self.config.frame_type}
        test = GhostTest(bare, table["coefficients"], CrosstalkSettings(bright_adu=self.config.bright_adu))
        frames: list[int] = []
        left_out: dict[str, str] = {}
        for exposure in _spread(sorted(set(sky) - made_of)):
            if len(frames) == self.config.at_most:
                break
            try:
                plane = prepare(sky[exposure].get().data, bare).plane
                data = plane.data if zero is None else plane.data - zero
                if test.add(data, any_set(plane.mask, Mask.BAD | Mask.NO_DATA, data.shape)):
                    frames.append(exposure)
                else:
                    left_out[str(exposure)] = f"no star in it is brighter than {self.config.bright_adu:g} ADU"
            except FrameUnusable as error:
                left_out[str(exposure)] = str(error)
        return test, sorted(frames), left_out


def _spread(exposures: Sequence[int]) -> list[int]:
    """Far apart first: neighbours have the same stars at nearly the same places."""
    order = np.argsort([(k * 0.6180339887) % 1 for k in range(len(exposures))], kind="stable")
    return [exposures[k] for k in order]

"""The frames of the calibration benchmark: one full-size detector, written once; and how they are read by the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import astropy.units as u
from astropy.io import fits
from astropy.nddata import CCDData

from payloads.simulator.calibration_night import DataId, Night
from payloads.simulator.config import SurveyConfig
from payloads.simulator.frames import make_raw, write_raw
from payloads.simulator.headers import raw_name
from payloads.tasks.calibration import CombineBiasTask, CombineDarkTask, CombineFlatTask
from payloads.tasks.verification import VerifyBiasTask, VerifyDarkTask, VerifyFlatTask

NOTHING = {"stars": {"per_detector": 0}, "galaxies": {"per_detector": 0}, "transients": {"per_field": 0}}


def survey(size: tuple[int, int], counts: Mapping[str, int]) -> SurveyConfig:
    """A camera of one detector of 16 amplifiers; `counts` of bias, dark and flat."""
    return SurveyConfig.from_dict(
        {
            "seed": 11,
            "camera": {"detectors": [1, 1], "size": list(size), "amplifiers": 16, "overscan_px": 64},
            "nights": {"count": 1, "templates": 0},
            "fields": [{"name": "none", "visits": {"r": 1}}],
            **NOTHING,
            "asteroids": {"per_field_night": 0},
            "calibrations": dict(counts),
        }
    )


def write_frames(night: Night, out: Path) -> int:
    """Write what is not there yet; returns the number of calibration frames."""
    detector = night.true_detector
    planned = [e for e in night.world.planned if e.kind != "science"]
    for exposure in planned:
        if not (out / raw_name(night.world.survey, exposure, detector)).exists():
            write_raw(night.world, exposure, detector, make_raw(night.world, exposure, detector, night.truth)[0], out)
    return len(planned)


@dataclass(frozen=True, kw_only=True)
class FileHandle:
    """A deferred raw frame in a file."""

    path: Path
    dataId: DataId  # noqa: N815 - the Butler's name

    def renamed(self, number: int) -> FileHandle:
        """The same frame as another exposure."""
        planned = replace(self.dataId.planned, seq_num=number + 1)
        return replace(self, dataId=replace(self.dataId, planned=planned))

    def get(self) -> CCDData:
        """The frame with its header."""
        with fits.open(self.path, memmap=False) as hdus:
            return CCDData(hdus[0].data, unit=u.adu, meta=dict(hdus[0].header))


def handles(night: Night, kind: str, out: Path) -> list[FileHandle]:
    """Of all frames of a kind."""
    detector = night.true_detector
    ids = [handle.dataId for handle in night.raws(kind)]
    return [FileHandle(path=out / raw_name(night.world.survey, i.planned, detector), dataId=i) for i in ids]


def products(night: Night, out: Path) -> dict[str, Any]:
    """Bias, dark and flat by the tasks of the calibration pipeline, configured as there: one frame of five is held out."""
    detector, made = night.described, {}
    for name, task_class, uses in _TASKS:
        config = task_class.ConfigClass()
        config.hold_out = 5
        inputs = {use: made[use] for use in uses}
        result = task_class(config=config).run(raws=handles(night, name, out), detector=detector, **inputs)
        made[name] = getattr(result, name)
        made[name].meta.update({f"INP{k:05d}": int(exposure) for k, exposure in enumerate(result.used, start=1)})
    return made


def verified(night: Night, made: Mapping[str, Any], out: Path) -> dict[str, bool]:
    """Whether each passes its verification on the frames that were held out."""
    passed = {}
    for name, task_class, uses in _VERIFICATIONS:
        candidate = SimpleNamespace(
            get=lambda image=made[name]: image, ref=SimpleNamespace(id=name, run="run", datasetType=SimpleNamespace(name=name))
        )
        verdict = task_class().run(
            raws=handles(night, name, out), candidate=candidate, certified=None, detector=night.described,
            subject={"detector": night.number}, **{use: made[use] for use in uses},
        )  # fmt: skip
        passed[name] = verdict["passed"]
    return passed


_TASKS = (("bias", CombineBiasTask, ()), ("dark", CombineDarkTask, ("bias",)), ("flat", CombineFlatTask, ("bias", "dark")))
_VERIFICATIONS = (
    ("bias", VerifyBiasTask, ()),
    ("dark", VerifyDarkTask, ("bias",)),
    ("flat", VerifyFlatTask, ("bias", "dark")),
)

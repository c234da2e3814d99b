"""A simulated detector's calibration frames, and the products that the tasks make of them one after another, in memory.

No Butler: what a task asks of a handle is here, so that products can be scored against the truth in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import astropy.units as u
from astropy.nddata import CCDData
from astropy.time import Time, TimeDelta
from lsst.pipe.base import NoWorkFound

from payloads.camera import Camera, Detector
from payloads.response import measured
from payloads.simulator.camera import describe
from payloads.simulator.config import SurveyConfig
from payloads.simulator.detector import DetectorTruth, detector_truth
from payloads.simulator.exposures import Planned
from payloads.simulator.frames import make_raw
from payloads.simulator.headers import raw_header
from payloads.simulator.world import World, make_world
from payloads.tasks.amplifiers import MeasureCrosstalkTask, PhotonTransferTask
from payloads.tasks.calibration import CombineBiasTask, CombineDarkTask, CombineFlatTask
from payloads.tasks.defects import MapBadPixelsTask
from payloads.tasks.mono_flats import CombineMonoFlatTask, SynthesizeFlatTask
from payloads.tasks.sky import CombineFringeTask, CombineIlluminationTask


@dataclass(frozen=True, kw_only=True)
class DataId:
    """What tasks ask of an expanded data ID of a raw."""

    planned: Planned
    detector: int
    band: str

    def __getitem__(self, name: str) -> Any:
        return {"exposure": self.planned.id, "detector": self.detector}[name]

    def hasRecords(self) -> bool:  # noqa: N802 - the Butler's name
        """It is expanded."""
        return True

    @property
    def records(self) -> dict[str, Any]:
        """Of exposure and filter."""
        p = self.planned
        begin, seconds = Time(p.mjd_begin, format="mjd", scale="tai"), 0.0 if p.kind == "bias" else p.exposure_s
        exposure = SimpleNamespace(
            observation_type=p.kind,
            exposure_time=seconds,
            dark_time=seconds,
            timespan=SimpleNamespace(begin=begin, end=begin + TimeDelta(seconds, format="sec")),
            physical_filter=p.filter,
            tracking_ra=None,
            tracking_dec=None,
            sky_angle=None,
        )
        return {"exposure": exposure, "physical_filter": SimpleNamespace(band=self.band)}


@dataclass(frozen=True, kw_only=True)
class Handle:
    """A deferred raw frame, simulated when it is read."""

    night: Night
    dataId: DataId  # noqa: N815 - the Butler's name

    def get(self, component: str | None = None) -> Any:
        """The frame with its header, or the header alone."""
        world, planned = self.night.world, self.dataId.planned
        true = world.camera.detector(self.dataId.detector)
        header = dict(raw_header(world.survey, planned, true))
        if component == "header":
            return header
        return CCDData(make_raw(world, planned, true, self.night.truth)[0], unit=u.adu, meta=header)


class Night:
    """One detector of a survey: handles of its frames, what its camera's description says, and the truth."""

    def __init__(self, survey: SurveyConfig, detector: int = 0) -> None:
        self.world: World = make_world(survey)
        self.camera: Camera = describe(self.world.camera, survey)
        self.number = detector
        self.truth: DetectorTruth = detector_truth(survey, self.world.camera, self.true_detector)

    @property
    def true_detector(self) -> Detector:
        """With its true gains, crosstalk and linearity."""
        return self.world.camera.detector(self.number)

    @cached_property
    def described(self) -> Detector:
        """As known before anything was measured, where the survey's camera is described nominally."""
        return self.camera.detector(self.number)

    def raws(self, kind: str, physical_filter: str | None = None) -> list[Handle]:
        """All frames of a kind, in order."""
        chosen = [e for e in self.world.planned if e.kind == kind and physical_filter in (None, e.filter)]
        bands = {name: f.band for name, f in self.world.survey.filters.items()}
        ids = [DataId(planned=e, detector=self.number, band=bands.get(str(e.filter), "none")) for e in chosen]
        return [Handle(night=self, dataId=data_id) for data_id in ids]


def make_products(
    night: Night, physical_filter: str, *, held_out: int = 0, made: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All products that the night has frames for, each made with those before it, and the tasks' metadata, by dataset type.

    Of the science frames the last `held_out` are kept from the products. Those of no filter are taken over from `made`.
    """
    products = {name: value for name, value in (made or {}).items() if name not in _FILTERED}
    metadata: dict[str, Any] = {}

    def run(task: Any, name: str, kind: str, *uses: str, **particulars: Any) -> None:
        raws = night.raws(kind, physical_filter if name in _FILTERED else None)
        raws = raws[: len(raws) - held_out] if kind == "science" else raws
        if name in products or not raws:
            return
        detector = measured(night.described, **{key: products.get(key) for key in ("ptc", "linearity", "crosstalk")})
        inputs = {key: products[key] for key in uses if key in products}
        try:
            result = task.run(raws=raws, detector=detector, **inputs, **particulars)
        except NoWorkFound:
            return
        products.update({key: value for key, value in vars(result).items() if key not in ("used", "rejected")})
        metadata[name] = task.metadata

    run(CombineBiasTask(), "bias", "bias")
    run(MeasureCrosstalkTask(), "crosstalk", "spots", "bias")
    run(PhotonTransferTask(), "ptc", "ptc", "bias")
    run(CombineDarkTask(), "dark", "dark", "bias")
    run(CombineFlatTask(), "flat", "flat", "bias", "dark")
    if "flat" in products:
        run(MapBadPixelsTask(), "bad_pixels", "flat", "bias", "dark", flats=[products["flat"]])
    run(CombineMonoFlatTask(), "mono_flat", "monoflat", "bias", "dark")
    transmission = next(f.transmission for f in night.camera.filters if f.name == physical_filter)
    if "mono_flat" in products and transmission is not None:
        run(SynthesizeFlatTask(), "synthetic_flat", "flat", "mono_flat", transmission=transmission)
    if "flat" in products:
        run(CombineIlluminationTask(), "illumination", "science", "bias", "dark", "flat", "bad_pixels")
        run(CombineFringeTask(), "fringe", "science", "bias", "dark", "flat", "bad_pixels", "illumination")
    return products, metadata


_FILTERED = frozenset({"flat", "synthetic_flat", "illumination", "fringe"})

"""What a demo runs on: an instrument, the nights its frames say it observed, and which pipelines it needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lsst.daf.butler import Butler

from backbone.errors import PermanentError
from payloads.instrument import read_camera

RELEASE = "demo"


@dataclass(frozen=True)
class DagRun:
    """One run of a DAG: under which heading it is shown, and its conf."""

    stage: str
    dag: str
    conf: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """An instrument and its observing days (YYYYMMDD) with calibrations and with on-sky frames."""

    instrument: str
    calibration_days: tuple[int, ...]
    """Days with biases and flats both; none: `calibration_span` says between which days they lie."""
    science_days: tuple[int, ...]
    calibration_span: tuple[int, int] = (0, 0)
    variant: str = ""
    """`unregistered` for a camera without usable WCS: frames are registered to one another."""

    @property
    def template_days(self) -> tuple[int, int]:
        """First and last day that templates are made from: the first night, which may be the only one."""
        return self.science_days[0], self.science_days[0]

    @property
    def nights(self) -> tuple[int, ...]:
        """Days that are processed as nights: all after the template's, or the only one."""
        return self.science_days[1:] or self.science_days

    def runs(self) -> list[DagRun]:
        """The DAG runs, in order: each needs the products of those before."""
        instrument = {"instrument": self.instrument}
        varied = {**instrument, "variant": self.variant} if self.variant else instrument
        first, last = self.template_days
        days = {"first_day": self.science_days[0], "last_day": self.science_days[-1]}
        return [
            *self._calibrations(),
            DagRun("template", "template", {**varied, "first_day": first, "last_day": last}),
            *(DagRun("nightly", "nightly", {**varied, "day_obs": day}) for day in self.nights),
            *(DagRun("offline", "offline", {**instrument, "day_obs": day}) for day in self.nights),
            DagRun("release", "release", {**varied, **days, "release": RELEASE, "auto_approve": True}),
        ]

    def _calibrations(self) -> list[DagRun]:
        instrument = {"instrument": self.instrument}
        if self.calibration_days:
            return [DagRun("calibration", "calibration_daily", {**instrument, "day_obs": day}) for day in self.calibration_days]
        first, last = self.calibration_span
        # Few frames of each kind: masters alone; maps and fringes want a month of them.
        few = {"sky": "none", "pixels": "none"}
        return [DagRun("calibration", "calibration_monthly", {**instrument, "first_day": first, "last_day": last, **few})]


def read_case(butler: Butler, instrument: str) -> Case:
    """The case that the ingested frames make; an error says what is missing."""
    kinds = defaultdict(set)
    for record in butler.query_dimension_records("exposure", instrument=instrument, limit=None, explain=False):
        kinds[record.observation_type].add(record.day_obs)
    for kind in ("bias", "flat", "science"):
        if not kinds[kind]:
            raise PermanentError(
                f"instrument {instrument}: no {kind} frame was ingested; the demo needs bias, flat and science frames"
            )
    both = kinds["bias"] | kinds["flat"]
    camera = read_camera(butler, instrument)
    known = bool(butler.query_datasets("ref_cat", collections="refcats", find_first=False, limit=1, explain=False))
    return Case(
        instrument,
        calibration_days=tuple(sorted(kinds["bias"] & kinds["flat"])),
        science_days=tuple(sorted(kinds["science"])),
        calibration_span=(min(both), max(both)),
        variant="" if known and camera.wcs == "header" else "unregistered",
    )

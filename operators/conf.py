"""What a run may be asked for: the `conf` of each API-triggered DAG as a validated, versioned model; no Airflow here.

A key that no model knows is an error that names the nearest known one. Names of runs and of campaigns follow from the conf
alone, so that the same command given twice is the same run and the same campaign.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from backbone.errors import PermanentError
from workflow.models import Strict, parse

_WORD = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class ConfError(PermanentError, ValueError):
    """A run was asked for with a conf that cannot be used."""


class Conf(Strict):
    """Common to all runs."""

    scheduled: ClassVar[bool] = False
    """Whether the scheduler starts runs of it too, which say nothing: every key then has a default."""

    version: Literal[1] = Field(default=1, description="version of this form; changes when its meaning does")
    instrument: str = Field(default="SimCam", pattern=_WORD, description="instrument, as registered in the Butler")
    variant: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_]*$",
        description="sibling of the production to run: with X, productions/NAME_X.yaml; for cameras that need other pipelines",
    )
    serial: int = Field(default=1, ge=1, description="number of this repetition: another number is another campaign")
    command: str = Field(default="", description="the observatory control system's own id of this command, if it has one")

    @abstractmethod
    def subject(self) -> list[str]:
        """The words that say what this run is about, in order."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Parameters of the production."""

    def campaign(self, production: str) -> str:
        """Name of the campaign, the same whenever the same is asked for; part of the names of its collections."""
        return "_".join([production, *self.subject(), str(self.serial)])

    def file_name(self, production: str) -> str:
        """Name of the production's YAML."""
        return f"{production}_{self.variant}.yaml" if self.variant else f"{production}.yaml"

    def run_id(self, dag: str) -> str:
        """Run id to trigger with: a second trigger of the same conf meets the first (409)."""
        return "__".join([dag, self.campaign("")[1:]])

    def placed(self, now: datetime) -> Conf:
        """With what only the time of the run can say filled in; the same for confs that say everything."""
        return self


class Day(Conf):
    """One observing day of one instrument: the daily calibrations."""

    instrument: str = Field(pattern=_WORD, description="instrument, as registered in the Butler")
    day_obs: int = Field(description="observing day, YYYYMMDD")

    @field_validator("day_obs")
    @classmethod
    def _a_date(cls, value: int) -> int:
        return _checked_day(value)

    def subject(self) -> list[str]:
        """See Conf."""
        return [self.instrument, str(self.day_obs)]

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {"instrument": self.instrument, "day_obs": self.day_obs}


class Night(Day):
    """One night of one instrument, on a sky map: prompt and offline processing."""

    skymap: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="sky map; empty: the one named as the instrument")

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {**super().parameters(), "skymap": self.skymap or self.instrument}


class Offline(Night):
    """The day after: the night's backlog, then tracklets."""

    night: str = Field(default="", description="campaign of the night; empty: the first of this instrument and day")

    def night_campaign(self) -> str:
        """The campaign whose backlog is worked off."""
        return self.night or Night(instrument=self.instrument, day_obs=self.day_obs).campaign("nightly")


class Span(Conf):
    """A span of observing days: monthly and annual products. Scheduled runs take the last whole month or year."""

    scheduled = True
    unit: ClassVar[Literal["month", "year"]] = "month"
    first_day: int = Field(default=0, description="first observing day, YYYYMMDD; 0: of the last whole month (or year)")
    last_day: int = Field(default=0, description="last observing day, YYYYMMDD; 0: of the last whole month (or year)")

    @field_validator("first_day", "last_day")
    @classmethod
    def _dates(cls, value: int) -> int:
        return value and _checked_day(value)

    def placed(self, now: datetime) -> Span:
        """The last whole month (or year) that had ended by `now`, unless the conf says which days."""
        if self.first_day and self.last_day:
            if self.first_day > self.last_day:
                raise ConfError(f"first_day {self.first_day} is after last_day {self.last_day}: exchange them")
            return self
        first, last = last_whole(self.unit, now)
        return self.model_copy(update={"first_day": self.first_day or first, "last_day": self.last_day or last})

    def subject(self) -> list[str]:
        """See Conf."""
        return [self.instrument, str(self.first_day), str(self.last_day)]

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {"instrument": self.instrument, "first_day": self.first_day, "last_day": self.last_day}


class Template(Span):
    """Templates of a span of days, on a sky map."""

    skymap: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="sky map; empty: the one named as the instrument")

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {**super().parameters(), "skymap": self.skymap or self.instrument}


class Year(Span):
    """A year's calibration products, then a release."""

    unit = "year"
    skymap: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="sky map; empty: the one named as the instrument")
    release: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="the release that follows; empty: none")
    number: int = Field(default=1, ge=1, le=63, description="number of that release, part of every id of it: never one twice")

    def release_conf(self) -> dict[str, Any]:
        """The conf of the release that follows."""
        keys = ("instrument", "variant", "serial", "first_day", "last_day", "skymap", "release", "number")
        return self.model_dump(include=set(keys))


class Release(Template):
    """A data release: about a tenth of the sky first, a person's approval, then all."""

    scheduled = False
    release: str = Field(pattern=_WORD, description="name of the release: collection releases/NAME")
    number: int = Field(default=1, ge=1, le=63, description="number of the release, part of every id of it: never one twice")
    mini_every: int = Field(default=10, ge=1, description="the mini-release takes every n-th patch: 10 is some 10 % of the sky")
    auto_approve: bool = Field(default=False, description="approve without a person, recorded as `demo`: for demonstrations")

    def subject(self) -> list[str]:
        """See Conf."""
        return [self.release]

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {**super().parameters(), "release": self.release, "number": self.number}


SCHEMAS: dict[str, type[Conf]] = {
    "calibration_daily": Day,
    "calibration_monthly": Span,
    "calibration_annual": Year,
    "template": Template,
    "nightly": Night,
    "offline": Offline,
    "release": Release,
}
"""The form of each DAG's conf, by DAG id."""


def read(dag: str, given: Mapping[str, Any], now: datetime | None = None) -> Conf:
    """The conf of a run of `dag`; ConfError has one line for each thing that is wrong. `now` places scheduled spans."""
    conf = parse(SCHEMAS[dag], dict(given), what=f"conf of {dag}", error=ConfError)
    return conf.placed(now or datetime.now(UTC))


def last_whole(unit: Literal["month", "year"], now: datetime) -> tuple[int, int]:
    """First and last day (YYYYMMDD) of the last month or year that had ended by `now`."""
    start = now.date().replace(day=1) if unit == "month" else now.date().replace(month=1, day=1)
    last = start - timedelta(days=1)
    first = last.replace(day=1) if unit == "month" else last.replace(month=1, day=1)
    return _number(first), _number(last)


def _number(day: date) -> int:
    return int(day.strftime("%Y%m%d"))


def _checked_day(value: int) -> int:
    try:
        day = datetime.strptime(str(value), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{value} is no day: write YYYYMMDD") from error
    if day.year < 1950:
        raise ValueError(f"{value} is no day: write YYYYMMDD")
    return value

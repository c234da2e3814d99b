"""What a run may be asked for: the `conf` of each API-triggered DAG as a validated, versioned model; no Airflow here.

A key that no model knows is an error that names the nearest known one. Names of runs and of campaigns follow from the conf
alone, so that the same command given twice is the same run and the same campaign.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from backbone.errors import PermanentError
from backbone.messages.prompt import KnownField
from operators.days import checked_day, last_whole, number_of
from workflow.models import Strict, parse
from workflow.production import Production
from workflow.shaping import shaped

PRODUCTS = ("bias", "dark", "flat")
"""Steps of the daily calibrations that make something; the others see to what was made."""
_Field = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")]
_Text = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:+/-]*$")]
_WORD = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class ConfError(PermanentError, ValueError):
    """A run was asked for with a conf that cannot be used."""


class Form(Strict):
    """What a run may say."""

    scheduled: ClassVar[bool] = False
    """Whether the scheduler starts runs of it too, which say nothing: every key then has a default."""

    version: Literal[1] = Field(default=1, description="version of this form; changes when its meaning does")


class Conf(Form):
    """Common to all runs of productions."""

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

    def production(self, path: Path) -> Path | dict[str, Any]:
        """The production of this run: the file, or what the run makes of it."""
        return path

    def placed(self, now: datetime) -> Conf:
        """With what only the time of the run can say filled in; the same for confs that say everything."""
        return self


class Day(Conf):
    """One observing day of one instrument."""

    instrument: str = Field(pattern=_WORD, description="instrument, as registered in the Butler")
    day_obs: int = Field(description="observing day, YYYYMMDD")

    @field_validator("day_obs")
    @classmethod
    def _a_date(cls, value: int) -> int:
        return checked_day(value)

    def subject(self) -> list[str]:
        """See Conf."""
        return [self.instrument, str(self.day_obs)]

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {"instrument": self.instrument, "day_obs": self.day_obs}


class Calibration(Day):
    """One observing day's calibrations: a data ID, which products, and settings of their tasks over those of the pipeline."""

    pipeline: Literal["all", "bias", "dark", "flat"] = Field(
        default="all", description="product to make; all: one after the other"
    )
    detectors: list[Annotated[int, Field(ge=0)]] = Field(default=[], description="detectors to make it for; none: all")
    overrides: dict[str, dict[_Field, _Text | int | float | bool]] = Field(
        default={}, description="task label → field → value: {combineBias: {minimum: 15}}"
    )
    approve: Literal["rule", "person"] = Field(
        default="rule", description="rule: what passed verification is approved; person: it waits for `pachon calib approve`"
    )
    reason: str = Field(default="", description="why it is made, for the audit")

    def subject(self) -> list[str]:
        """See Conf."""
        chosen = [] if self.pipeline == "all" else [self.pipeline]
        digest = hashlib.sha256(json.dumps([self.detectors, self.overrides], sort_keys=True).encode()).hexdigest()[:8]
        return [*super().subject(), *chosen, *([digest] if self.detectors or self.overrides else [])]

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {**super().parameters(), "approve": self.approve}

    def production(self, path: Path) -> Path | dict[str, Any]:
        """See Conf."""
        if self.pipeline == "all" and not self.detectors and not self.overrides:
            return path
        whole = Production.load(path)
        without = [] if self.pipeline == "all" else [name for name in PRODUCTS if name != self.pipeline]
        run = shaped(whole, without=without, only={"detector": self.detectors}, config=self.overrides)
        return run.model_dump(mode="json", exclude_unset=True)


class Night(Day):
    """One night of one instrument, on a sky map: prompt and offline processing."""

    skymap: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="sky map; empty: the one named as the instrument")

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {**super().parameters(), "skymap": self.skymap or self.instrument}


class PromptNight(Night):
    """A night as it is processed: in batch when it is in, or by prompt workers while it goes on."""

    mode: Literal["batch", "prompt"] = Field(
        default="batch", description="batch: the night's frames when all are in; prompt: workers are armed, each visit in 60 s"
    )
    detectors: list[int] = Field(default=[], description="prompt: detectors to process; empty: all that the camera has")
    fields: list[KnownField] = Field(
        default=[], description="prompt: fields that the night will see; what they need is loaded before the first visit"
    )
    ends: str = Field(
        default="", description="prompt: when the night is over (UTC, 2026-01-31T10:00:00); empty: when the observatory says so"
    )

    @field_validator("ends")
    @classmethod
    def _a_time(cls, value: str) -> str:
        if value:
            datetime.fromisoformat(value)
        return value

    def ends_at(self) -> float | None:
        """Seconds since 1970 (UTC); None where nobody knows yet."""
        if not self.ends:
            return None
        end = datetime.fromisoformat(self.ends)
        return (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp()


class Offline(Night):
    """The day after: the night's backlog, then objects and tracklets."""

    night: str = Field(default="", description="campaign of the night; empty: the first of this instrument and day")

    def night_campaigns(self) -> list[str]:
        """The campaigns whose backlog may be worked off: of a night in batch, or what a prompt night left; the first there is."""
        return [self.night] if self.night else [self.campaign_of("nightly"), f"{self.campaign_of('prompt')}_late"]

    def campaign_of(self, kind: str) -> str:
        """The first of this instrument and day."""
        return Night(instrument=self.instrument, day_obs=self.day_obs).campaign(kind)


class Span(Conf):
    """A span of observing days: monthly and annual products. Scheduled runs take the last whole month or year."""

    scheduled = True
    unit: ClassVar[Literal["month", "year"]] = "month"
    first_day: int = Field(default=0, description="first observing day, YYYYMMDD; 0: of the last whole month (or year)")
    last_day: int = Field(default=0, description="last observing day, YYYYMMDD; 0: of the last whole month (or year)")

    @field_validator("first_day", "last_day")
    @classmethod
    def _dates(cls, value: int) -> int:
        return value and checked_day(value)

    def placed(self, now: datetime) -> Span:
        """The last whole month (or year) that had ended by `now`, unless the conf says which days."""
        first, last = last_whole(self.unit, now)
        placed = self.model_copy(update={"first_day": self.first_day or first, "last_day": self.last_day or last})
        if placed.first_day > placed.last_day:
            advice = "exchange them" if self.first_day and self.last_day else "say both"
            raise ConfError(f"first_day {placed.first_day} is after last_day {placed.last_day}: {advice}")
        return placed

    def subject(self) -> list[str]:
        """See Conf."""
        return [self.instrument, str(self.first_day), str(self.last_day)]

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {"instrument": self.instrument, "first_day": self.first_day, "last_day": self.last_day}


class Month(Span):
    """A month's calibration products."""

    sky: str = Field(
        default="science",
        pattern=_WORD,
        description="observation type of the frames of the sky; none: no fringes or illumination, crosstalk unverified there",
    )
    pixels: str = Field(
        default="flat",
        pattern=_WORD,
        description="observation type of the frames that bad pixels are judged by; none: no map",
    )

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {**super().parameters(), "sky": self.sky, "pixels": self.pixels}


class Template(Span):
    """Templates of a span of days, on a sky map."""

    skymap: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="sky map; empty: the one named as the instrument")

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {**super().parameters(), "skymap": self.skymap or self.instrument}


class Year(Month):
    """A year's calibration products, then a release."""

    unit = "year"
    auxtel: str = Field(
        default="", pattern=r"^[A-Za-z0-9_.-]*$", description="instrument of the auxiliary telescope; empty: there is none"
    )
    skymap: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="sky map; empty: the one named as the instrument")
    release: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="the release that follows; empty: none")
    number: int = Field(default=1, ge=1, le=63, description="number of that release, part of every id of it: never one twice")

    def parameters(self) -> dict[str, Any]:
        """See Conf."""
        return {**super().parameters(), "auxtel": self.auxtel or self.instrument}

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


class TemplateWatch(Template):
    """Whether templates are missing, and of which days they could be made."""

    reach_days: int = Field(default=365, ge=1, le=366, description="days back that a template may be made of; a year at most")
    least_visits: int = Field(default=3, ge=1, description="visits of a patch in a band that a template is worth making of")

    def placed(self, now: datetime) -> TemplateWatch:
        """The days until now, unless the conf says which."""
        days = {"first_day": number_of((now - timedelta(days=self.reach_days)).date()), "last_day": number_of(now.date())}
        return self.model_copy(update={name: getattr(self, name) or day for name, day in days.items()})


class Morning(Form):
    """What is written of an observing day when it has ended. Scheduled runs take the last day that has."""

    scheduled = True
    instrument: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$", description="instrument; empty: every one of that day")
    day_obs: int = Field(default=0, description="observing day, YYYYMMDD; 0: the one that ended last, at 12:00 UTC")

    @field_validator("day_obs")
    @classmethod
    def _a_date(cls, value: int) -> int:
        return value and checked_day(value)

    def day(self, now: datetime) -> int:
        """The day, at the time `now`."""
        return self.day_obs or number_of((now.astimezone(UTC) - timedelta(hours=36)).date())


class Care(Form):
    """Care of the data backbone: all places, unless one is named."""

    scheduled = True
    endpoint: str = Field(default="", pattern=r"^[a-z0-9_-]*$", description="the endpoint to look after; empty: all")


class Scrubbing(Care):
    """Reading objects again and comparing their checksums."""

    minutes: float = Field(default=30.0, gt=0, description="stop after so long; the next run goes on from there")
    mb_per_s: float = Field(default=20.0, gt=0, description="MB/s to read at most at one endpoint: new data has the rest")


SCHEMAS: dict[str, type[Form]] = {
    "calibration_daily": Calibration,
    "calibration_check": Day,
    "calibration_monthly": Month,
    "calibration_annual": Year,
    "calibration_report": Morning,
    "template": Template,
    "template_generation": TemplateWatch,
    "nightly": PromptNight,
    "offline": Offline,
    "release": Release,
    "backbone_replication": Care,
    "backbone_scrub": Scrubbing,
    "backbone_expiry": Care,
}
"""The form of each DAG's conf, by DAG id."""


def read(dag: str, given: Mapping[str, Any], now: datetime | None = None) -> Conf:
    """The conf of a run of the production `dag`; ConfError has one line for each thing that is wrong. `now` places scheduled
    spans.
    """
    conf = _form(dag, given)
    if not isinstance(conf, Conf):
        raise ConfError(f"{dag} is no production: it makes no campaign")
    return conf.placed(now or datetime.now(UTC))


def read_care(dag: str, given: Mapping[str, Any]) -> Care:
    """The conf of a run of `dag`, which looks after the backbone; ConfError as for `read`."""
    conf = _form(dag, given)
    if not isinstance(conf, Care):
        raise ConfError(f"{dag} does not look after the backbone")
    return conf


def read_morning(dag: str, given: Mapping[str, Any]) -> Morning:
    """The conf of a run of `dag`, which writes of a day that has ended; ConfError as for `read`."""
    conf = _form(dag, given)
    if not isinstance(conf, Morning):
        raise ConfError(f"{dag} writes nothing of a day")
    return conf


def _form(dag: str, given: Mapping[str, Any]) -> Form:
    return parse(SCHEMAS[dag], dict(given), what=f"conf of {dag}", error=ConfError)

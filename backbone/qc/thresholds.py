"""What metrics are held to, as people write it (YAML) and as it is in force (the table, which alarms name)."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
import yaml
from pydantic import Field, model_validator
from sqlalchemy.engine import Connection

from backbone.errors import PermanentError
from backbone.models import Strict, parse
from backbone.policy import Duration
from backbone.qc import tables as t
from backbone.qc.metric import Metric


class ThresholdError(PermanentError, ValueError):
    """A file of thresholds that cannot be used."""


class Threshold(Strict):
    """The band that a metric must keep to; what could not be measured is outside of it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    metric: str = Field(description="glob on names of metrics")
    instrument: str = Field(default="*", description="glob")
    low: float | None = Field(default=None, description="least good value")
    high: float | None = Field(default=None, description="largest good value")
    severity: Literal["warning", "error"] = "warning"
    escalate_after: Duration = Field(
        default=86400.0, description="an alarm that nobody acknowledged rises after so long, and again"
    )
    why: str = Field(description="what a crossing hints at: the first thing that who is on duty reads")

    @model_validator(mode="after")
    def _a_band(self) -> Threshold:
        if self.low is None and self.high is None:
            raise ValueError(f"threshold {self.name} needs low or high, or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"threshold {self.name}: low {self.low:g} is above high {self.high:g}")
        return self

    def concerns(self, metric: Metric) -> bool:
        """Whether it is about this metric."""
        return fnmatchcase(metric.name, self.metric) and fnmatchcase(metric.instrument, self.instrument)

    def crossing(self, metric: Metric) -> str:
        """In words, how the metric crosses it; empty where it does not."""
        value = metric.known
        if value is None:
            return f"{metric.name} could not be measured"
        said = f"{metric.name} {value:.4g}{' ' + metric.unit if metric.unit else ''}"
        if self.low is not None and value < self.low:
            return f"{said} is below {self.low:g}"
        if self.high is not None and value > self.high:
            return f"{said} is above {self.high:g}"
        return ""


class _File(Strict):
    thresholds: tuple[Threshold, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> _File:
        names = [threshold.name for threshold in self.thresholds]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"thresholds named twice: {', '.join(twice)}")
        return self


def read_thresholds(path: Path | None = None) -> tuple[Threshold, ...]:
    """Those of a file, or those that come with the program; ThresholdError says what is wrong and where."""
    what = str(path or "thresholds.yaml")
    try:
        text = path.read_text() if path else resources.files("backbone.qc").joinpath("thresholds.yaml").read_text()
        return parse(_File, yaml.safe_load(text), what=what, error=ThresholdError).thresholds
    except OSError as error:
        raise ThresholdError(f"{what}: cannot be read ({error.strerror}); give the path of a YAML file of thresholds") from error
    except yaml.YAMLError as error:
        raise ThresholdError(f"{what}: not readable as YAML: {error}") from error


def stored(connection: Connection) -> tuple[Threshold, ...]:
    """Those in force, by name."""
    rows = connection.execute(sa.select(t.threshold).order_by(t.threshold.c.name)).all()
    return tuple(Threshold(**{name: getattr(row, name) for name in Threshold.model_fields}) for row in rows)


def store(connection: Connection, thresholds: Sequence[Threshold], *, actor: str, at: float) -> None:
    """Put these in the place of all that are in force."""
    connection.execute(t.threshold.delete())
    if thresholds:
        connection.execute(t.threshold.insert(), [{**one.model_dump(), "actor": actor, "at": at} for one in thresholds])

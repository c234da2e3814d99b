"""What a campaign is made from: the model of `dags/productions/NAME.yaml`, its parameters, and their safe use in queries."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import string
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from workflow.errors import ProductionError
from workflow.job import NULL
from workflow.models import Strict, nearest, parse
from workflow.rules import Hosts, Memory, Retries, Rule

# Nothing of this can end a quoted string of a Butler query, leave a collection's name, or climb out of a path.
_SAFE = re.compile(r"[A-Za-z0-9_.:+/-]*")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
BUILT_IN = ("campaign", "step")

Scalar = Literal["string", "integer", "number", "date"]
Value = str | int | float | list[str] | list[int] | list[float]


class Parameter(Strict):
    """What a run may say; without a default it must."""

    type: Literal["string", "integer", "number", "date", "list"]
    items: Scalar = Field(default="string", description="of a list: the type of its items")
    default: Any = None
    description: str = ""

    @property
    def required(self) -> bool:
        """Whether a run must say it."""
        return "default" not in self.model_fields_set

    def value(self, name: str, given: Any) -> Value:
        """`given` (perhaps as text) as this type; ProductionError if it cannot be one."""
        if self.type == "list":
            parts = [p.strip() for p in given.split(",") if p.strip()] if isinstance(given, str) else given
            if not isinstance(parts, (list, tuple)):
                raise ProductionError(f"parameter {name}: {given!r} is no list; write a,b,c")
            return [_scalar(name, self.items, part) for part in parts]  # type: ignore[return-value]
        return _scalar(name, self.type, given)


def _scalar(name: str, kind: str, given: Any) -> str | int | float:
    try:
        if isinstance(given, bool):
            raise ValueError("true and false are no values of parameters")
        if kind == "integer":
            if isinstance(given, float) and not given.is_integer():
                raise ValueError("not a whole number")
            return int(given)
        if kind == "number":
            return float(given)
        if kind == "date":
            return given.isoformat() if isinstance(given, date) else date.fromisoformat(str(given)).isoformat()
    except (TypeError, ValueError) as error:
        raise ProductionError(f"parameter {name}: {given!r} is no {kind} ({error})") from error
    if not isinstance(given, str) or not _SAFE.fullmatch(given) or ".." in given:
        raise ProductionError(f"parameter {name}: {given!r} must be text of letters, digits and _ . : + / - alone")
    return given


def _text(value: Value) -> str:
    """As it stands in a query or a name; items of a list separated by commas, text items in quotes, for IN (…)."""
    if isinstance(value, list):
        return ",".join(f"'{item}'" if isinstance(item, str) else str(item) for item in value)
    return str(value)


class Chunk(Strict):
    """How quanta are put together into jobs."""

    target_s: float = Field(default=60, gt=0, description="wall time of a job, by what earlier attempts took")
    max_quanta: int = Field(default=500, ge=1)


class Certify(Strict):
    """Certify datasets of this step and those before it as calibrations, valid from a date on."""

    dataset_types: tuple[str, ...] = Field(min_length=1)
    into: str = Field(description="CHAINED collection; the certification itself is {into}/{campaign}/{step}")
    begin: str = Field(description="YYYYMMDD or YYYY-MM-DD: valid from the beginning (TAI) of that day, without end")
    verified_by: str = Field(
        default="", description="type of the verdicts, * for the product's own: what has none, or did not pass, is not certified"
    )
    approve: str = Field(
        default="rule", description="rule: at once, since all of it passed; person: it waits for `pachon calib approve`"
    )


class Metrics(Strict):
    """Numbers that the step's tasks put into documents (a list `metrics`) go to quality control."""

    dataset_types: tuple[str, ...] = Field(min_length=1)
    instrument: str = "{instrument}"
    day_obs: str = Field(description="YYYYMMDD: the day that the numbers are of")


class Finish(Strict):
    """One thing done when a step is published; each can be repeated without harm."""

    certify: Certify | None = None
    chain: str | None = Field(default=None, description="CHAINED collection that gets the step's RUN in front")
    backlog: bool | None = Field(default=None, description="what failed or never ran becomes work for later")
    metrics: Metrics | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Finish:
        if len(self.model_fields_set) != 1:
            raise ValueError("each entry of finish is one of certify, chain, backlog, metrics")
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(iter(self.model_fields_set))


class Step(Strict):
    """One pipeline subset over the campaign."""

    name: str = Field(pattern=_NAME)
    pipeline: str = Field(description="resource://payloads/pipelines/NAME.yaml#SUBSET, or a path")
    inputs: tuple[str, ...] = Field(default=(), description="collections, after the RUNs of the campaign's earlier steps")
    where: str = ""
    group_by: tuple[str, ...] = Field(default=(), description="dimensions: one graph for each of their values; none: one graph")
    share_by: tuple[str, ...] = Field(
        default=(), description="as group_by, where the work is shared out among several sites: else fewer graphs are cheaper"
    )
    chunk: Chunk = Chunk()
    on_failure: Literal["stop", "continue"] = "stop"
    allow_empty: bool = False
    memory_mb: int | None = Field(default=None, description="of a job, until something better is learned")
    retries: Retries | None = Field(default=None, description="over the production's, class by class")
    memory: Memory | None = Field(default=None, description="over the production's")
    time_limit_s: float | None = Field(default=None, gt=0, description="a quantum that runs longer is hung")
    finish: tuple[Finish, ...] = ()
    config: dict[str, dict[str, str | int | float | bool]] = Field(
        default_factory=dict,
        description="task label → field (dotted) → value, over the pipeline's own; texts may name parameters",
    )

    def settings(self, campaign: str, values: Mapping[str, Value]) -> tuple[tuple[str, str, Value | bool], ...]:
        """The config with parameters in place, as (label, field, value); a text that is one parameter keeps its type."""
        whole = {f"{{{name}}}": value for name, value in values.items()}
        return tuple(
            (label, field, self._setting(value, whole, campaign, values))
            for label, fields in self.config.items()
            for field, value in fields.items()
        )

    def _setting(
        self, value: Value | bool, whole: Mapping[str, Value], campaign: str, values: Mapping[str, Value]
    ) -> Value | bool:
        if not isinstance(value, str):
            return value
        return whole[value] if value in whole else filled(value, campaign=campaign, step=self.name, values=values)

    def templates(self) -> list[str]:
        """Every text of the step that may name parameters."""
        texts = [self.where, *self.inputs]
        for action in self.finish:
            texts += [action.certify.into, action.certify.begin, action.certify.approve] if action.certify else []
            texts += [action.metrics.instrument, action.metrics.day_obs] if action.metrics else []
            texts += [action.chain] if action.chain else []
        return texts + [value for fields in self.config.values() for value in fields.values() if isinstance(value, str)]


class Production(Strict):
    """A production as its YAML says it."""

    production: str = Field(pattern=_NAME)
    kind: Literal["nightly", "offline", "cpp", "drp"]
    version: int = 1
    description: str = ""
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    steps: tuple[Step, ...] = Field(min_length=1)
    queue: Literal["prompt", "offline", "ocs_batch", "cpp", "drp"] | None = Field(
        default=None, description="priority class of its jobs; default: that of its kind"
    )
    share: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="site → part of the groups; sites that an installation has not are left out"
    )
    only_sites: tuple[str, ...] = Field(default=(), description="none: all")
    never_sites: tuple[str, ...] = ()
    only_machines: tuple[str, ...] = Field(default=(), description="host names; none: all")
    never_machines: tuple[str, ...] = ()
    retries: Retries = Retries()
    memory: Memory = Memory()
    hosts: Hosts = Hosts()
    rules: tuple[Rule, ...] = Field(default=(), description="first match counts, over the budgets; see workflow/rules.py")

    @property
    def priority_class(self) -> str:
        """Which of the pools' classes its jobs belong to."""
        return self.queue or {"nightly": "prompt"}.get(self.kind, self.kind)

    @field_validator("steps")
    @classmethod
    def _names_differ(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        names = [step.name for step in steps]
        if len(set(names)) < len(names):
            raise ValueError(f"two steps of one name among {', '.join(names)}")
        return steps

    @model_validator(mode="after")
    def _known_parameters_only(self) -> Production:
        known = [*self.parameters, *BUILT_IN]
        for step in self.steps:
            for template in step.templates():
                for _, name, _, _ in string.Formatter().parse(template):
                    if name is not None and name not in known:
                        raise ValueError(f"step {step.name}: {template!r} names {{{name}}}; {nearest(name, known)}")
        for name in self.parameters:
            if name in BUILT_IN:
                raise ValueError(f"parameter {name}: the name is taken")
        return self

    @model_validator(mode="after")
    def _rules_name_steps(self) -> Production:
        names = [step.name for step in self.steps]
        for rule in self.rules:
            if not fnmatch.filter(names, rule.step):
                raise ValueError(f"a rule is for step {rule.step!r}; {nearest(rule.step, names)}")
        return self

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any]) -> Production:
        """From a file, or from what one would hold; ProductionError names what is wrong and where."""
        if isinstance(source, Mapping):
            return parse(cls, source, what=f"production {source.get('production', '?')}", error=ProductionError)
        path = Path(source)
        try:
            data = yaml.safe_load(path.read_text())
        except OSError as error:
            raise ProductionError(f"{path}: cannot be read ({error.strerror}); give the path of a production's YAML") from error
        except yaml.YAMLError as error:
            raise ProductionError(f"{path}: not readable as YAML: {error}") from error
        production = parse(cls, data, what=str(path), error=ProductionError)
        return production.anchored(path.parent)

    def anchored(self, folder: Path) -> Production:
        """Pipelines named by a relative path made absolute from the production's own folder."""
        steps = tuple(
            step
            if "://" in step.pipeline or step.pipeline.startswith(("/", NULL))
            else step.model_copy(update={"pipeline": str(folder.absolute() / step.pipeline)})
            for step in self.steps
        )
        return self.model_copy(update={"steps": steps})

    def values(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """Parameters of one run, validated, typed, defaults filled in; ProductionError for unknown, missing or bad ones."""
        for name in given:
            if name not in self.parameters:
                raise ProductionError(f"{self.production} has no parameter {name!r}; {nearest(name, list(self.parameters))}")
        missing = [name for name, p in self.parameters.items() if p.required and name not in given]
        if missing:
            raise ProductionError(f"{self.production} needs {', '.join(missing)}: give --param {missing[0]}=VALUE")
        named = {name: given.get(name, p.default) for name, p in self.parameters.items()}
        return {name: self.parameters[name].value(name, value) for name, value in named.items()}

    def digest(self, values: Mapping[str, Value]) -> str:
        """What makes two campaigns the same: the production's text and the parameters' values, not their spelling."""
        # Without what is at its default: a field that a later version adds must not make another campaign of a running one.
        text = json.dumps([self.model_dump(mode="json", exclude_defaults=True), dict(values)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def filled(template: str, *, campaign: str, step: str, values: Mapping[str, Value]) -> str:
    """A step's text with parameters in place; values were made safe by `Production.values`."""
    return template.format_map({**{k: _text(v) for k, v in values.items()}, "campaign": campaign, "step": step})

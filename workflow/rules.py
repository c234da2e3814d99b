"""What is to become of failures, as data: budgets by class, growth of memory, hosts to avoid, and rules over all of these.

Part of a production's YAML; every default is that of an ordinary production. A rule may be `passive`: it then changes nothing,
and the campaign's report says what it would have done.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field, field_validator

from workflow.models import Strict
from workflow.states import FailureClass


class Retries(Strict):
    """How often a quantum is tried again after a failure of each class."""

    infrastructure: int = Field(default=3, ge=0)
    out_of_memory: int = Field(default=3, ge=0)
    signal: int = Field(default=1, ge=0)
    science: int = Field(default=0, ge=0)
    missing_input: int = Field(default=1, ge=0)
    preempted: int = Field(default=10, ge=0)
    timeout: int = Field(default=1, ge=0)

    def budget(self, failure: FailureClass) -> int:
        """Further attempts after failures of this class."""
        return int(getattr(self, failure.value))

    def under(self, narrower: Retries | None) -> Retries:
        """These, with what a step says over them, class by class."""
        return self if narrower is None else self.model_copy(update=narrower.model_dump(exclude_unset=True))


class Memory(Strict):
    """What a quantum is given after it ran out of memory; once it succeeds, its task's label is given that from then on."""

    factor: float | None = Field(default=None, gt=1, description="times the job's memory; default: the engine's memory_growth")
    max_mb: int | None = Field(default=None, ge=256, description="never more; default: the engine's memory_max_mb")


class Hosts(Strict):
    """When a host is avoided. Never more than half of a site's hosts are: then the site is at fault, and a person must look."""

    failures: int = Field(default=3, ge=1, description="jobs that failed for infrastructure's sake on one host ...")
    within_s: float = Field(default=3600, gt=0, description="... within this time make it one to avoid")
    avoid_s: float = Field(default=7200, gt=0, description="for this long after the last of them")


class Rule(Strict):
    """Other treatment for failures that match all that it names; of several rules the first that matches counts."""

    failure: FailureClass | None = Field(default=None, description="class; none: any")
    step: str = Field(default="*", description="pattern of the step's name")
    label: str = Field(default="*", description="pattern of the task's label")
    error: str = Field(default="", description="regular expression searched for in the error's first line")
    retries: int | None = Field(default=None, ge=0, description="budget in place of the class's")
    memory: Memory = Memory()
    passive: bool = Field(default=False, description="change nothing, report what it would have done")

    @field_validator("error")
    @classmethod
    def _compiles(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from error
        return text

    def matches(self, case: Case) -> bool:
        """Whether it is about this failure."""
        return (
            self.failure in (None, case.failure)
            and fnmatchcase(case.step, self.step)
            and fnmatchcase(case.label, self.label)
            and re.search(self.error, case.error.partition("\n")[0]) is not None
        )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One failed attempt at one quantum."""

    step: str
    label: str
    failure: FailureClass
    error: str
    failures: int
    """Of this class at this quantum so far, this one included, those forgiven left out."""
    memory_mb: int
    """That its job had."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of the quantum; `memory_mb` is what it gets from now on, where that changes."""

    action: Literal["retry", "grow", "fail"]
    memory_mb: int | None = None

    def __str__(self) -> str:
        return f"retry with {self.memory_mb} MB" if self.action == "grow" else self.action


@dataclass(frozen=True, kw_only=True)
class Passive:
    """A passive rule's other opinion."""

    rule: int
    """Its place in the production's list, from 0."""
    would: Verdict


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Everything that decides about a step's failures."""

    retries: Retries
    memory_factor: float
    memory_max_mb: int
    rules: Sequence[Rule] = ()

    def judge(self, case: Case) -> tuple[Verdict, list[Passive]]:
        """What becomes of it, and which passive rules before the one that counts would have it otherwise."""
        other: list[tuple[int, Rule]] = []
        counts: Rule | None = None
        for number, rule in enumerate(self.rules):
            if not rule.matches(case):
                continue
            if not rule.passive:
                counts = rule
                break
            other.append((number, rule))
        verdict = self._by(counts, case)
        opinions = [Passive(rule=number, would=self._by(rule, case)) for number, rule in other]
        return verdict, [opinion for opinion in opinions if opinion.would != verdict]

    def _by(self, rule: Rule | None, case: Case) -> Verdict:
        budget, factor, max_mb = self.retries.budget(case.failure), self.memory_factor, self.memory_max_mb
        if rule is not None:
            budget = budget if rule.retries is None else rule.retries
            factor, max_mb = rule.memory.factor or factor, rule.memory.max_mb or max_mb
        if case.failures > budget:
            return Verdict(action="fail")
        if case.failure is not FailureClass.OUT_OF_MEMORY:
            return Verdict(action="retry")
        if case.memory_mb >= max_mb:  # the same again would end the same way
            return Verdict(action="fail")
        return Verdict(action="grow", memory_mb=min(max_mb, math.ceil(case.memory_mb * factor)))

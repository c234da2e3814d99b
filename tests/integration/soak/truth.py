"""What each quantum of the soak does, and where a ledger differs from that: pure, so that the judge itself can be judged.

A quantum is (label, number): `first` reads input `number`, `second` reads what `first` made of it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Quantum = tuple[str, int]
Kind = Literal["lost", "twice", "wrong_class", "over_budget"]
LABELS = ("first", "second")

BUDGETS = {"out_of_memory": 2, "signal": 2, "science": 0, "timeout": 1, "infrastructure": 30, "preempted": 50, "missing_input": 2}
"""Of classes that the killer causes too (a killed child is a signal), with room for him."""
KILLERS_CLASSES = frozenset({"infrastructure", "preempted", "signal"})
"""What a blow may do to any quantum."""


class Deed(NamedTuple):
    """A way to misbehave."""

    share: float
    """Of all quanta."""
    does: Mapping[str, object]
    """As tests/workflow/tiny understands it."""
    state: str
    """What it must come to."""
    cause: str | None
    """Class of the failures that it brings upon itself."""


DEEDS = {
    "memory": Deed(0.005, {"do": "memory", "mb": 2600}, "SUCCEEDED", "out_of_memory"),
    "no end of memory": Deed(0.005, {"do": "memory", "mb": 30_000}, "FAILED", "out_of_memory"),
    "segfault": Deed(0.01, {"do": "segfault"}, "FAILED", "signal"),
    "science": Deed(0.02, {"do": "raise"}, "FAILED", "science"),
    "hang": Deed(0.01, {"do": "hang"}, "FAILED", "timeout"),
    "slow": Deed(0.05, {"do": "slow", "s": 0.5}, "SUCCEEDED", None),
}
GOOD = Deed(0.0, {}, "SUCCEEDED", None)


@dataclass(frozen=True)
class Truth:
    """Every quantum of `inputs` pairs that misbehaves, and how."""

    inputs: int
    deeds: Mapping[Quantum, str]

    @classmethod
    def drawn(cls, inputs: int, seed: int) -> Truth:
        """The shares are exact."""
        quanta = [(label, number) for label in LABELS for number in range(inputs)]
        count = len(quanta)
        random.Random(seed).shuffle(quanta)  # noqa: S311 (not secrets)
        found = {quanta.pop(): name for name, deed in DEEDS.items() for _ in range(round(deed.share * count))}
        return cls(inputs, found)

    def deed(self, label: str, number: int) -> Deed:
        """What a quantum does."""
        name = self.deeds.get((label, number))
        return DEEDS[name] if name else GOOD

    def value(self, number: int) -> dict[str, object]:
        """What goes into an input: the deed of `first`, and what it hands on to `second`."""
        return {**self.deed("first", number).does, "then": dict(self.deed("second", number).does)}

    def state(self, label: str, number: int) -> str:
        """What a quantum must come to."""
        if label == "second" and self.deed("first", number).state != "SUCCEEDED":
            return "PRUNED"
        return self.deed(label, number).state


@dataclass(frozen=True)
class Books:
    """What a ledger says at the end."""

    states: list[tuple[Quantum, str]]
    """A row for each quantum."""
    failures: Mapping[Quantum, Counter[str]] = field(default_factory=dict)
    """Attempts by class."""
    accepted: Counter[Quantum] = field(default_factory=Counter)
    published: Counter[Quantum] = field(default_factory=Counter)


class Difference(NamedTuple):
    """One place where the ledger is not the truth."""

    kind: Kind
    words: str


def differences(truth: Truth, books: Books) -> Iterator[Difference]:
    """All of them."""
    states = dict(books.states)
    if len(states) != len(books.states):
        yield Difference("twice", f"{len(books.states)} rows of {len(states)} quanta")
    expected = {(label, number) for label in LABELS for number in range(truth.inputs)}
    for one in sorted(expected ^ states.keys()):
        yield Difference("lost", f"{one} is {'missing' if one in expected else 'nobody knows whence'}")
    for one in sorted(expected & states.keys()):
        yield from _ended(truth, books, one, states[one])
        yield from _failed(truth, books.failures.get(one, Counter()), one)
    if not any(mine["out_of_memory"] for one, mine in books.failures.items() if truth.deeds.get(one) == "memory"):
        # The first must have failed for want of memory; what the label needs is remembered, and spares the others that.
        yield Difference("wrong_class", "nothing that needed more memory ever ran out of it")


def _ended(truth: Truth, books: Books, one: Quantum, state: str) -> Iterator[Difference]:
    expected = truth.state(*one)
    if state != expected:
        yield Difference("lost", f"{one} is {state}, not {expected}: {dict(books.failures.get(one, {}))}")
    times = (books.accepted[one], books.published[one])
    if max(times) > 1:
        yield Difference("twice", f"{one}: accepted, published {times} times")
    if (min(times) > 0) != (expected == "SUCCEEDED") or min(times) != max(times):
        yield Difference("lost", f"{one}: accepted, published {times} times, must be {expected}")


def _failed(truth: Truth, mine: Counter[str], one: Quantum) -> Iterator[Difference]:
    cause = truth.deed(*one).cause
    allowed = KILLERS_CLASSES | ({cause} if cause else set())
    if wrong := {name: n for name, n in mine.items() if name not in allowed}:
        yield Difference("wrong_class", f"{one} ({truth.deeds.get(one, 'good')}): {wrong}")
    if over := {name: n for name, n in mine.items() if n > BUDGETS[name] + 1}:
        yield Difference("over_budget", f"{one}: {over}")
    if cause and truth.state(*one) == "FAILED" and mine[cause] != BUDGETS[cause] + 1:
        yield Difference("wrong_class", f"{one}: {mine[cause]} times {cause}, its budget is {BUDGETS[cause]}: {dict(mine)}")

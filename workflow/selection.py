"""Which quanta of a campaign are meant: by step, task label, data ID, state, and the software they ran with.

Everything becomes one condition of a query: nothing is read to be thrown away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from backbone.errors import PermanentError
from workflow.ledger import Ledger
from workflow.ledger.audit import software
from workflow.ledger.tables import accepted, job, quantum
from workflow.models import Strict, parse
from workflow.states import QuantumState

_TERM = re.compile(r"(?P<name>[A-Za-z_]\w*)\s*(?P<op>=|!=|<=|>=|<|>|IN\b)\s*(?P<value>.+)", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"(-?\d+)\s*\.\.\s*(-?\d+)")
_VERSION = re.compile(r"(?P<package>[A-Za-z0-9_.-]+)\s*(?P<op>==|=|!=)\s*(?P<version>\S+)")
_OPS: dict[str, Callable[[Any, Any], Any]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class SelectionError(PermanentError, ValueError):
    """What is said about the quanta cannot be understood, or means none."""


class Selection(Strict):
    """All that is said must be true of a quantum; what is left out says nothing."""

    step: str | None = None
    label: str | None = None
    where: str = Field(default="", description="visit > 100 AND detector IN (1, 4..7); terms joined by AND")
    states: tuple[QuantumState, ...] = ()
    version: str | None = Field(
        default=None, description="PACKAGE=VERSION or PACKAGE!=VERSION of the accepted attempt's software"
    )

    @classmethod
    def said(cls, **what: Any) -> Selection:
        """Of what a person said, empty values left out; SelectionError for what is no state or has no such name."""
        return parse(cls, {key: value for key, value in what.items() if value}, what="the selection", error=SelectionError)

    def condition(self, ledger: Ledger, connection: Connection, campaign: str) -> sa.ColumnElement[bool]:
        """For a query of `quantum`; SelectionError for what cannot be understood."""
        parts: list[sa.ColumnElement[bool]] = [quantum.c.campaign == campaign, quantum.c.current]
        if self.step:
            parts.append(quantum.c.step == self.step)
        if self.label:
            parts.append(quantum.c.label == self.label)
        if self.states:
            parts.append(quantum.c.state.in_([s.value for s in self.states]))
        if self.version:
            ran = sa.select(accepted.c.quantum).join(job, job.c.id == accepted.c.job)
            parts.append(quantum.c.id.in_(ran.where(job.c.software.in_(_digests(connection, self.version)))))
        return sa.and_(*parts, *data_id_terms(ledger, self.where))

    def __str__(self) -> str:
        said = self.model_dump(mode="json", exclude_defaults=True)
        return ", ".join(f"{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in said.items()) or "everything"


def _digests(connection: Connection, asked: str) -> list[str]:
    match = _VERSION.fullmatch(asked.strip())
    if not match:
        raise SelectionError(f"version {asked!r}: write PACKAGE=VERSION or PACKAGE!=VERSION")
    package, wanted, differs = match["package"].lower(), match["version"], match["op"] == "!="
    rows = connection.execute(sa.select(software.c.digest, software.c.versions)).all()
    return [r.digest for r in rows if (r.versions.get(package) != wanted if differs else r.versions.get(package) == wanted)]


def data_id_terms(ledger: Ledger, where: str) -> list[sa.ColumnElement[bool]]:
    """Conditions on `quantum.data_id`; SelectionError names the term that cannot be understood."""
    return [_term(ledger, text.strip()) for text in re.split(r"\sAND\s", where, flags=re.IGNORECASE) if text.strip()]


def _term(ledger: Ledger, text: str) -> sa.ColumnElement[bool]:
    match = _TERM.fullmatch(text)
    if not match:
        raise SelectionError(f"{text!r}: write DIMENSION = VALUE, or != < <= > >=, or DIMENSION IN (1, 4..7); join by AND")
    column, op, value = _column(ledger, match["name"]), match["op"].upper(), match["value"].strip()
    if op != "IN":
        return _OPS[op](column, _literal(ledger, _scalar(text, value)))  # type: ignore[no-any-return]
    if not (value.startswith("(") and value.endswith(")")):
        raise SelectionError(f"{text!r}: write IN (1, 4..7)")
    either = []
    for item in value[1:-1].split(","):
        if bounds := _RANGE.fullmatch(item.strip()):
            low, high = (_literal(ledger, int(b)) for b in bounds.groups())
            either.append(sa.and_(column >= low, column <= high))
        else:
            either.append(column == _literal(ledger, _scalar(text, item.strip())))
    return sa.or_(*either)


def _scalar(term: str, text: str) -> int | float | str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if re.fullmatch(r"[\w.:+/-]+", text):
        return text
    raise SelectionError(f"{term!r}: {text!r} is neither a number nor a quoted text")


def _column(ledger: Ledger, name: str) -> sa.ColumnElement[Any]:
    """A dimension's value; NULL, which matches nothing, where the data ID has none."""
    if ledger.is_postgresql:
        return sa.cast(quantum.c.data_id, JSONB)[name]
    return sa.func.json_extract(quantum.c.data_id, f"$.{name}")


def _literal(ledger: Ledger, value: int | float | str) -> Any:
    """Compared as JSON on PostgreSQL: a text beside a number is then no match, where a cast would be an error."""
    return sa.cast(sa.literal(json.dumps(value), sa.Text), JSONB) if ledger.is_postgresql else value

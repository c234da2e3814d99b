"""Frames, a visit on a detector of a camera each: who told its alerts, which is done once, and what others brought afterwards.

Prompt workers and batch find sources in different ways, and so does batch after a hot fix: one source gets another id, or one id
another source. Ids alone would let a source be told twice. So the first who brings alerts of a frame tells them; those that
another brings of it are archived and withheld. A frame of which there was nothing to tell is open to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from services.alerts import tables as t
from services.alerts.book import AlertBook

_TELLER = t.batch.alias("teller")


@dataclass(frozen=True)
class Frame:
    """A visit on a detector; an empty `instrument` is any."""

    instrument: str
    visit: int
    detector: int


@dataclass(frozen=True)
class Seen:
    """What is known of a frame and of some alerts: `teller` is the batch that told it (None: none has), `told_by` its origin."""

    teller: int | None
    told_by: str
    known: frozenset[int]
    """Of these alerts, those that were told, unless others than the teller bring them: theirs may be other sources."""
    held: frozenset[int]
    """Those that were withheld from this origin before."""


@dataclass(frozen=True, kw_only=True)
class Withheld:
    """Alerts that one call brought of a frame that was told; times are seconds since 1970."""

    id: int
    instrument: str
    visit: int
    detector: int
    alerts: int
    origin: str
    at: float
    told_by: str
    told_at: float


def seen(book: AlertBook, connection: Connection, frame: Frame, origin: str, alerts: Sequence[int]) -> Seen:
    """As it is in this transaction. A teller who said no name may be anybody: what it told is known whoever brings it."""
    telling = sa.select(t.batch.c.id, t.batch.c.origin).join(t.frame, t.frame.c.batch == t.batch.c.id).order_by(t.batch.c.id)
    row = connection.execute(telling.where(*_is(t.frame, frame))).first()
    known: frozenset[int] = frozenset()
    if row is None or row.origin in ("", origin):
        known = frozenset(connection.scalars(sa.select(t.alert.c.id).where(book.among(t.alert.c.id, alerts))))
    if row is None:
        return Seen(None, "", known, frozenset())
    found = sa.select(t.withheld.c.id).join(t.batch, t.batch.c.id == t.withheld.c.batch)
    held = frozenset(connection.scalars(found.where(*_is(t.batch, frame), t.batch.c.origin == origin)))
    return Seen(row.id, row.origin, known, (held & frozenset(alerts)) - known)


def _is(table: sa.Table, frame: Frame) -> list[sa.ColumnElement[bool]]:
    same = [table.c.visit == frame.visit, table.c.detector == frame.detector]
    return [*same, table.c.instrument.in_([frame.instrument, ""])] if frame.instrument else same


def withheld(book: AlertBook, instrument: str, first: int, last: int) -> list[Withheld]:
    """Of visits from `first` to `last`, by frame and time: one for each call, however many alerts it brought."""
    query = (
        sa.select(
            *(t.batch.c[name] for name in ("id", "instrument", "visit", "detector", "origin", "at")),
            t.batch.c.withheld.label("alerts"),
            _TELLER.c.origin.label("told_by"),
            _TELLER.c.at.label("told_at"),
        )
        .join(_TELLER, _TELLER.c.id == t.batch.c.teller)
        .where(t.batch.c.visit.between(first, last), t.batch.c.instrument.in_([instrument, ""]))
        .order_by(t.batch.c.visit, t.batch.c.detector, t.batch.c.id)
    )
    return [Withheld(**row._mapping) for row in book.all(query)]


def alerts_of(book: AlertBook, call: Withheld) -> list[int]:
    """Ids of the alerts of a call, in order."""
    query = sa.select(t.withheld.c.id).where(t.withheld.c.batch == call.id).order_by(t.withheld.c.id)
    return [row.id for row in book.all(query)]

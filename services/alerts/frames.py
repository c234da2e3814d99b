"""Frames, a visit on a detector each: who told its alerts, which is done once, and what others brought of it afterwards.

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

_TELLING = t.batch.alias("telling")


@dataclass(frozen=True)
class Seen:
    """What is known of a frame and of some alerts: `teller` is whose alerts were told (None: nobody's)."""

    teller: str | None
    known: frozenset[int]
    """Of these alerts, those that were told, unless others than the teller bring them: theirs may be other sources."""
    held: frozenset[int]
    """Those that were withheld from this origin before."""


@dataclass(frozen=True, kw_only=True)
class Withheld:
    """Alerts that one call brought of a frame that was told; times are seconds since 1970."""

    id: int
    visit: int
    detector: int
    alerts: int
    origin: str
    at: float
    told_by: str
    told_at: float


def seen(book: AlertBook, connection: Connection, visit: int, detector: int, origin: str, alerts: Sequence[int]) -> Seen:
    """As it is in this transaction. A teller who said no name may be anybody: what it told is known whoever brings it."""
    telling = sa.select(t.batch.c.origin).join(t.frame, t.frame.c.batch == t.batch.c.id)
    row = connection.execute(telling.where(t.frame.c.visit == visit, t.frame.c.detector == detector)).one_or_none()
    teller = None if row is None else str(row.origin)
    known: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()
    if teller in (None, "", origin):
        known = frozenset(connection.scalars(sa.select(t.alert.c.id).where(book.among(t.alert.c.id, alerts))))
    if teller is not None:
        mine = (t.batch.c.visit == visit, t.batch.c.detector == detector, t.batch.c.origin == origin)
        found = sa.select(t.withheld.c.id).join(t.batch, t.batch.c.id == t.withheld.c.batch).where(*mine)
        held = frozenset(connection.scalars(found)) & frozenset(alerts)
    return Seen(teller, known, held - known)


def withheld(book: AlertBook, first: int, last: int) -> list[Withheld]:
    """Of visits from `first` to `last`, by frame and time: one for each call, however many alerts it brought."""
    query = (
        sa.select(
            *(t.batch.c[name] for name in ("id", "visit", "detector", "origin", "at")),
            t.batch.c.withheld.label("alerts"),
            _TELLING.c.origin.label("told_by"),
            _TELLING.c.at.label("told_at"),
        )
        .join(t.frame, sa.and_(t.frame.c.visit == t.batch.c.visit, t.frame.c.detector == t.batch.c.detector))
        .join(_TELLING, _TELLING.c.id == t.frame.c.batch)
        .where(t.batch.c.visit.between(first, last), t.batch.c.withheld > 0)
        .order_by(t.batch.c.visit, t.batch.c.detector, t.batch.c.id)
    )
    return [Withheld(**row._mapping) for row in book.all(query)]


def alerts_of(book: AlertBook, call: Withheld) -> list[int]:
    """Ids of the alerts of a call, in order."""
    query = sa.select(t.withheld.c.id).where(t.withheld.c.batch == call.id).order_by(t.withheld.c.id)
    return [row.id for row in book.all(query)]

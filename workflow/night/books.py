"""The prompt ledger, read and written; each function is part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.messages.prompt import NextVisit
from workflow.errors import ConflictError
from workflow.ledger import Ledger
from workflow.ledger.nights import event, night, part, visit, worker
from workflow.night.states import PART_TABLE, PART_TERMINAL, PartState
from workflow.states import follow

Row = sa.Row[Any]


def find(connection: Connection, name: str) -> Row | None:
    """The night of that name."""
    return connection.execute(sa.select(night).where(night.c.name == name)).one_or_none()


def open_of(connection: Connection, instrument: str) -> Row | None:
    """The night of the instrument that is not closed."""
    return connection.execute(sa.select(night).where(night.c.instrument == instrument, night.c.closed.is_(None))).one_or_none()


def tell(
    connection: Connection, name: str, at: float, kind: str, words: str, visit: int | None = None, detector: int | None = None
) -> None:
    """Write down what happened."""
    connection.execute(event.insert().values(night=name, at=at, kind=kind, words=words, visit=visit, detector=detector))


def announce(ledger: Ledger, connection: Connection, held: Row, said: NextVisit, at: float, actor: str) -> bool:
    """A visit that is to come; whether it is new. ConflictError if it was announced otherwise before."""
    body = said.model_dump(mode="json")
    row = {**_visit_row(held, said.visit, said), "announced": at, "announcement": body, "actor": actor}
    new = ledger.insert_first(connection, visit, row)
    if not new:
        known = connection.execute(_one_visit(held.name, said.visit)).one()
        if known.announced is None:  # its frames were faster
            connection.execute(visit.update().where(_is(held.name, said.visit)).values(row))
        elif known.announcement != body:
            raise ConflictError(
                f"visit {said.visit} of night {held.name} was announced otherwise: a new visit needs a new number"
            )
        else:
            return False
    _expect(ledger, connection, held, said.visit, at)
    return True


def appear(ledger: Ledger, connection: Connection, held: Row, seen: Any, at: float) -> None:
    """A visit that nobody announced, from the first word of a worker about it."""
    exposures = list(seen.exposures) or [seen.visit]
    row = {
        "night": held.name,
        "visit": seen.visit,
        "mode": seen.mode.value,
        "exposures": exposures,
        "expected_end": at,
        "told": at,
    }
    if ledger.insert_first(connection, visit, row):
        tell(connection, held.name, at, "unannounced", f"visit {seen.visit} came without next_visit", seen.visit)
        _expect(ledger, connection, held, seen.visit, at)


def _visit_row(held: Row, number: int, said: NextVisit) -> dict[str, Any]:
    return {
        "night": held.name,
        "visit": number,
        "mode": said.mode.value,
        "exposures": list(said.exposures),
        "field": said.field,
        "physical_filter": said.physical_filter,
        "expected_end": said.expected_end,
    }


def _expect(ledger: Ledger, connection: Connection, held: Row, number: int, at: float) -> None:
    base = {"night": held.name, "visit": number, "state": PartState.EXPECTED.value, "since": at, "stages": {}, "quality": {}}
    ledger.insert_new(connection, part, [{**base, "detector": detector} for detector in held.detectors])


def parts(connection: Connection, name: str, *, open_only: bool = False) -> Sequence[Row]:
    """Parts of a night with their visit's times, in the order of visits."""
    query = (
        sa.select(part, visit.c.expected_end, visit.c.readout_end, visit.c.mode, visit.c.field, visit.c.physical_filter)
        .join(visit, sa.and_(visit.c.night == part.c.night, visit.c.visit == part.c.visit))
        .where(part.c.night == name)
        .order_by(part.c.visit, part.c.detector)
    )
    return connection.execute(query.where(part.c.ended.is_(None)) if open_only else query).all()


def move(connection: Connection, name: str, number: int, detector: int, what: str, values: Mapping[str, Any]) -> PartState | None:
    """Bring a part forward by an event. Returns its state if it is another now, else None; values are written only then, or
    while it goes on.
    """
    where = sa.and_(part.c.night == name, part.c.visit == number, part.c.detector == detector)
    row = connection.execute(sa.select(part.c.state).where(where).with_for_update()).one_or_none()
    if row is None:
        return None
    old = PartState(row.state)
    new = follow(PART_TABLE, old, what)
    if new is old and old in PART_TERMINAL:
        return None
    connection.execute(part.update().where(where).values(**values, state=new.value))
    return new if new is not old else None


def read_out(connection: Connection, name: str, number: int, at: float) -> None:
    """The end of a visit's readout: the latest that any of its frames tells."""
    later = sa.or_(visit.c.readout_end.is_(None), visit.c.readout_end < at)
    connection.execute(visit.update().where(_is(name, number), later).values(readout_end=at))


def workers(connection: Connection, name: str, *, living: bool = True) -> Sequence[Row]:
    """Workers of a night, those that have not ended or all."""
    query = sa.select(worker).where(worker.c.night == name).order_by(worker.c.detector, worker.c.ordinal)
    return connection.execute(query.where(worker.c.ended.is_(None)) if living else query).all()


def _is(name: str, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(visit.c.night == name, visit.c.visit == number)


def _one_visit(name: str, number: int) -> sa.Select[Any]:
    return sa.select(visit).where(_is(name, number))

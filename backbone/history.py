"""Who did what, when and why: rows that are only ever added (the database refuses anything else)."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One row of the history."""

    at: float
    actor: str
    what: str
    endpoint: str | None
    why: str


def note(
    connection: Connection,
    *,
    at: float,
    actor: str,
    what: str,
    file: int | None = None,
    endpoint: int | None = None,
    why: str | None = None,
) -> None:
    """One row, in the transaction of what it is about."""
    connection.execute(t.history.insert().values(at=at, actor=actor, what=what, file=file, endpoint=endpoint, why=why))


# For many files at once: `FROM` and what follows come from the caller, the selected columns are file and endpoint.
NOTE_MANY = (
    "INSERT INTO bb_history (at, actor, what, file, endpoint, why) SELECT :now, :actor, :what, q.file, q.endpoint, :why FROM "
)


def history_of(catalog: Catalog, key: str) -> list[Event]:
    """Everything that happened to a file, oldest first; UnknownFile if there is none."""
    with catalog.read() as connection:
        number = catalog.file_ids(connection, [key])[key]
        rows = connection.execute(sa.select(t.history).where(t.history.c.file == number).order_by(t.history.c.id)).all()
    return [_event(catalog, row) for row in rows]


def recent(catalog: Catalog, *, limit: int = 100, what: str | None = None) -> list[Event]:
    """The last events, newest first."""
    query = sa.select(t.history).order_by(t.history.c.id.desc()).limit(limit)
    return [_event(catalog, row) for row in catalog.all(query if what is None else query.where(t.history.c.what == what))]


def _event(catalog: Catalog, row: sa.Row[tuple[object, ...]]) -> Event:
    name = None if row.endpoint is None else catalog.names.get(row.endpoint, str(row.endpoint))
    return Event(at=row.at, actor=row.actor, what=row.what, endpoint=name, why=row.why or "")

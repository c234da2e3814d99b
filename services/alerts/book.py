"""Opens the alert service's database: which alerts there are, in which order each stream has them, who subscribes."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.database import Database
from services.alerts import tables as t

FULL = "alerts"
"""The stream that has every alert."""


class AlertBook(Database):
    """The database, open; its tables are made or brought up to date when it is opened."""

    noun = "alert service's database"
    migrations = Path(__file__).parent / "migrations"
    version_table = "al_version"
    upgrade_lock = 7_224_671

    def claim(self, connection: Connection, name: str, count: int) -> int:
        """The first of `count` new positions in a stream, which is made if there is none of this name.

        The row stays locked until the transaction ends: positions become visible in their order, and none is left out.
        """
        self.insert_new(connection, t.stream, [{"name": name, "last": 0, "published": 0}])
        more = t.stream.update().where(t.stream.c.name == name).values(last=t.stream.c.last + count)
        last: int = connection.execute(more.returning(t.stream.c.last)).scalar_one()
        return last - count + 1

    def promise(self, connection: Connection, name: str, alerts: list[int], *, at: float) -> tuple[int, int]:
        """Promise alerts, none of which the stream has yet, to its subscribers; their first and last position."""
        first = self.claim(connection, name, len(alerts))
        rows = [{"stream": name, "position": first + n, "alert": alert, "at": at} for n, alert in enumerate(alerts)]
        self.insert_many(connection, t.outbox, rows)
        return first, first + len(alerts) - 1

    def promised(self, name: str, first: int, last: int) -> dict[int, int]:
        """Which alert was promised at each position of a stream, from `first` to `last`."""
        outbox = t.outbox.c
        where = (outbox.stream == name, outbox.position.between(first, last))
        return {row.position: row.alert for row in self.all(sa.select(outbox.position, outbox.alert).where(*where))}

    def streams(self) -> dict[str, tuple[int, int]]:
        """Streams by name: the last position given out, and the last that is published."""
        return {row.name: (row.last, row.published) for row in self.all(sa.select(t.stream))}

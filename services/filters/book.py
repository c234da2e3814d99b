"""Whose filters there are, and what each user was sent of each visit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.database import Database
from backbone.errors import PermanentError
from backbone.models import nearest
from payloads.alert_schema import schema
from services.alerts.settings import AlertSettings
from services.alerts.subscribers import checked_name
from services.filters import tables as t
from services.filters.filter import Filter
from services.filters.kinds import kind_of

FILTERS_PER_USER = 10
_PLACE = "filters"


def feed(user: str) -> str:
    """The stream of a user."""
    return f"user-{user}"


@dataclass(frozen=True)
class Stored:
    """A filter in force."""

    id: int
    user: str
    name: str
    text: str


class FilterBook(Database):
    """Filters in the alert service's database; what passes is written in one transaction with the streams."""

    noun = "alert service's database"
    migrations = Path(__file__).parent / "migrations"
    version_table = "fl_version"
    upgrade_lock = 7_224_673

    def define(self, user: str, name: str, text: str, settings: AlertSettings, *, now: Callable[[], float] = time.time) -> Filter:
        """A filter of a user, from now on in the place of an earlier one of its name; FilterRefused says what is wrong."""
        checked_name(feed(user)), checked_name(name)
        made = Filter.of(text, kind_of(schema()))
        with self.begin() as connection:
            self._lock(connection)
            others = [(row.user, row.name) for row in connection.execute(sa.select(t.filter_).where(t.filter_.c.until.is_(None)))]
            users = {other for other, _ in others} - {user}
            if len(users) >= settings.users:
                raise PermanentError(
                    f"filter {name} of {user}: there are {len(users)} users; at most {settings.users} may have filters"
                )
            mine = {other for owner, other in others if owner == user} - {name}
            if len(mine) >= FILTERS_PER_USER:
                raise PermanentError(f"filter {name}: {user} has {len(mine)} filters, which is the most; remove one first")
            at = now()
            self._end(connection, user, name, at)
            connection.execute(t.filter_.insert().values(user=user, name=name, text=text, since=at))
        return made

    def remove(self, user: str, name: str, *, now: Callable[[], float] = time.time) -> None:
        """No such filter from now on."""
        with self.begin() as connection:
            if not self._end(connection, user, name, now()):
                names = [stored.name for stored in self.in_force() if stored.user == user]
                raise PermanentError(f"{user} has no filter {name!r}; {nearest(name, names)}")

    def _end(self, connection: Connection, user: str, name: str, at: float) -> int:
        old = (t.filter_.c.user == user) & (t.filter_.c.name == name) & t.filter_.c.until.is_(None)
        return connection.execute(t.filter_.update().where(old).values(until=at)).rowcount

    def in_force(self) -> Sequence[Stored]:
        """Every filter in force, by user and name."""
        with self.read() as connection:
            return self.filters(connection)

    def filters(self, connection: Connection) -> Sequence[Stored]:
        """The same, within a transaction."""
        query = sa.select(t.filter_).where(t.filter_.c.until.is_(None)).order_by(t.filter_.c.user, t.filter_.c.name)
        return [Stored(row.id, row.user, row.name, row.text) for row in connection.execute(query)]

    def position(self) -> int:
        """Up to where the full stream has been filtered."""
        rows = self.all(sa.select(t.place.c.position))
        return int(rows[0].position) if rows else 0

    def locked_position(self, connection: Connection) -> int:
        """The same, and nobody else filters until the transaction ends."""
        self._lock(connection)
        return int(connection.execute(sa.select(t.place.c.position)).scalar_one())

    def _lock(self, connection: Connection) -> None:
        self.insert_new(connection, t.place, [{"name": _PLACE, "position": 0}])
        connection.execute(t.place.update().values(position=t.place.c.position))

    def advance(self, connection: Connection, position: int) -> None:
        """Everything up to here has been filtered."""
        connection.execute(t.place.update().values(position=position))

    def counts(self, connection: Connection, visits: Sequence[int]) -> dict[tuple[str, int], tuple[int, int]]:
        """What users were sent of visits, and how many alerts were over."""
        rows = connection.execute(sa.select(t.count).where(self.among(t.count.c.visit, visits)))
        return {(row.user, row.visit): (row.sent, row.over) for row in rows}

    def count(self, connection: Connection, counts: dict[tuple[str, int], tuple[int, int]]) -> None:
        """Write counts that have changed."""
        rows: list[dict[str, Any]] = [
            {"user": user, "visit": visit, "sent": sent, "over": over} for (user, visit), (sent, over) in counts.items()
        ]
        if rows:
            insert = self.insert(t.count)
            new = {"sent": insert.excluded.sent, "over": insert.excluded.over}
            connection.execute(insert.on_conflict_do_update(index_elements=["user", "visit"], set_=new), rows)

    def sent(self, user: str) -> Sequence[tuple[int, int, int]]:
        """Visit, alerts sent, alerts over, of a user."""
        query = sa.select(t.count).where(t.count.c.user == user).order_by(t.count.c.visit)
        return [(row.visit, row.sent, row.over) for row in self.all(query)]

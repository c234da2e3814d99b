"""Takes reports for the OCS: durable and in their order before the caller goes on, whether the OCS is there or not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from backbone.database import Database
from services.settings import database_url, section
from services.telemetry import tables as t
from services.telemetry.reports import Report
from services.telemetry.settings import TelemetrySettings

_OCS = "ocs"


@dataclass(frozen=True)
class Told:
    """A report as the OCS gets it."""

    position: int
    key: str
    kind: str
    at: float
    values: dict[str, Any]

    def as_json(self) -> str:
        """One line of JSON."""
        document = {"position": self.position, "key": self.key, "kind": self.kind, "at": self.at, "values": self.values}
        return json.dumps(document, allow_nan=False)


class TelemetryBook(Database):
    """The gateway's database, open."""

    noun = "telemetry gateway's database"
    migrations = Path(__file__).parent / "migrations"
    version_table = "tm_version"
    upgrade_lock = 7_224_672


class Telemetry(AbstractContextManager["Telemetry"]):
    """The reports of an installation."""

    def __init__(self, book: TelemetryBook, *, now: Callable[[], float] = time.time) -> None:
        self.book, self._now = book, now

    @classmethod
    def open(cls, home: Path | str) -> Self:
        """By the settings of a home."""
        settings = section(Path(home), "telemetry", TelemetrySettings)
        return cls(TelemetryBook.open(database_url(settings.database, Path(home))))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections."""
        self.book.close()

    def send(self, report: Report) -> bool:
        """Take a report; False if one of its key was taken before: that one counts."""
        body = json.dumps(report.model_dump(mode="json"), allow_nan=False)
        with self.book.begin() as connection:
            self.book.insert_new(connection, t.gateway, [{"name": _OCS, "last": 0, "sent": 0}])
            # The row is locked until the end: positions become visible in their order.
            connection.execute(t.gateway.update().values(last=t.gateway.c.last))
            if connection.execute(sa.select(t.report.c.position).where(t.report.c.key == report.key)).first() is not None:
                return False
            claimed = t.gateway.update().values(last=t.gateway.c.last + 1).returning(t.gateway.c.last)
            position = connection.execute(claimed).scalar_one()
            row = {"position": position, "key": report.key, "kind": report.kind, "body": body, "at": self._now()}
            connection.execute(t.report.insert().values(row))
        return True

    def read(self, after: int = 0, limit: int = 1000) -> list[Told]:
        """Reports after a position, in their order."""
        query = sa.select(t.report).where(t.report.c.position > after).order_by(t.report.c.position).limit(limit)
        return [Told(row.position, row.key, row.kind, row.at, json.loads(row.body)) for row in self.book.all(query)]

    def state(self) -> tuple[int, int]:
        """The last position there is, and the last that was sent."""
        rows = self.book.all(sa.select(t.gateway))
        return (rows[0].last, rows[0].sent) if rows else (0, 0)

    def sent(self, position: int) -> None:
        """Reports up to here are with the OCS's broker."""
        with self.book.begin() as connection:
            connection.execute(t.gateway.update().where(t.gateway.c.sent < position).values(sent=position))

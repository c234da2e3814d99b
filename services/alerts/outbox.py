"""The one way in for alerts: archived, and promised to every subscriber of the full stream, all or nothing.

The object comes first, then one transaction with everything that makes it known. Whoever dies in between leaves an object that
nobody speaks of; the same call again finds or makes it anew and changes nothing that was known before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from services.alerts import tables as t
from services.alerts.archive import AlertArchive, Stored
from services.alerts.book import FULL, AlertBook
from services.alerts.packets import Packet, PacketRefused, encode
from services.alerts.settings import AlertSettings
from services.settings import database_url, section

_POLL_S = 0.05


@dataclass(frozen=True)
class Added:
    """What a call of `add` did."""

    new: int
    known: int
    """Alerts of this call that an earlier one had brought."""
    first: int | None = None
    last: int | None = None
    """Positions of the new ones in the full stream."""


class AlertOutbox(AbstractContextManager["AlertOutbox"]):
    """Takes alerts. One a process; threads may share it."""

    def __init__(
        self, book: AlertBook, archive: AlertArchive, *, broker: bool = False, now: Callable[[], float] = time.time
    ) -> None:
        self.book, self.archive = book, archive
        self._broker, self._now = broker, now

    @classmethod
    def open(cls, home: Path | str) -> Self:
        """The outbox of a home, by its settings."""
        home = Path(home)
        settings = section(home, "alerts", AlertSettings)
        book = AlertBook.open(database_url(settings.database, home))
        return cls(book, AlertArchive.open(book, settings, home), broker=settings.transport == "rabbitmq")

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections."""
        self.archive.close()
        self.book.close()

    def add(self, visit: int, detector: int, packets: Iterable[Mapping[str, Any]]) -> Added:
        """Take the alerts of a visit and detector: archived and promised when this returns, or nothing of it happened.

        Alerts that are known already, from whichever call, stay as they are. PacketRefused names the first that is no packet.
        """
        encoded = [encode(packet) for packet in packets]
        if len({packet.alert for packet in encoded}) < len(encoded):
            raise PacketRefused(f"visit {visit} detector {detector}: two packets of one alert in one call; give each alert once")
        known = self.known(packet.alert for packet in encoded)
        fresh = [packet for packet in encoded if packet.alert not in known]
        if not fresh:
            return Added(0, len(known))
        return self._promise(visit, detector, fresh, self.archive.put(visit, detector, fresh), len(known))

    def _promise(self, visit: int, detector: int, packets: Sequence[Packet], stored: Stored, known: int) -> Added:
        at = self._now()
        with self.book.begin() as connection:
            self.book.claim(connection, FULL, 0)  # from here on nobody else makes alerts known
            ids = self.book.among(t.alert.c.id, [packet.alert for packet in packets])
            since = {row.id for row in connection.execute(sa.select(t.alert.c.id).where(ids))}
            fresh = [packet for packet in packets if packet.alert not in since]
            if not fresh:
                return Added(0, known + len(since))
            row = {"key": stored.key, "visit": visit, "detector": detector, "at": at}
            batch = connection.execute(t.batch.insert().values(row).returning(t.batch.c.id)).scalar_one()
            self.book.insert_many(connection, t.alert, [_row(packet, batch, stored) for packet in fresh])
            first, last = self.book.promise(connection, FULL, [packet.alert for packet in fresh], at=at)
        return Added(len(fresh), known + len(since), first, last)

    def known(self, alerts: Iterable[int]) -> set[int]:
        """Which of these alerts are in the archive."""
        query = sa.select(t.alert.c.id).where(self.book.among(t.alert.c.id, alerts))
        return {row.id for row in self.book.all(query)}

    def wait(self, position: int, timeout_s: float, stream: str = FULL) -> bool:
        """Whether the stream is published up to this position, at the latest after `timeout_s`."""
        limit = time.monotonic() + timeout_s
        while (found := self.published(stream)) < position and time.monotonic() < limit:
            time.sleep(_POLL_S)
        return found >= position

    def published(self, stream: str = FULL) -> int:
        """The last position that subscribers of a stream can read: with the database as transport all that is promised."""
        last, published = self.book.streams().get(stream, (0, 0))
        return published if self._broker else last


def _row(packet: Packet, batch: int, stored: Stored) -> dict[str, Any]:
    start, size = stored.places[packet.alert]
    return {"id": packet.alert, "batch": batch, "start": start, "size": size, "object": packet.object}

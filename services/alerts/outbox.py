"""The one way in for alerts: archived, and promised to every subscriber of the full stream, all or nothing.

The object comes first, then one transaction with everything that makes it known. Whoever dies in between leaves an object that
nobody speaks of; the same call again finds or makes it anew and changes nothing that was known before. What is brought of a frame
that another has told is archived too, and promised to nobody (services/alerts/frames.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from services.alerts import tables as t
from services.alerts.archive import AlertArchive, Stored
from services.alerts.book import FULL, AlertBook
from services.alerts.frames import Frame, Seen, seen
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
    withheld: int = 0
    """Alerts of this call, or of the same before, that nobody gets: the frame was told."""
    told_by: str = ""
    """Whose alerts of the frame were told instead, where some were withheld."""


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

    def add(
        self,
        visit: int,
        detector: int,
        packets: Iterable[Mapping[str, Any]],
        *,
        instrument: str = "",
        origin: str = "",
        dataset: str | None = None,
    ) -> Added:
        """Take the alerts of a visit and detector: archived and promised when this returns, or nothing of it happened.

        The first call with alerts of a frame (of an `instrument`; empty: any) tells it, and `origin` is whose they are:
        `prompt/NIGHT`, or a RUN. Alerts that are known already stay as they are; others of a frame that was told are archived and
        withheld. `dataset`: what they were read from, noted as collected in the same transaction. PacketRefused names the first
        that is no packet.
        """
        encoded = [encode(packet) for packet in packets]
        if len({packet.alert for packet in encoded}) < len(encoded):
            raise PacketRefused(f"visit {visit} detector {detector}: two packets of one alert in one call; give each alert once")
        call = _Call(Frame(instrument, visit, detector), origin, dataset, encoded)
        with self.book.read() as connection:
            before = self._seen(connection, call)
        offered = [packet for packet in encoded if packet.alert not in before.known | before.held]
        if not offered and dataset is None:
            return _added(before)
        return self._written(call, offered, self.archive.put(visit, detector, offered) if offered else None)

    def _seen(self, connection: Connection, call: _Call) -> Seen:
        return seen(self.book, connection, call.frame, call.origin, [packet.alert for packet in call.packets])

    def _written(self, call: _Call, offered: Sequence[Packet], stored: Stored | None) -> Added:
        at = self._now()
        with self.book.begin() as connection:
            if stored is not None:
                self.book.claim(connection, FULL, 0)  # from here on nobody else makes alerts known
            now = self._seen(connection, call)
            added = _added(now)
            fresh = [packet for packet in offered if packet.alert not in now.known | now.held]
            if stored is not None and fresh:
                added = self._placed(connection, call, now, fresh, stored, at)
            if call.dataset is not None:
                row = {"dataset": call.dataset, "told": added.new + added.known, "at": at}
                self.book.insert_new(connection, t.collected, [row])
        return added

    def _placed(
        self, connection: Connection, call: _Call, now: Seen, fresh: Sequence[Packet], stored: Stored, at: float
    ) -> Added:
        """Fresh alerts made known: told where nobody has told the frame, else withheld."""
        same = connection.execute(sa.select(t.batch.c.withheld).where(t.batch.c.key == stored.key)).one_or_none()
        if same is not None and not same.withheld:  # another brought these packets, byte by byte
            return replace(_added(now), known=len(now.known) + len(fresh))
        held = replace(_added(now), withheld=len(now.held) + len(fresh), told_by=now.told_by)
        if same is not None:
            return held
        told, frame = now.teller is None, asdict(call.frame)
        row = {**frame, "key": stored.key, "at": at, "origin": call.origin}
        row |= {"teller": now.teller, "withheld": 0 if told else len(fresh)}
        batch = connection.execute(t.batch.insert().values(row).returning(t.batch.c.id)).scalar_one()
        rows = [_row(packet, batch, stored) for packet in fresh]
        if not told:
            self.book.insert_many(connection, t.withheld, rows)
            return held
        self.book.insert_many(connection, t.alert, rows)
        connection.execute(t.frame.insert().values(**frame, batch=batch))
        first, last = self.book.promise(connection, FULL, [packet.alert for packet in fresh], at=at)
        return Added(len(fresh), len(now.known), first, last)

    def collected(self, datasets: Iterable[str]) -> dict[str, int]:
        """Which of these datasets were collected, and how many alerts of each subscribers have."""
        query = sa.select(t.collected.c.dataset, t.collected.c.told).where(self.book.among(t.collected.c.dataset, datasets))
        return {row.dataset: row.told for row in self.book.all(query)}

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


@dataclass(frozen=True)
class _Call:
    frame: Frame
    origin: str
    dataset: str | None
    packets: Sequence[Packet]


def _added(now: Seen) -> Added:
    """Where nothing is new."""
    return Added(0, len(now.known), withheld=len(now.held), told_by=now.told_by if now.held else "")


def _row(packet: Packet, batch: int, stored: Stored) -> dict[str, Any]:
    start, size = stored.places[packet.alert]
    return {"id": packet.alert, "batch": batch, "start": start, "size": size, "object": packet.object}

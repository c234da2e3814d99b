"""The database as transport: subscribers read the outbox itself, packets come from the archive. No process stands in between.

It is also how a stream is replayed from before what the broker still has: the archive keeps everything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from services.alerts import tables as t
from services.alerts.archive import AlertArchive, Place
from services.alerts.book import AlertBook
from services.alerts.packets import to_wire
from services.alerts.subscribers import Subscribers
from services.alerts.transport import Delivered

_POLL_S = 0.1


class DatabaseTransport:
    """Reads what the outbox promises."""

    def __init__(self, book: AlertBook, archive: AlertArchive) -> None:
        self._book, self._archive = book, archive
        self._subscribers = Subscribers(book)

    def published(self, stream: str) -> int:
        """All that is promised can be read."""
        return self._book.streams().get(stream, (0, 0))[0]

    def publish(self, stream: str, first: int, bodies: Sequence[bytes]) -> None:
        """Nothing is left to do."""

    @contextmanager
    def reader(self, stream: str, *, name: str, secret: str, after: int = 0) -> Iterator[DatabaseReader]:
        """Of a subscriber with its secret."""
        self._subscribers.check(name, secret, stream)
        yield DatabaseReader(self._book, self._archive, stream, after)

    def close(self) -> None:
        """Book and archive are their owner's."""


class DatabaseReader:
    """Goes through the rows of a stream."""

    def __init__(self, book: AlertBook, archive: AlertArchive, stream: str, after: int) -> None:
        self._book, self._archive, self._stream, self._after = book, archive, stream, after

    def take(self, limit: int, timeout_s: float) -> Sequence[Delivered]:
        """The next alerts; the outbox is looked at again and again while there are none."""
        end = time.monotonic() + timeout_s
        while not (found := promised(self._book, self._stream, self._after, limit)) and time.monotonic() < end:
            time.sleep(min(_POLL_S, max(end - time.monotonic(), 0)))
        taken = [Delivered(position, to_wire(self._archive.avro(place))) for position, place in found]
        if taken:
            self._after = taken[-1].position
        return taken


def promised(book: AlertBook, stream: str, after: int, limit: int) -> list[tuple[int, Place]]:
    """Positions after `after` that the outbox promises to a stream, at most `limit`, and where each alert is."""
    query = (
        sa.select(t.outbox.c.position, t.alert, t.batch.c.key)
        .join(t.alert, t.alert.c.id == t.outbox.c.alert)
        .join(t.batch, t.batch.c.id == t.alert.c.batch)
        .where(t.outbox.c.stream == stream, t.outbox.c.position > after)
        .order_by(t.outbox.c.position)
        .limit(limit)
    )
    return [(row.position, Place(row.id, row.key, row.start, row.size)) for row in book.all(query)]


def position_at(book: AlertBook, stream: str, since: float) -> int:
    """The last position promised before a time (seconds since 1970): what a replay from then on begins after."""
    before = sa.select(sa.func.max(t.outbox.c.position)).where(t.outbox.c.stream == stream, t.outbox.c.at < since)
    return int(book.all(before)[0][0] or 0)

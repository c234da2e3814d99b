"""From the outbox to the broker. Any number may run, any may be killed: the broker leaves out what it has already."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import sqlalchemy as sa

from backbone.errors import PachonError, TransientError
from services.alerts import tables as t
from services.alerts.archive import AlertArchive
from services.alerts.book import AlertBook
from services.alerts.database_transport import promised
from services.alerts.packets import to_wire
from services.alerts.transport import Transport

_log = logging.getLogger(__name__)
_IDLE_S = 0.1
_LONGEST_WAIT_S = 15.0


@dataclass(frozen=True)
class Round:
    """What one round did: alerts published, and the streams that could not be served with the reason."""

    published: int
    failed: dict[str, str]


class Distributor:
    """Publishes what is promised and not published yet, each stream in its order."""

    def __init__(self, book: AlertBook, archive: AlertArchive, transport: Transport, *, batch: int = 200) -> None:
        self._book, self._archive, self._transport, self._batch = book, archive, transport, batch
        self._checked: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; a broker or a database that is away is tried again and again, less and less often."""
        wait = _IDLE_S
        while not stop.is_set():
            try:
                done = self.round()
            except TransientError as error:  # of the book: the database is away
                _log.warning("%s; alerts wait", error)
                done = Round(0, {"": str(error)})
            wait = min(wait * 2, _LONGEST_WAIT_S) if done.failed and not done.published else _IDLE_S
            if done.published == 0:
                stop.wait(wait)

    def round(self) -> Round:
        """One batch of each stream that has something; one stream's failure is not another's."""
        count, failed = 0, {}
        for stream, (last, published) in sorted(self._book.streams().items()):
            try:
                if stream not in self._checked:
                    published = self._settle(stream, published)
                if published < last:
                    count += self._publish(stream, published)
            except PachonError as error:  # one that stays is for a person; the other streams go on
                self._checked.discard(stream)  # the broker may come back with less than it had
                failed[stream] = str(error)
                _log.log(logging.WARNING if isinstance(error, TransientError) else logging.ERROR, "stream %s: %s", stream, error)
        return Round(count, failed)

    def _settle(self, stream: str, noted: int) -> int:
        """What the broker has, by its own word: after a crash it has more than was noted, after a lost disk less."""
        found = self._transport.published(stream)
        if found < noted:
            _log.error(
                "stream %s: the broker has %d alerts of %d that it had taken; the rest are published again", stream, found, noted
            )
        if found != noted:
            self._note(stream, t.stream.c.published != found, found)
        self._checked.add(stream)
        return found

    def _publish(self, stream: str, after: int) -> int:
        rows = promised(self._book, stream, after, self._batch)
        bodies = [to_wire(self._archive.avro(place)) for _, place in rows]
        self._transport.publish(stream, rows[0][0], bodies)
        last = rows[-1][0]
        self._note(stream, t.stream.c.published < last, last)  # another distributor may be further
        return len(rows)

    def _note(self, stream: str, where: sa.ColumnElement[bool], position: int) -> None:
        with self._book.begin() as connection:
            connection.execute(t.stream.update().where(t.stream.c.name == stream, where).values(published=position))

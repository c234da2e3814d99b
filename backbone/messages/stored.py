"""Messages in a database: SQLite where everything is embedded, or PostgreSQL. Receivers ask; deliveries are leases.

A lease ends `lease_s` after its receiver's last word, by the clock of the process that asks: on one machine the machine's.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from backbone.database import Database
from backbone.errors import TransientError
from backbone.messages.transport import LEASE_S, MAX_BYTES, Delivery, MessageRefused, TransportDown

POLL_S = 0.05
metadata = sa.MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"})
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
message = sa.Table(
    "message",
    metadata,
    sa.Column("seq", _BIG, sa.Identity(), primary_key=True),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("body", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
    sa.Column("sent", sa.Double, nullable=False),
    sa.Column("holder", sa.Text),
    sa.Column("until", sa.Double),
    sa.Column("deliveries", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_message_queue_seq", "queue", "seq"),
)


class MessageStore(Database):
    """The database that keeps messages."""

    noun = "message store"
    migrations = Path(__file__).parent / "migrations"
    version_table = "message_version"
    upgrade_lock = 7_224_664


def checked(body: Mapping[str, Any]) -> str:
    """The message as JSON; MessageRefused where it cannot be sent."""
    try:
        text = json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MessageRefused(f"a message must be plain data: {error}") from error
    if len(text) > MAX_BYTES:
        raise MessageRefused(
            f"a message of {len(text)} bytes, the most is {MAX_BYTES}: put the bytes at an endpoint and send the key"
        )
    return text


class StoredTransport:
    """Queues in a database."""

    def __init__(self, store: MessageStore, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.time) -> None:
        self.store, self.lease_s, self.clock = store, lease_s, clock

    @classmethod
    def open(cls, url: str, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.time) -> StoredTransport:
        """At an SQLAlchemy URL; TransportDown if the database does not answer."""
        try:
            return cls(MessageStore.open(url), lease_s=lease_s, clock=clock)
        except TransientError as error:
            raise TransportDown(str(error)) from error

    def send(self, queue: str, body: Mapping[str, Any]) -> None:
        """See the contract."""
        row = {"queue": queue, "body": json.loads(checked(body)), "sent": self.clock()}
        with self._translated(), self.store.begin() as connection:
            connection.execute(message.insert().values(row))

    def receiver(self, queue: str) -> StoredReceiver:
        """See the contract."""
        return StoredReceiver(self, queue)

    def waiting(self, queue: str) -> int:
        """See the contract."""
        free = sa.or_(message.c.until.is_(None), message.c.until < self.clock())
        with self._translated():
            (row,) = self.store.all(sa.select(sa.func.count()).select_from(message).where(message.c.queue == queue, free))
        return int(row[0])

    def close(self) -> None:
        """See the contract."""
        self.store.close()

    def _translated(self) -> _Translated:
        return _Translated()


class _Translated:
    """A database that does not answer is a transport that is down."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, TransientError) and not isinstance(error, TransportDown):
            raise TransportDown(str(error)) from error


class StoredReceiver:
    """One receiver of one queue."""

    def __init__(self, transport: StoredTransport, queue: str) -> None:
        self._transport, self._queue = transport, queue
        self._holder = uuid.uuid4().hex
        self._mine = sa.and_(message.c.queue == queue, message.c.holder == self._holder)

    def receive(self, wait_s: float = 0.0) -> Delivery | None:
        """See the contract."""
        limit = time.monotonic() + wait_s
        while True:
            with _Translated():
                found = self._next()
            if found is not None or time.monotonic() >= limit:
                return found
            time.sleep(min(POLL_S, max(0.0, limit - time.monotonic())))

    def _next(self) -> Delivery | None:
        now, store = self._transport.clock(), self._transport.store
        free = sa.or_(message.c.until.is_(None), message.c.until < now)
        first = sa.select(message).where(message.c.queue == self._queue, free).order_by(message.c.seq).limit(1)
        if not store.all(first):  # asking again and again must not take the write lock
            return None
        with store.begin() as connection:
            row = connection.execute(first.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            lease = {"holder": self._holder, "until": now + self._transport.lease_s, "deliveries": row.deliveries + 1}
            connection.execute(message.update().where(message.c.seq == row.seq).values(lease))
        return Delivery(body=row.body, tag=row.seq, again=row.deliveries > 0)

    def acknowledge(self, delivery: Delivery) -> None:
        """See the contract."""
        with _Translated(), self._transport.store.begin() as connection:
            connection.execute(message.delete().where(self._mine, message.c.seq == delivery.tag))

    def give_back(self, delivery: Delivery) -> None:
        """See the contract."""
        self._free(message.c.seq == delivery.tag)

    def renew(self) -> None:
        """See the contract."""
        store, now = self._transport.store, self._transport.clock()
        with _Translated():
            if store.all(sa.select(message.c.seq).where(self._mine).limit(1)):
                with store.begin() as connection:
                    connection.execute(message.update().where(self._mine).values(until=now + self._transport.lease_s))

    def close(self) -> None:
        """See the contract."""
        self._free(sa.true())

    def _free(self, which: sa.ColumnElement[bool]) -> None:
        with _Translated(), self._transport.store.begin() as connection:
            connection.execute(message.update().where(self._mine, which).values(holder=None, until=None))

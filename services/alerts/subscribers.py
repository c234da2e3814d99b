"""Subscribers: who may read which stream, with a secret of its own each."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from backbone.errors import AccessRefused, ConflictError, PermanentError
from backbone.models import nearest
from services.alerts import tables as t
from services.alerts.book import FULL, AlertBook

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Subscriber:
    """One subscriber, as people see it."""

    name: str
    stream: str
    made: float
    made_by: str


def checked_name(name: str) -> str:
    """A name that files, users of a broker and streams can have."""
    if not _NAME.fullmatch(name):
        raise PermanentError(f"{name!r} cannot be a subscriber's name: a to z, 0 to 9 and hyphens, a letter first, 63 at most")
    return name


class Subscribers:
    """The subscribers of an alert service."""

    def __init__(self, book: AlertBook) -> None:
        self._book = book

    def add(self, name: str, *, actor: str, now: float, stream: str = FULL) -> str:
        """A new subscriber of a stream; returns its secret, which is told once and kept nowhere. ConflictError if it is there."""
        secret = secrets.token_urlsafe(32)
        row = {"name": checked_name(name), "stream": stream, "secret": _digest(secret), "made": now, "made_by": actor}
        with self._book.begin() as connection:
            self._book.claim(connection, stream, 0)
            if not self._book.insert_first(connection, t.subscriber, row):
                raise ConflictError(f"subscriber {name} is there already; remove it first, or ask for a new secret")
        return secret

    def renew(self, name: str) -> str:
        """A new secret for a subscriber; the old one is refused from now on."""
        secret = secrets.token_urlsafe(32)
        with self._book.begin() as connection:
            changed = connection.execute(t.subscriber.update().where(t.subscriber.c.name == name).values(secret=_digest(secret)))
            if not changed.rowcount:
                raise self._unknown(name)
        return secret

    def remove(self, name: str) -> None:
        """No subscriber of this name any more; its stream stays."""
        with self._book.begin() as connection:
            if not connection.execute(t.subscriber.delete().where(t.subscriber.c.name == name)).rowcount:
                raise self._unknown(name)

    def stream_of(self, name: str) -> str:
        """The stream that a subscriber reads."""
        rows = self._book.all(sa.select(t.subscriber.c.stream).where(t.subscriber.c.name == name))
        if not rows:
            raise self._unknown(name)
        return str(rows[0].stream)

    def check(self, name: str, secret: str, stream: str) -> None:
        """AccessRefused unless the secret is this subscriber's and the stream its own; which of them is wrong is not said."""
        rows = self._book.all(sa.select(t.subscriber).where(t.subscriber.c.name == name))
        known = rows[0].secret if rows else _digest("")
        if not hmac.compare_digest(known, _digest(secret)) or not rows or rows[0].stream != stream:
            raise AccessRefused(f"subscriber {name} is not let in to {stream}: wrong name, secret or stream")

    def all(self) -> Sequence[Subscriber]:
        """Every subscriber, by name."""
        rows = self._book.all(sa.select(t.subscriber).order_by(t.subscriber.c.name))
        return [Subscriber(row.name, row.stream, row.made, row.made_by) for row in rows]

    def _unknown(self, name: str) -> PermanentError:
        names = [row.name for row in self._book.all(sa.select(t.subscriber.c.name))]
        return PermanentError(f"no subscriber {name!r}; {nearest(name, names)}")


def _digest(secret: str) -> str:
    """Of 32 random bytes a plain digest is enough: there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()

"""A subscriber's side: what it did with alerts and its position are stored together, so that each alert counts once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from backbone.errors import TransientError
from services.alerts.damaged import sort_out
from services.alerts.transport import Delivered, Transport

_log = logging.getLogger(__name__)
_TAKE_S = 1.0


class Effect(Protocol):
    """What a subscriber does."""

    def position(self) -> int:
        """The position of the last alert whose effect is stored; 0 before the first."""

    def apply(self, alerts: Sequence[Delivered]) -> None:
        """Do what there is to do with the alerts and store the last one's position: one transaction, all or nothing."""


def follow(
    transport: Transport,
    effect: Effect,
    *,
    stream: str,
    name: str,
    secret: str,
    stop: threading.Event,
    until: int | None = None,
    batch: int = 200,
    say: Callable[[int], None] = lambda _: None,
) -> int:
    """Read a stream from where the effect is, until told to stop or `until` is reached; returns the last position.

    A transport that is away is opened again; `say` hears each position that is done.
    """
    while not stop.is_set():
        try:
            with transport.reader(stream, name=name, secret=secret, after=effect.position()) as reader:
                while not stop.is_set() and not (until is not None and effect.position() >= until):
                    if taken := reader.take(batch, _TAKE_S):
                        effect.apply(taken)
                        say(taken[-1].position)
                return effect.position()
        except TransientError as error:
            _log.warning("%s: %s; tried again", name, error)
            stop.wait(min(error.delay_s, 5.0))
    return effect.position()


class Collection:
    """A subscriber that keeps every packet in an SQLite file: `received` has a row for each as it came, in its wire form,
    `damaged` one for each that is no packet, with the reason."""

    def __init__(self, path: Path, *, start: int = 0) -> None:
        self._engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.pool.NullPool)
        with self._engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY, position INTEGER NOT NULL)")
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS received (position INTEGER, alert INTEGER, body BLOB)")
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS damaged (position INTEGER, reason TEXT, body BLOB)")
            connection.exec_driver_sql("INSERT OR IGNORE INTO place VALUES (1, ?)", (start,))

    def position(self) -> int:
        """Of the last packet kept."""
        with self._engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT position FROM place").scalar_one())

    def apply(self, alerts: Sequence[Delivered]) -> None:
        """Keep packets; a damaged one apart."""
        bodies, found = {one.position: one.body for one in alerts}, sort_out(alerts)
        whole = [(position, packet["diaSourceId"], bodies[position]) for position, packet in found.whole]
        damaged = [(position, reason, bodies[position]) for position, reason in found.refused.items()]
        with self._engine.begin() as connection:
            if whole:
                connection.exec_driver_sql("INSERT INTO received VALUES (?, ?, ?)", whole)
            if damaged:
                connection.exec_driver_sql("INSERT INTO damaged VALUES (?, ?, ?)", damaged)
            connection.exec_driver_sql("UPDATE place SET position = ?", (alerts[-1].position,))

    def damaged(self) -> list[tuple[int, str]]:
        """Position and reason of every packet that is none."""
        with self._engine.connect() as connection:
            return [(row[0], row[1]) for row in connection.exec_driver_sql("SELECT position, reason FROM damaged ORDER BY rowid")]

    def received(self) -> list[tuple[int, int]]:
        """Position and alert of every packet, as they came."""
        with self._engine.connect() as connection:
            return [(row[0], row[1]) for row in connection.exec_driver_sql("SELECT position, alert FROM received ORDER BY rowid")]

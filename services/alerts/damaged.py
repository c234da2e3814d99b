"""Packets that reach a subscriber of the service damaged: set aside, each with its place and reason, in the transaction in which
the subscriber goes past it. So each is met once, and holds up nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from services.alerts import tables as t
from services.alerts.book import AlertBook
from services.alerts.packets import PacketRefused, opened
from services.alerts.transport import Delivered


@dataclass(frozen=True)
class Damaged:
    """A packet that `subscriber` could not use: where, and which alert was promised there (None: none was)."""

    subscriber: str
    stream: str
    position: int
    alert: int | None
    reason: str
    at: float


@dataclass(frozen=True)
class Sorted:
    """Packets of a batch: those that are whole, with their positions and in their order, and why the others are none."""

    whole: Sequence[tuple[int, Mapping[str, Any]]]
    refused: Mapping[int, str]


def sort_out(alerts: Sequence[Delivered]) -> Sorted:
    """Open every packet of a batch; one that is none is not another's trouble."""
    whole, refused = [], {}
    for found in alerts:
        try:
            whole.append((found.position, opened(found.body)))
        except PacketRefused as error:
            refused[found.position] = str(error)
    return Sorted(whole, refused)


def check_against(promised: Mapping[int, int], found: Sorted) -> Sorted:
    """Also refuse what decodes, but to another alert than was `promised` at its position: a damaged id would reach users."""
    refused = dict(found.refused)
    for position, packet in found.whole:
        if packet["diaSourceId"] != promised.get(position):
            refused[position] = f"says that it is alert {packet['diaSourceId']}, where {promised.get(position)} was promised"
    return Sorted([one for one in found.whole if one[0] not in refused], refused)


def set_aside(book: AlertBook, connection: Connection, found: Sequence[Damaged]) -> None:
    """Note damaged packets; one that is noted already stays as it is."""
    if found:
        book.insert_new(connection, t.damaged, [asdict(one) for one in found])


def all_damaged(book: AlertBook) -> list[Damaged]:
    """Everything set aside, by stream, position and subscriber."""
    query = sa.select(t.damaged).order_by(t.damaged.c.stream, t.damaged.c.position, t.damaged.c.subscriber)
    return [Damaged(**row._mapping) for row in book.all(query)]


def damaged_of(book: AlertBook) -> dict[str, int]:
    """How many were set aside of each stream that has any."""
    query = sa.select(t.damaged.c.stream, sa.func.count(sa.distinct(t.damaged.c.position))).group_by(t.damaged.c.stream)
    return {row[0]: int(row[1]) for row in book.all(query)}

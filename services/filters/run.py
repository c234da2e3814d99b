"""Filtering as a subscriber of the full stream: what passes is promised to users' streams, in one transaction with the position.

So each alert is filtered once, whoever dies, and the count of what a user was sent of a visit is exact. A damaged packet is set
aside in that transaction too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backbone.errors import TransientError
from payloads.alert_schema import schema
from services.alerts.book import FULL, AlertBook
from services.alerts.damaged import Damaged, Sorted, check_against, set_aside, sort_out
from services.alerts.transport import Delivered
from services.filters.book import FilterBook, Stored, feed
from services.filters.filter import Filter
from services.filters.kinds import kind_of
from services.filters.language import FilterRefused

_log = logging.getLogger(__name__)
SERVICE = "filters"
"""The subscriber of the full stream that filters."""


@dataclass
class _Sent:
    """What a batch sends: alerts by user, in their order, and the counts that change."""

    counts: dict[tuple[str, int], tuple[int, int]]
    alerts: dict[str, list[int]] = field(default_factory=dict)
    changed: set[tuple[str, int]] = field(default_factory=set)


class Filtering:
    """The effect of the filter service (services.alerts.follow.Effect)."""

    def __init__(self, book: FilterBook, alerts: AlertBook, *, per_visit: int, now: Callable[[], float] = time.time) -> None:
        self._book, self._alerts, self._per_visit, self._now = book, alerts, per_visit, now
        self._kind = kind_of(schema())
        self._compiled: dict[int, Filter | None] = {}

    def position(self) -> int:
        """Up to where everything has been filtered."""
        return self._book.position()

    def apply(self, alerts: Sequence[Delivered]) -> None:
        """Filter alerts; TransientError if another filter service has done so meanwhile."""
        stored = self._book.in_force()
        filters = self._ready(stored)
        promised = self._alerts.promised(FULL, alerts[0].position, alerts[-1].position)
        found = check_against(promised, sort_out(alerts))
        passed = [(packet, self._users(packet, filters)) for _, packet in found.whole]
        with self._alerts.begin() as connection:
            at = self._book.locked_position(connection)
            if at != alerts[0].position - 1:
                raise TransientError(
                    f"filters: position {at} where {alerts[0].position - 1} was to be: another service filters too", delay_s=0.1
                )
            sent = _Sent(self._book.counts(connection, [packet["diaSource"]["visit"] for packet, _ in passed]))
            for packet, users in passed:
                for user in users:
                    self._send(sent, user, packet)
            for user, ids in sorted(sent.alerts.items()):
                self._alerts.promise(connection, feed(user), ids, at=self._now())
            self._book.count(connection, {key: sent.counts[key] for key in sent.changed})
            set_aside(self._alerts, connection, self._damaged(found, promised))
            self._book.advance(connection, alerts[-1].position)
        for position, reason in sorted(found.refused.items())[:1]:  # a stream of nothing else must not fill the log
            _log.error(
                "%s: %d of %d packets are damaged and set aside, the first at position %d of %s: %s; see `pachon alerts damaged`",
                SERVICE, len(found.refused), len(alerts), position, FULL, reason,
            )  # fmt: skip

    def _damaged(self, found: Sorted, promised: Mapping[int, int]) -> list[Damaged]:
        at = self._now()
        return [Damaged(SERVICE, FULL, n, promised.get(n), reason, at) for n, reason in found.refused.items()]

    def _send(self, sent: _Sent, user: str, packet: Mapping[str, Any]) -> None:
        key = (user, int(packet["diaSource"]["visit"]))
        done, over = sent.counts.get(key, (0, 0))
        if done < self._per_visit:
            sent.alerts.setdefault(user, []).append(packet["diaSourceId"])
            sent.counts[key] = done + 1, over
        else:
            sent.counts[key] = done, over + 1
        sent.changed.add(key)

    def _users(self, packet: Mapping[str, Any], filters: Sequence[tuple[str, Filter]]) -> list[str]:
        """Users one of whose filters passes a packet; the others of a user whose turn has come are not asked."""
        users: list[str] = []
        for user, found in filters:
            if (not users or users[-1] != user) and found.passes(packet):
                users.append(user)
        return users

    def _ready(self, stored: Sequence[Stored]) -> list[tuple[str, Filter]]:
        self._compiled = {one.id: self._compiled[one.id] if one.id in self._compiled else self._compile(one) for one in stored}
        return [(one.user, found) for one in stored if (found := self._compiled[one.id]) is not None]

    def _compile(self, one: Stored) -> Filter | None:
        try:
            return Filter.of(one.text, self._kind)
        except FilterRefused as error:
            _log.error("filter %s of %s passes nothing: it was made for another schema: %s", one.name, one.user, error)
            return None

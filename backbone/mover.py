"""The mover: takes pending transfers, copies, verifies, says so. Any number may run; kill -9 at any moment costs a lease.

`Mover.round()` does what can be done now and returns; `Mover.run()` does it until told to stop. Within a round each link that has
work is worked by as many threads as its settings allow, highest priority first. A worker takes what lasts about a second, so that
what is more urgent, and, on a link that is behind, what is new, never waits longer than that (backbone/route.py has one link).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.backbone import Backbone
from backbone.endpoints import open_endpoint
from backbone.errors import PachonError, TransientError
from backbone.expiry import Deletion, begin_deletions, deleted, deletion_failed
from backbone.flow import note_backlog
from backbone.identity import Checks
from backbone.leases import Leases
from backbone.links import LinkHolds
from backbone.route import Moved, Route
from backbone.settings import Link
from backbone.transfers import wake

_log = logging.getLogger(__name__)
_THREADS = 8  # the catalog's pool has ten connections
_DELETIONS = 500
_PRIORITIES = 8
_AGES_S, _BACKLOG_S, _ROOM_S = 5.0, 30.0, 60.0
_SHARE = 50  # adding up what is pending, or what a place holds, takes no more than a fiftieth of a mover's time


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round did; `cut` names the links that do not answer, with the reason."""

    files: int = 0
    bytes: int = 0
    failed: int = 0
    deleted: int = 0
    cut: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do, or nothing could be done."""
        return not (self.files or self.deleted)


class Mover:
    """A worker of a backbone; `links`: pairs of names, if not all. Leases go by the backbone's `now`, not by `clock`."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        links: frozenset[tuple[str, str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = f"mover-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._backbone, self._catalog, self._settings = backbone, backbone.catalog, backbone.settings.mover
        self._leases = Leases(backbone.catalog, lease_s=self._settings.lease_s, now=backbone.now)
        self._holds, self._clock, self._checks = LinkHolds(backbone.catalog), clock, Checks(backbone.catalog)
        self._limited = {(link.source, link.target) for link in backbone.settings.links}
        self._routes = [
            self._route(link, clock, sleep)
            for link in backbone.settings.all_links()
            if links is None or (link.source, link.target) in links
        ]
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="mover")
        self._ages_at = self._backlog_at = self._room_at = clock()

    def _route(self, link: Link, clock: Callable[[], float], sleep: Callable[[float], None]) -> Route:
        source, target = self._backbone.endpoint(link.source), self._backbone.endpoint(link.target)
        described = self._backbone.settings.endpoints[link.target]
        uri, home = described.uri, self._backbone.home
        if link.url is not None or link.server_copy is not None:
            if link.server_copy is not None:
                bucket = uri.removeprefix("s3://").rpartition("@")[2]
                uri = f"s3://{link.server_copy}@{bucket}"
            credentials = None if described.credentials is None else home / described.credentials
            target = open_endpoint(uri, name=link.target, url=link.url or described.url, credentials=credentials)
        return Route(
            link,
            self._backbone,
            source=source,
            target=target,
            worker=self.name,
            leases=self._leases,
            checks=self._checks,
            clock=clock,
            sleep=sleep,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of links and threads; what was being copied is finished first."""
        self._pool.shutdown(wait=True)
        self._leases.close()
        self._holds.close()

    def round(self, *, limit_s: float = 2.0) -> Round:
        """Do what can be done within about `limit_s`. TransientError if the catalog does not answer; nothing is lost by that."""
        now = self._backbone.now()
        self._checks.begin()
        woken = wake(self._catalog, now=now)
        if woken:
            _log.debug("%s: %d transfers are due again", self.name, woken)
        if self._clock() >= self._ages_at:
            self._ages_at = self._clock() + _AGES_S
            self._backbone.work_off_changes()
            self._backbone.work_off_ages()
        if self._clock() >= self._backlog_at:
            begun = self._clock()
            note_backlog(self._catalog, now=now)
            self._backlog_at = self._clock() + max(_BACKLOG_S, _SHARE * (self._clock() - begun))
        if self._clock() >= self._room_at:
            begun = self._clock()
            self._backbone.make_room()
            self._room_at = self._clock() + max(_ROOM_S, _SHARE * (self._clock() - begun))
        moved = self._move(limit_s)
        gone = sum(self._delete(name) for name in self._backbone.settings.endpoints)
        return Round(
            files=moved.files,
            bytes=moved.bytes,
            failed=moved.failed,
            deleted=gone,
            cut=tuple(f"{route.link.name}: {route.breaker.reason}" for route in self._routes if route.breaker.is_open),
        )

    def run(self, stop: threading.Event, *, say: Callable[[Round], None] | None = None) -> None:
        """Rounds until `stop` is set. A catalog that does not answer is asked again."""
        while not stop.is_set():
            try:
                done = self.round()
            except TransientError as error:
                _log.warning("%s: %s", self.name, error)
                stop.wait(min(error.delay_s, 5.0))
                continue
            if done.idle:
                stop.wait(self._settings.poll_s)
            elif say is not None:
                say(done)

    def _move(self, limit_s: float) -> Moved:
        ready = self._ready()
        until = self._clock() + limit_s
        work = [
            self._pool.submit(route.work, until, stop=self._makes_room(route, ready))
            for share in range(max((route.link.concurrent for route in ready), default=0))
            for route in ready
            if share < route.link.concurrent
        ]
        total, trouble = Moved(), None
        for future in work:
            try:
                total += future.result()
            except TransientError as error:
                trouble = error  # of the catalog; the others are waited for
        if trouble is not None:
            raise trouble
        return total

    def _makes_room(self, route: Route, ready: list[Route]) -> Callable[[], bool]:
        """Whether a worker of this link makes room for others: where more links have work than there are threads."""
        return lambda: len(ready) > _THREADS and route.has_worked()

    def _ready(self) -> list[Route]:
        """Links with work, the most urgent first; of those with limits only the ones that are ours."""
        ids = self._catalog.endpoints
        found: list[tuple[tuple[float, float], int, Route]] = []
        with self._catalog.read() as connection:
            for number, route in enumerate(self._routes):
                heads = _heads(connection, ids[route.link.source], ids[route.link.target])
                if heads:
                    route.begin_round(min(head.created for head in heads))
                    found.append(((-heads[0].priority, heads[0].deadline), number, route))
        urgent = [route for _, _, route in sorted(found, key=lambda entry: entry[:2])]
        return [route for route in urgent if self._is_ours(route)]

    def _is_ours(self, route: Route) -> bool:
        pair = (route.link.source, route.link.target)
        ids = self._catalog.endpoints
        return pair not in self._limited or self._holds.hold(ids[pair[0]], ids[pair[1]])

    def _delete(self, name: str) -> int:
        """Remove what policies let go at an endpoint; begun, done and said in three steps that each may be the last."""
        now, lease_s = self._backbone.now(), self._settings.lease_s
        number = self._catalog.endpoint_id(name)
        begun = begin_deletions(self._catalog, number, limit=_DELETIONS, worker=self.name, lease_s=lease_s, now=now)
        if not begun:
            return 0
        gone = [deletion for deletion in self._pool.map(self._delete_one, begun) if deletion is not None]
        return deleted(self._catalog, gone, now=self._backbone.now()) if gone else 0

    def _delete_one(self, deletion: Deletion) -> Deletion | None:
        endpoint = self._backbone.endpoint(deletion.endpoint)
        try:
            if (refusal := self._checks.refusal(endpoint)) is not None:
                raise refusal
            endpoint.delete(deletion.key)
        except PachonError as error:
            _log.warning("%s: %s", self.name, error)
            delay_s = error.delay_s if isinstance(error, TransientError) else self._settings.retry_max_s
            deletion_failed(self._catalog, deletion, delay_s=delay_s, now=self._backbone.now())
            return None
        return deletion


def _heads(connection: Connection, source: int, target: int) -> list[Any]:
    """The first in line of each priority on a link, the most urgent first: a step in an index for each."""
    x = t.transfer
    query = (
        sa.select(x.c.priority, x.c.deadline, x.c.created)
        .where(x.c.source == source, x.c.target == target, x.c.state == sa.literal_column("'PENDING'"))
        .order_by(x.c.priority.desc(), x.c.deadline, x.c.file)
        .limit(1)
    )
    heads: list[Any] = []
    while len(heads) < _PRIORITIES:
        head = connection.execute(query.where(x.c.priority < heads[-1].priority) if heads else query).one_or_none()
        if head is None:
            break
        heads.append(head)
    return heads

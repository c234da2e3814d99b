"""A link as a mover sees it: its pace, whether it is cut, and that its limits hold though several movers run."""

from __future__ import annotations

import fcntl
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.catalog import Catalog

_LOCKS = 7_224_663  # advisory locks of links, apart from all others
_SLICE_S = 0.25
_CUT_AFTER = 3
_PROBE_MIN_S, _PROBE_MAX_S = 0.5, 5.0


class Pace:
    """At most `bytes_per_s` over all threads (None: any). A burst of a quarter of a second is let through."""

    def __init__(
        self,
        bytes_per_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._free_at, self._lock = clock(), threading.Lock()

    @property
    def block_bytes(self) -> int:
        """What may be asked for at a time, so that no wait is long."""
        return 1 << 20 if self._rate is None else max(1 << 14, min(1 << 20, int(self._rate * _SLICE_S)))

    def spend(self, size: int) -> None:
        """Wait until `size` more bytes may pass."""
        if self._rate is None or size <= 0:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - _SLICE_S) + size / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)


class PacedReader:
    """A stream that is read no faster than a link allows."""

    def __init__(self, stream: BinaryIO, pace: Pace) -> None:
        self._stream, self._pace = stream, pace

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, no more than a block at a time."""
        block = self._stream.read(min(size, self._pace.block_bytes) if size and size > 0 else self._pace.block_bytes)
        self._pace.spend(len(block))
        return block


@dataclass
class Breaker:
    """Whether a link is cut: after some failures in a row one transfer at a time asks, ever more rarely, until one passes.

    Failures of a cut link are nobody's fault: they make no file STUCK.
    """

    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    reason: str = ""
    probe_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_open(self) -> bool:
        """Whether the link counts as cut."""
        return self.failures >= _CUT_AFTER

    def may_take(self, limit: int) -> int:
        """How many transfers may be taken now: `limit`, or, where the link is cut, one when it is time to ask again."""
        with self.lock:
            if not self.is_open:
                return limit
            if self.clock() < self.probe_at:
                return 0
            self._later()
            return 1

    def failed(self, reason: str) -> None:
        """Something failed that was not the file's fault."""
        with self.lock:
            was = self.is_open
            self.failures, self.reason = self.failures + 1, reason
            if self.is_open and not was:
                self._later()

    def passed(self) -> bool:
        """Something went through; whether the link counted as cut until now."""
        with self.lock:
            was = self.is_open
            self.failures, self.reason = 0, ""
            return was

    def _later(self) -> None:
        wait = min(_PROBE_MIN_S * 2 ** min(self.failures - _CUT_AFTER, 16), _PROBE_MAX_S)
        self.probe_at = self.clock() + wait * random.uniform(0.5, 1.5)  # noqa: S311 - so that movers do not ask in step


class LinkHolds:
    """Who works a link with limits: one mover at a time, so that they hold; another takes over when it ends, however it ends.

    PostgreSQL: advisory locks of one connection, SQLite: locks on files beside the database. Both go with the process.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self._files, self._held = catalog, dict[tuple[int, int], int](), set[tuple[int, int]]()
        self._connection: Connection | None = None

    def hold(self, source: int, target: int) -> bool:
        """Whether this mover has the link now."""
        pair = (source, target)
        return self._hold_row(pair) if self._catalog.is_postgresql else pair in self._files or self._hold_file(pair)

    def _hold_row(self, pair: tuple[int, int]) -> bool:
        try:
            if self._connection is None:
                self._held.clear()
                self._connection = self._catalog.connect()
            if pair in self._held:
                # A connection that broke has lost its locks; only asking tells.
                self._connection.execute(sa.text("SELECT 1"))
                return True
            lock = {"space": _LOCKS, "link": (pair[0] << 15) | pair[1]}
            got = bool(self._connection.execute(sa.text("SELECT pg_try_advisory_lock(:space, :link)"), lock).scalar())
        except sa.exc.DBAPIError:
            self.close()
            return False
        if got:
            self._held.add(pair)
        return got

    def _hold_file(self, pair: tuple[int, int]) -> bool:
        database = Path(str(self._catalog.file))
        descriptor = os.open(database.with_name(f"{database.name}.link-{pair[0]}-{pair[1]}"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._files[pair] = descriptor
        return True

    def close(self) -> None:
        """Let go of all links."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
        self._connection = None
        self._held.clear()
        while self._files:
            os.close(self._files.popitem()[1])

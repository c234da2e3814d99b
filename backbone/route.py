"""One link at work: takes batches of its transfers, copies them, and decides what a failure means.

| what happened | the transfer | the link |
|---|---|---|
| arrived and verified | done | works |
| the source has not got it, or other bytes, twice | the replica is LOST or BAD; the next source, at once | works |
| an end does not answer, is not mounted, refuses our keys, is full | tried again, later and later | cut after three in a row |
| the copy waits for a recall from an archive | tried again when that may be done | as it was |
| anything else, or too often on a link that works | STUCK with the reason; `retry` lets it go on | works |
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from backbone.archive import RecallPending
from backbone.backbone import Backbone
from backbone.copy import Failure, copy_by_server, copy_one, copy_small
from backbone.endpoint import Endpoint, Proving
from backbone.errors import AccessRefused, ChecksumMismatch, EndpointFull, ObjectAbsent, PachonError, TransientError
from backbone.files import BAD, LOST
from backbone.identity import Checks, check_identity
from backbone.leases import Leases
from backbone.links import Breaker, Pace
from backbone.reading import Digest, digest_of, digests_of
from backbone.settings import Link
from backbone.transfers import Transfer, done, failed, mended, take

_log = logging.getLogger(__name__)
_FIRST_BATCH = 8
_READERS = 4


@dataclass(frozen=True)
class Moved:
    """What came of some transfers."""

    files: int = 0
    bytes: int = 0
    failed: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.files + other.files, self.bytes + other.bytes, self.failed + other.failed)


class Route:
    """A link, its two ends, its pace and its state."""

    def __init__(
        self,
        link: Link,
        backbone: Backbone,
        *,
        source: Endpoint,
        target: Endpoint,
        worker: str,
        leases: Leases,
        checks: Checks,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.link, self.breaker = link, Breaker(clock)
        self._backbone, self._catalog, self._settings = backbone, backbone.catalog, backbone.settings.mover
        self._source, self._target, self._worker, self._leases, self._checks = source, target, worker, leases, checks
        self._ids = self._catalog.endpoint_id(link.source), self._catalog.endpoint_id(link.target)
        self._pace, self._clock, self._sleep = Pace(link.bytes_per_s, clock=clock, sleep=sleep), clock, sleep
        self._batch, self._behind, self._worked = _FIRST_BATCH, False, False
        self._proven: bool | None = None
        self._lock = threading.Lock()

    def begin_round(self, oldest: float) -> None:
        """`oldest`: since when (seconds since 1970) the transfer that is first in line has waited."""
        self._behind = self._backbone.now() - oldest > self._settings.behind_s
        self._worked = False

    def has_worked(self) -> bool:
        """Whether a batch was done in this round."""
        return self._worked

    def work(self, until: float, *, stop: Callable[[], bool] = lambda: False) -> Moved:
        """Take and copy until nothing is left, `until` (by the clock) is past or the link is cut. For one of several threads."""
        total = Moved()
        while self._clock() < until and not stop():
            limit = self.breaker.may_take(self._batch)
            taken = self._take(limit) if limit else []
            if not taken:
                break
            began = self._clock()
            with self._leases.keep(taken):
                total += self._settle(taken, self._copy(taken))
            self._learn(len(taken), self._clock() - began)
        return total

    def _take(self, limit: int) -> list[Transfer]:
        """A link that is behind takes the newest first: what comes in now is not delayed by what has piled up."""
        return take(
            self._catalog,
            *self._ids,
            limit=limit,
            worker=self._worker,
            lease_s=self._settings.lease_s,
            now=self._backbone.now(),
            newest_first=self._behind,
        )

    def _learn(self, files: int, took_s: float) -> None:
        """Batches that last about `batch_s`, growing and shrinking by at most a factor of two at a time."""
        with self._lock:
            self._worked = True
            fitting = int(files * self._settings.batch_s / max(took_s, 1e-3))
            self._batch = max(1, min(self._settings.batch, fitting, 2 * files if files >= self._batch else self._batch))

    def _copy(self, taken: Sequence[Transfer]) -> list[tuple[Transfer, Failure | None]]:
        for place, at_source in ((self._source, True), (self._target, False)):
            if (refusal := self._checks.refusal(place)) is not None:
                return [(transfer, Failure(refusal, at_source=at_source)) for transfer in taken]
        if self.link.server_copy is not None:
            return [(transfer, copy_by_server(self._source, self._target, transfer)) for transfer in taken]
        outcomes = self._copy_all(taken)
        return outcomes if self._is_proven() else self._read_back(outcomes)

    def _is_proven(self) -> bool:
        """Whether what the target acknowledges needs no second look."""
        if self._settings.read_back:
            return False
        if self._proven is None:
            try:
                self._proven = isinstance(self._target, Proving) and self._target.proves()
            except PachonError:
                return False
        return self._proven

    def _read_back(self, outcomes: Sequence[tuple[Transfer, Failure | None]]) -> list[tuple[Transfer, Failure | None]]:
        """The outcomes, after a second look at the copies that were acknowledged."""
        asked = {transfer.number: (transfer.file.key, transfer.file.size) for transfer, failure in outcomes if failure is None}
        with ThreadPoolExecutor(_READERS, thread_name_prefix="read-back") as pool:
            found = dict(zip(asked, digests_of(self._target, list(asked.values()), pool), strict=True))
        return [(x, failure or _second_look(x, found[x.number])) for x, failure in outcomes]

    def _copy_all(self, taken: Sequence[Transfer]) -> list[tuple[Transfer, Failure | None]]:
        small = [transfer for transfer in taken if transfer.file.size <= self._settings.small_bytes]
        large = [transfer for transfer in taken if transfer.file.size > self._settings.small_bytes]
        outcomes = list(zip(small, copy_small(self._source, self._target, small, self._pace), strict=True)) if small else []
        return outcomes + [(transfer, copy_one(self._source, self._target, transfer, self._pace)) for transfer in large]

    def _settle(self, taken: Sequence[Transfer], outcomes: Sequence[tuple[Transfer, Failure | None]]) -> Moved:
        arrived = [transfer for transfer, failure in outcomes if failure is None]
        if arrived:
            if self.breaker.passed():
                self._insist(lambda: mended(self._catalog, *self._ids))
            self._insist(lambda: done(self._catalog, arrived, now=self._backbone.now()))
        failures = [(transfer, failure) for transfer, failure in outcomes if failure is not None]
        for transfer, failure in failures:
            self._insist(partial(self._failed, transfer, failure))
        return Moved(len(arrived), sum(transfer.file.size for transfer in arrived), len(failures))

    def _insist(self, say: Callable[[], object]) -> None:
        """What was done is worth saying again to a catalog that does not answer, until others take the transfers over."""
        limit, wait = self._clock() + self._settings.lease_s, 0.2
        while True:
            try:
                say()
            except TransientError:
                if self._clock() + wait > limit:
                    raise
                self._sleep(wait)
                wait = min(2 * wait, 5.0)
            else:
                return

    def _failed(self, transfer: Transfer, failure: Failure) -> None:
        error, key, at = failure.error, transfer.file.key, transfer.source
        stuck, delay_s = transfer.attempt >= self._settings.attempts and not self.breaker.is_open, self._delay_s(transfer)
        if isinstance(error, RecallPending):
            stuck, delay_s = False, error.delay_s
        elif failure.at_source and isinstance(error, (ObjectAbsent, ChecksumMismatch)):
            found = self._source_is(transfer)
            if found is not None:
                self._backbone.mark([key], at, found, actor=self._worker, why=str(error))
                stuck, delay_s = False, 0.0
        elif isinstance(error, (TransientError, AccessRefused)):
            self.breaker.failed(str(error))
            delay_s = max(delay_s, error.delay_s) if isinstance(error, EndpointFull) else delay_s
        elif not isinstance(error, ChecksumMismatch):
            stuck = True
        log = _log.warning if stuck else _log.info
        log("%s: %s %s: %s", self._worker, self.link.name, "STUCK" if stuck else f"again in {delay_s:.1f} s", error)
        failed(self._catalog, transfer, reason=str(error), delay_s=delay_s, now=self._backbone.now(), stuck=stuck)

    def _source_is(self, transfer: Transfer) -> str | None:
        """LOST or BAD if a second look at the source says the same; None if it is right, or does not say."""
        file = transfer.file
        try:
            found = digest_of(self._source, file.key, file.size)
        except ObjectAbsent:
            return LOST if self._is_itself() else None
        except (TransientError, AccessRefused):
            return None
        return None if found == (file.size, file.sha256) else BAD

    def _is_itself(self) -> bool:
        """Whether the source is the place that it was, asked now: a disk may have gone since the round began."""
        try:
            check_identity(self._catalog, self._source)
        except PachonError:
            return False
        return True

    def _delay_s(self, transfer: Transfer) -> float:
        grown = self._settings.retry_min_s * 2.0 ** min(transfer.attempt - 1, 30)
        return min(grown, self._settings.retry_max_s) * random.uniform(0.5, 1.5)  # noqa: S311 - so that they do not come at once


def _second_look(transfer: Transfer, found: Digest | PachonError) -> Failure | None:
    if isinstance(found, PachonError):
        return Failure(found, at_source=False)
    if found == (transfer.file.size, transfer.file.sha256):
        return None
    wrong = ChecksumMismatch(f"{transfer.file.key} at {transfer.target}: acknowledged, but other bytes are read there")
    return Failure(wrong, at_source=False)

"""Scrubbing: every object of an endpoint is read again at a set pace and compared with the catalog, for ever, round after round.

The position is kept in the catalog and moves on with what was found in one transaction: killed anywhere, a few objects are read
twice. Reading holds no transaction and no lock, so new data never waits. Not known is neither bad nor lost: an object that could
not be read keeps its old date, and an endpoint that does not answer ends the round where it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.endpoint import Endpoint
from backbone.errors import ObjectAbsent, PachonError, TransientError
from backbone.files import BAD, LOST
from backbone.identity import check_identity
from backbone.quarantine import quarantine
from backbone.reading import Digest, digests_of
from backbone.repair import Damage, found_right, mark_damaged

BATCH = 200


def _silent(_: object) -> None:
    """Nobody wants to hear of progress."""


@dataclass(frozen=True, kw_only=True)
class ScrubReport:
    """What was read: `bad` and `lost` are asked for again, `right` were BAD or LOST and are not, `unknown` could not be read."""

    endpoint: str
    files: int = 0
    size_bytes: int = 0
    bad: int = 0
    lost: int = 0
    right: int = 0
    unknown: int = 0
    reason: str = ""
    finished: bool = False
    """Whether the round came to the endpoint's last file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    file: int
    key: str
    size: int
    sha256: str
    state: str


class Scrub:
    """The scrubber of one endpoint; `bytes_per_s` None: as fast as it can."""

    def __init__(
        self,
        catalog: Catalog,
        endpoint: Endpoint,
        *,
        actor: str = "scrub",
        bytes_per_s: float | None = None,
        workers: int = 4,
        batch: int = BATCH,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._catalog, self._endpoint, self._actor = catalog, endpoint, actor
        self._rate, self._workers, self._batch = bytes_per_s, workers, batch
        self._clock, self._sleep = clock, sleep
        self._number = catalog.endpoint_id(endpoint.name)

    def run(
        self,
        *,
        limit_s: float | None = None,
        restart: bool = False,
        begin_after: int | None = None,
        say: Callable[[ScrubReport], None] = _silent,
    ) -> ScrubReport:
        """Go on where the last run stopped until the round is finished or `limit_s` have passed; `restart` begins a new round,
        `begin_after` one of the files of higher numbers alone.

        Raises TransientError if the endpoint or the catalog does not answer, or the endpoint is not the place that the catalog
        knows: nothing is marked, the position stays.
        """
        check_identity(self._catalog, self._endpoint)
        begun, report = self._clock(), ScrubReport(endpoint=self._endpoint.name)
        position = self._begin(0 if restart else begin_after)
        with ThreadPoolExecutor(self._workers) as pool:
            while limit_s is None or self._clock() - begun < limit_s:
                rows = self._next(position)
                if not rows:
                    self._finish()
                    return replace(report, finished=True)
                read = digests_of(self._endpoint, [(row.key, row.size) for row in rows], pool)
                answers = [self._judged(row, found) for row, found in zip(rows, read, strict=True)]
                report = self._settle(position, rows, answers, report)
                position = rows[-1].file
                say(report)
                self._keep_pace(begun, report.size_bytes)
        return report

    def _begin(self, start: int | None) -> int:
        now = self._clock()
        with self._catalog.begin() as connection:
            first = {"endpoint": self._number, "position": 0, "rounds": 0, "began": now, "files": 0, "bytes": 0, "damaged": 0}
            self._catalog.insert_new(connection, t.scrub, [first])
            if start is not None:
                anew = {"position": start, "began": now, "files": 0, "bytes": 0, "damaged": 0}
                connection.execute(t.scrub.update().where(self._mine).values(**anew))
            found: int = connection.execute(sa.select(t.scrub.c.position).where(self._mine)).scalar_one()
        return found

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        return t.scrub.c.endpoint == self._number

    def _next(self, position: int) -> list[_Row]:
        """The next replicas, damaged ones too: they may have been put right by somebody."""
        query = (
            sa.select(t.file.c.id, t.file.c.key, t.file.c.size, t.file.c.sha256, t.replica.c.state)
            .join(t.replica, t.replica.c.file == t.file.c.id)
            .where(t.replica.c.endpoint == self._number, t.replica.c.file > position)
            .where(t.replica.c.state.in_(["AVAILABLE", BAD, LOST]))
            .order_by(t.replica.c.file)
            .limit(self._batch)
        )
        return [_Row(file=r.id, key=r.key, size=r.size, sha256=r.sha256, state=r.state) for r in self._catalog.all(query)]

    def _judged(self, row: _Row, answer: Digest | PachonError) -> Damage | PachonError | None:
        """None: the bytes are right; an error: not known."""
        if isinstance(answer, ObjectAbsent):
            return Damage(key=row.key, state=LOST, reason="the endpoint has no such object")
        if isinstance(answer, PachonError) or answer == (row.size, row.sha256):
            return answer if isinstance(answer, PachonError) else None
        size, found = answer
        if row.state == "AVAILABLE":
            try:
                quarantine(self._endpoint, row.key, found=found, expected=row.sha256, now=self._clock())
            except TransientError as error:
                return error
        what = "other bytes than registered" if size == row.size else f"{size} bytes instead of {row.size}"
        return Damage(key=row.key, state=BAD, reason=f"scrub found {what}")

    def _settle(
        self, position: int, rows: Sequence[_Row], answers: Sequence[Damage | PachonError | None], report: ScrubReport
    ) -> ScrubReport:
        unknown = [answer for answer in answers if isinstance(answer, PachonError)]
        if len(unknown) == len(rows) and len(rows) > 1:
            raise TransientError(
                f"scrub of {self._endpoint.name} stops here, none of {len(rows)} objects could be read: {unknown[0]}"
            )
        damages = [answer for answer in answers if isinstance(answer, Damage)]
        if any(damage.state == LOST for damage in damages):
            check_identity(self._catalog, self._endpoint)  # it may have gone since the run began
        right = [row for row, answer in zip(rows, answers, strict=True) if answer is None]
        now, size = self._clock(), sum(row.size for row in right)
        with self._catalog.begin() as connection:
            said: dict[str, Any] = {"at": self._number, "now": now, "ids": self._catalog.id_list(row.file for row in right)}
            verified = f"UPDATE bb_replica SET verified = :now WHERE endpoint = :at AND file {self._catalog.in_list}"
            connection.execute(sa.text(verified), said)
            again = [row.file for row in right if row.state != "AVAILABLE"]
            healed = found_right(self._catalog, connection, self._number, again, actor=self._actor, now=now) if again else 0
            marked = mark_damaged(self._catalog, connection, self._number, damages, actor=self._actor, now=now)
            moved = t.scrub.update().where(self._mine, t.scrub.c.position == position)
            more = {"files": t.scrub.c.files + len(rows), "bytes": t.scrub.c.bytes + size, "damaged": t.scrub.c.damaged + marked}
            connection.execute(moved.values(position=rows[-1].file, **more))
        return replace(
            report,
            files=report.files + len(rows),
            size_bytes=report.size_bytes + size,
            bad=report.bad + sum(d.state == BAD for d in damages),
            lost=report.lost + sum(d.state == LOST for d in damages),
            right=report.right + healed,
            unknown=report.unknown + len(unknown),
            reason=str(unknown[0]) if unknown else report.reason,
        )

    def _finish(self) -> None:
        now = self._clock()
        with self._catalog.begin() as connection:
            done = {
                "position": 0,
                "rounds": t.scrub.c.rounds + 1,
                "ended": now,
                "began": now,
                "files": 0,
                "bytes": 0,
                "damaged": 0,
            }
            connection.execute(t.scrub.update().where(self._mine).values(**done))

    def _keep_pace(self, begun: float, size_bytes: int) -> None:
        if self._rate:
            ahead_s = size_bytes / self._rate - (self._clock() - begun)
            if ahead_s > 0:
                self._sleep(ahead_s)

"""Repair: a replica found BAD or LOST is made again from a good one; one that is right again is believed again.

`replicas.mark` asks for the new copy in the transaction that says the old one is damaged, and movers do the rest. `Repair` looks
at what is damaged still: reads it once more, asks again for what nobody is about to bring, and tells what has no good copy left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.endpoint import Endpoint
from backbone.errors import ObjectAbsent, PachonError
from backbone.files import BAD, LOST, STUCK
from backbone.history import NOTE_MANY
from backbone.identity import check_identity
from backbone.pending import leave_source, request
from backbone.reading import Digest, digests_of
from backbone.register import arrived
from backbone.replicas import REPAIR_PRIORITY, REPAIR_WITHIN_S, mark

_BATCH = 500
_RIGHT = (
    "UPDATE bb_replica SET state = 'AVAILABLE', reason = NULL, verified = :now WHERE endpoint = :at AND file {ids}"
    " AND state IN ('BAD', 'LOST') RETURNING file"
)
_ASKED = (
    "SELECT f.id AS file, CAST(:at AS INTEGER) AS target, CAST(:priority AS INTEGER) AS priority,"
    " CAST(:deadline AS DOUBLE PRECISION) AS deadline FROM bb_file f WHERE f.id {ids}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A replica that is not what it should be: `state` BAD or LOST, and why."""

    key: str
    state: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What became of the damaged replicas of an endpoint. `hopeless`: no whole copy is left anywhere (`examples` names some)."""

    endpoint: str
    damaged: int
    right: int
    asked: int
    hopeless: int
    unknown: int
    examples: tuple[str, ...] = ()


def mark_damaged(catalog: Catalog, connection: Connection, at: int, found: Iterable[Damage], *, actor: str, now: float) -> int:
    """Mark what was found, in the caller's transaction, and ask for good copies; returns how many were AVAILABLE until now."""
    groups: dict[tuple[str, str], list[str]] = {}
    for damage in found:
        groups.setdefault((damage.state, damage.reason), []).append(damage.key)
    return sum(mark(catalog, connection, keys, at, state, actor=actor, why=why, now=now) for (state, why), keys in groups.items())


def found_right(catalog: Catalog, connection: Connection, at: int, files: Sequence[int], *, actor: str, now: float) -> int:
    """Replicas that were BAD or LOST and have the right bytes after all, in the caller's transaction; returns how many."""
    said = {"at": at, "now": now, "actor": actor, "what": "found right", "why": None, "ids": catalog.id_list(files)}
    numbers = connection.execute(sa.text(_RIGHT.format(ids=catalog.in_list)), said).scalars().all()
    if numbers:
        said["ids"] = catalog.id_list(numbers)
        noted = f"(SELECT id AS file, :at AS endpoint FROM bb_file WHERE id {catalog.in_list}) q"
        connection.execute(sa.text(NOTE_MANY + noted), said)
        arrived(catalog, connection, numbers, at)
    return len(numbers)


class Repair:
    """Sees to the damaged replicas of one endpoint."""

    def __init__(
        self,
        catalog: Catalog,
        endpoint: Endpoint,
        *,
        actor: str,
        workers: int = 4,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog, self._endpoint, self._actor, self._clock, self._workers = catalog, endpoint, actor, clock, workers
        self._number = catalog.endpoint_id(endpoint.name)

    def run(self) -> RepairReport:
        """Look at each damaged replica once. Raises TransientError if the catalog does not answer, or the endpoint does not say
        that it is the place that the catalog knows.
        """
        check_identity(self._catalog, self._endpoint)
        damaged = right = asked = hopeless = unknown = position = 0
        examples: list[str] = []
        with ThreadPoolExecutor(self._workers) as pool:
            while rows := self._next(position):
                read = digests_of(self._endpoint, [(row.key, row.size) for row in rows], pool)
                answers = [_is_right(row, found) for row, found in zip(rows, read, strict=True)]
                good = [row.id for row, answer in zip(rows, answers, strict=True) if answer]
                bad = [row.id for row, answer in zip(rows, answers, strict=True) if not answer]
                now = self._clock()
                with self._catalog.begin() as connection:
                    right += found_right(self._catalog, connection, self._number, good, actor=self._actor, now=now) if good else 0
                    asked += self._ask(connection, bad, now) if bad else 0
                    left = self._hopeless(connection, bad) if bad else []
                hopeless += len(left)
                examples += [f"{row.key}: {row.reason}" for row in rows if row.id in left][: 10 - len(examples)]
                damaged, unknown, position = damaged + len(rows), unknown + answers.count(None), rows[-1].id
        return RepairReport(
            endpoint=self._endpoint.name,
            damaged=damaged,
            right=right,
            asked=asked,
            hopeless=hopeless,
            unknown=unknown,
            examples=tuple(examples),
        )

    def _next(self, position: int) -> list[sa.Row[tuple[object, ...]]]:
        query = (
            sa.select(t.file.c.id, t.file.c.key, t.file.c.size, t.file.c.sha256, t.replica.c.reason)
            .join(t.replica, t.replica.c.file == t.file.c.id)
            .where(t.replica.c.endpoint == self._number, t.replica.c.state.in_([BAD, LOST]))
            .where(t.replica.c.file > position)
            .order_by(t.replica.c.file)
            .limit(_BATCH)
        )
        return list(self._catalog.all(query))

    def _ask(self, connection: Connection, files: Sequence[int], now: float) -> int:
        said: Mapping[str, object] = {
            "ids": self._catalog.id_list(files),
            "at": self._number,
            "now": now,
            "priority": REPAIR_PRIORITY,
            "deadline": now + REPAIR_WITHIN_S,
        }
        asked = request(connection, _ASKED.format(ids=self._catalog.in_list), said)
        leave_source(self._catalog, connection, files, self._number)
        return asked

    def _hopeless(self, connection: Connection, files: Sequence[int]) -> set[int]:
        query = sa.select(t.transfer.c.file).where(
            t.transfer.c.target == self._number, t.transfer.c.state == STUCK, t.transfer.c.source.is_(None)
        )
        return set(connection.execute(query.where(self._catalog.among(t.transfer.c.file, files))).scalars())


def _is_right(row: sa.Row[tuple[object, ...]], answer: Digest | PachonError) -> bool | None:
    """None: the endpoint did not say."""
    if isinstance(answer, ObjectAbsent):
        return False
    return None if isinstance(answer, PachonError) else answer == (row.size, row.sha256)

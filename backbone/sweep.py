"""Finds and settles what does not fit: objects without a row, rows without an object, puts that broke off.

Both sides are walked once in the order of keys, an endpoint's listing beside the catalog, in pages. An object that nobody knows
is noted when it is first seen, and settled only after a grace period, since its writer may still register it: it is registered
where it says what it is, otherwise listed as QUARANTINED for a person. Nothing is ever deleted here. A row whose object is absent
(asked for once more: a listing may be older) becomes LOST, and is made again from a good copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.cohorts import Cohorts
from backbone.endpoint import Endpoint
from backbone.errors import ObjectAbsent, PermanentError, TransientError
from backbone.files import AVAILABLE, LOST, NewFile
from backbone.history import note
from backbone.identity import check_identity
from backbone.manifest import OWN
from backbone.put import settle
from backbone.register import register_batch
from backbone.replicas import mark

_PAGE = 2000
SEEN, QUARANTINED = "SEEN", "QUARANTINED"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What a sweep found and did. `orphans`: objects without a row, still in their grace period or quarantined."""

    objects: int = 0
    finished_puts: int = 0
    undone_puts: int = 0
    registered: int = 0
    orphans: int = 0
    lost: int = 0
    unknown: int = 0  # the endpoint did not say: looked at again next time


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphan:
    """An object that the catalog does not know."""

    endpoint: str
    key: str
    seen: float
    state: str
    reason: str


class Sweep:
    """Sweeps one endpoint, below `prefix`, leaving out keys for which `ignore` holds (those of somebody else's, such as the
    attempts of running jobs).
    """

    def __init__(
        self,
        catalog: Catalog,
        cohorts: Cohorts,
        endpoint: Endpoint,
        *,
        prefix: str = "",
        ignore: Callable[[str], bool] | None = None,
        actor: str = "sweep",
    ) -> None:
        self._catalog, self._cohorts, self._endpoint, self._actor = catalog, cohorts, endpoint, actor
        self._prefix, self._ignore = prefix, ignore
        self._number = catalog.endpoint_id(endpoint.name)

    def run(self, *, now: float, grace_s: float) -> SweepReport:
        """One pass over everything. WrongPlace if the endpoint is not the one that the catalog knows: nothing is changed."""
        check_identity(self._catalog, self._endpoint)
        finished, undone = settle(self._catalog, self._cohorts, self._endpoint, now=now, grace_s=grace_s)
        objects = 0
        strays: list[str] = []
        missing: list[str] = []
        for key, is_object, is_row in _merged(self._objects(), self._rows()):
            objects += is_object
            if is_object and not is_row:
                strays.append(key)
            elif is_row and not is_object:
                missing.append(key)
        registered, left, unknown_orphans = self._settle_orphans(strays, now, grace_s)
        lost, unknown = self._settle_missing(missing, now)
        return SweepReport(
            objects=objects,
            finished_puts=finished,
            undone_puts=undone,
            registered=registered,
            orphans=left,
            lost=lost,
            unknown=unknown + unknown_orphans,
        )

    def _objects(self) -> Iterator[str]:
        for key in self._endpoint.list(self._prefix):
            if not key.startswith(OWN) and not (self._ignore and self._ignore(key)):
                yield key

    def _rows(self) -> Iterator[str]:
        """Keys of whole replicas here, in order; by pages, so that no transaction stays open."""
        last = ""
        f, r = t.file.c, t.replica.c
        query = sa.select(f.key).join(t.replica, (r.file == f.id) & (r.endpoint == self._number)).where(r.state == AVAILABLE)
        if self._prefix:
            query = query.where(f.key >= self._prefix, f.key < self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1))
        while page := [row.key for row in self._catalog.all(query.where(f.key > last).order_by(f.key).limit(_PAGE))]:
            yield from (key for key in page if not (self._ignore and self._ignore(key)))
            last = page[-1]

    def _settle_orphans(self, keys: list[str], now: float, grace_s: float) -> tuple[int, int, int]:
        o = t.orphan.c
        seen = {row.key: row for row in self._catalog.all(sa.select(t.orphan).where(o.endpoint == self._number))}
        registered = unknown = 0
        left: list[dict[str, object]] = []
        for key in self._still_unknown(keys):
            row = seen.get(key)
            if row is None or row.seen > now - grace_s:
                left.append(self._row(key, now if row is None else row.seen, SEEN, "nobody registered it yet"))
                continue
            try:
                self._register(key, now)
                registered += 1
            except TransientError:
                unknown += 1
                left.append(self._row(key, row.seen, row.state, row.reason))
            except PermanentError as error:
                left.append(self._row(key, row.seen, QUARANTINED, str(error)))
        with self._catalog.begin() as connection:
            connection.execute(
                t.orphan.delete().where(o.endpoint == self._number, o.key.startswith(self._prefix, autoescape=True))
            )
            self._catalog.insert_many(connection, t.orphan, left)
        return registered, len(left), unknown

    def _row(self, key: str, seen: float, state: str, reason: str) -> dict[str, object]:
        return {"endpoint": self._number, "key": key, "seen": seen, "state": state, "reason": reason}

    def _still_unknown(self, keys: list[str]) -> list[str]:
        """Without those registered since they were listed, known to be damaged, being written over, or being deleted."""
        known: set[str] = set()
        for start in range(0, len(keys), _PAGE):
            page = self._catalog.among(t.file.c.key, keys[start : start + _PAGE])
            here = sa.select(t.file.c.key).join(t.replica, t.replica.c.file == t.file.c.id)
            known |= {row.key for row in self._catalog.all(here.where(page, t.replica.c.endpoint == self._number))}
            coming = sa.select(t.file.c.key).join(t.transfer, t.transfer.c.file == t.file.c.id)
            known |= {row.key for row in self._catalog.all(coming.where(page, t.transfer.c.target == self._number))}
        return [key for key in keys if key not in known]

    def _register(self, key: str, now: float) -> None:
        """What says what it is, and is it, is registered; PermanentError otherwise."""
        info = self._endpoint.info(key)
        file = NewFile.from_about(key, info.about)
        if (info.size, info.sha256) != (file.size, file.sha256):
            raise PermanentError(f"{key}: {info.size} bytes, but it says of itself {file.size} and another checksum")
        with self._catalog.begin() as connection:
            register_batch(self._catalog, connection, self._cohorts, self._number, [file], actor=self._actor, now=now)

    def _settle_missing(self, keys: list[str], now: float) -> tuple[int, int]:
        gone, unknown = [], 0
        for key in keys:
            try:
                self._endpoint.info(key)
            except ObjectAbsent:
                gone.append(key)
            except TransientError:
                unknown += 1
        if gone:
            check_identity(self._catalog, self._endpoint)  # it may have gone since
        lost = 0
        for start in range(0, len(gone), _PAGE):
            with self._catalog.begin() as connection:
                page = gone[start : start + _PAGE]
                why = "the object is not there"
                lost += mark(self._catalog, connection, page, self._number, LOST, actor=self._actor, why=why, now=now)
        if lost:
            with self._catalog.begin() as connection:
                note(connection, at=now, actor=self._actor, what="swept", endpoint=self._number, why=f"{lost} files lost")
        return lost, unknown


def _merged(objects: Iterator[str], rows: Iterator[str]) -> Iterator[tuple[str, bool, bool]]:
    """Both orders of keys as one: (key, is there, is registered)."""
    thing, row = next(objects, None), next(rows, None)
    while thing is not None or row is not None:
        if row is None or (thing is not None and thing.encode() < row.encode()):
            yield thing or "", True, False
            thing = next(objects, None)
        elif thing is None or row.encode() < thing.encode():
            yield row, False, True
            row = next(rows, None)
        else:
            yield thing, True, True
            thing, row = next(objects, None), next(rows, None)


def orphans(catalog: Catalog, *, limit: int = 1000) -> list[Orphan]:
    """Objects that nobody knows, quarantined ones first."""
    query = sa.select(t.orphan).order_by(t.orphan.c.state, t.orphan.c.seen).limit(limit)
    return [
        Orphan(endpoint=catalog.names[row.endpoint], key=row.key, seen=row.seen, state=row.state, reason=row.reason)
        for row in catalog.all(query)
    ]

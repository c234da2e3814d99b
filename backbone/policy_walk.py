"""What a change of policies means for files that were there before it: walked through in batches, while registrations go on.

A change leaves what it asks of each cohort in `bb_change`, and in `bb_walk` how far the cohort's files have been gone through;
what is registered after it has the new wants already. A batch is one transaction. Anybody may go on with a walk: whoever made the
change, and movers if that one died. A change that follows waits for the walks of the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.errors import TransientError
from backbone.pending import request

_NEVER = -1e300
_COHORTS = 200  # at most in one batch
_WAIT_S = 0.05
_TRIES = 5  # of a batch that a deadlock with movers ended

# Files created after `first` and until `last` are asked for; those until `until` are let go. To follow the name of the table.
WANTED = "d JOIN bb_file f ON f.cohort = d.cohort AND f.created > d.first AND f.created <= d.last AND f.dropped IS NULL"
OVER = "d JOIN bb_file f ON f.cohort = d.cohort AND f.created <= d.until"
NO_RULE = "NOT EXISTS (SELECT 1 FROM bb_rule_file rf WHERE rf.file = f.id AND rf.target = d.endpoint)"

_CANCEL = f"""
DELETE FROM bb_transfer WHERE state <> 'RUNNING' AND (file, target) IN
 (SELECT f.id, d.endpoint FROM bb_change {OVER} WHERE f.id {{ids}} AND {NO_RULE})
"""
_EXPIRE = f"""
UPDATE bb_replica SET due = q.due, reason = q.why
FROM (SELECT f.id AS file, d.endpoint, d.due, d.why, d.gone FROM bb_change {OVER} WHERE f.id {{ids}} AND {NO_RULE}) q
WHERE bb_replica.file = q.file AND bb_replica.endpoint = q.endpoint
 AND bb_replica.state <> 'DELETING' AND bb_replica.due IS NULL AND NOT (q.gone AND bb_replica.origin)
"""
_SAVE = """
UPDATE bb_replica SET due = NULL, reason = NULL
FROM (SELECT f.id AS file, d.endpoint FROM bb_change d
 JOIN bb_file f ON f.cohort = d.cohort AND f.created > d.first WHERE f.id {ids} AND NOT d.gone) q
WHERE bb_replica.file = q.file AND bb_replica.endpoint = q.endpoint
 AND bb_replica.state = 'AVAILABLE' AND bb_replica.due IS NOT NULL
"""
# What has outlived its keeping since the change was made is not asked for: its age has been worked off.
_ASKED = f"""
SELECT f.id AS file, d.endpoint AS target, d.priority AS priority, :now + d.within_s AS deadline FROM bb_change {WANTED}
WHERE f.id {{ids}} AND d.fetch AND (d.keep_s IS NULL OR f.created + d.keep_s > :now)
"""
_NEXT = "(SELECT min(f.created) FROM bb_file f WHERE f.cohort = d.cohort AND f.created > d.{mark}) + d.{age}"
_MINE = "bb_want.cohort = d.cohort AND bb_want.endpoint = d.endpoint AND d.cohort {ids}"
_COPY_MARKS = f"""
UPDATE bb_want SET copied_to = d.last, copy_at = {_NEXT.format(mark="last", age="after_s")} FROM bb_change d
WHERE {_MINE} AND d.fetch AND d.after_s > 0
"""
_EXPIRE_MARKS = f"""
UPDATE bb_want SET expired_to = d.until, expire_at = {_NEXT.format(mark="until", age="keep_s")} FROM bb_change d
WHERE {_MINE} AND d.keep_s IS NOT NULL
"""
_FILES = (
    "SELECT id, created FROM bb_file WHERE cohort = :cohort AND (created, id) > (:created, :file) AND id <= :last"
    " ORDER BY created, id LIMIT :limit"
)


@dataclass(frozen=True, kw_only=True)
class Walked:
    """How far a change is: `files` of `of` have been gone through."""

    files: int
    of: int


def begin(catalog: Catalog, connection: Connection, cohorts: Iterable[int]) -> None:
    """Have the files that these cohorts have now gone through; in the transaction that changes wants: registration waits."""
    last = connection.execute(sa.select(sa.func.coalesce(sa.func.max(t.file.c.id), 0))).scalar_one()
    rows = [{"cohort": cohort, "created": _NEVER, "file": 0, "last": last} for cohort in sorted(cohorts)]
    catalog.insert_many(connection, t.walk, rows)


def is_open(connection: Connection) -> bool:
    """Whether there are files left to be gone through."""
    return connection.execute(sa.select(t.walk.c.cohort).limit(1)).first() is not None


def finish(catalog: Catalog, *, now: Callable[[], float], batch: int, say: Callable[[Walked], None] | None = None) -> None:
    """Go through all that is left, `batch` files at a time, together with whoever else does."""
    done, of = 0, _left(catalog) if say else 0
    while True:
        with catalog.read() as connection:
            if not is_open(connection):
                return
        walked = work_off(catalog, now=now(), limit=batch)
        if walked is None:
            time.sleep(_WAIT_S)  # the rest is in others' hands
            continue
        done += walked
        if say is not None:
            say(Walked(files=done, of=max(of, done)))


def work_off(catalog: Catalog, *, now: float, limit: int) -> int | None:
    """One batch of at most `limit` files. Returns how many; None where nothing is left, or all is in others' hands."""
    with catalog.read() as connection:  # asked every few seconds: writers are not kept waiting for that
        if not is_open(connection):
            return None
    for tries_left in reversed(range(_TRIES)):
        try:
            with catalog.begin() as connection:
                return _batch(catalog, connection, now, limit)
        except TransientError:
            if not tries_left:
                raise
            time.sleep(_WAIT_S)
    return None


def _left(catalog: Catalog) -> int:
    query = sa.select(sa.func.count()).select_from(t.file).join(t.walk, t.walk.c.cohort == t.file.c.cohort)
    with catalog.read() as connection:
        return int(connection.execute(query.where(t.file.c.id <= t.walk.c.last)).scalar_one())


def _batch(catalog: Catalog, connection: Connection, now: float, limit: int) -> int | None:
    mine = sa.select(t.walk).order_by(t.walk.c.cohort).limit(_COHORTS).with_for_update(skip_locked=True)
    walks = connection.execute(mine).all()
    if not walks:
        return None
    files, over, further = _next_files(connection, walks, limit)
    cohorts = over | further.keys()
    _hold_ages(catalog, connection, cohorts)
    _set_marks(catalog, connection, [walk.cohort for walk in walks if walk.file == 0 and walk.cohort in cohorts])
    _go_through(catalog, connection, files, now)
    for cohort, (created, file) in further.items():
        connection.execute(t.walk.update().where(t.walk.c.cohort == cohort).values(created=created, file=file))
    for table in (t.change, t.walk):
        connection.execute(table.delete().where(catalog.among(table.c.cohort, over)))
    return len(files)


def _next_files(
    connection: Connection, walks: Sequence[sa.Row[Any]], limit: int
) -> tuple[list[int], set[int], dict[int, tuple[float, int]]]:
    """Up to `limit` files; the cohorts that are gone through with them; of the others, how far they are then."""
    files: list[int] = []
    over: set[int] = set()
    for walk in walks:
        room = limit - len(files)
        where = {"cohort": walk.cohort, "created": walk.created, "file": walk.file, "last": walk.last, "limit": room}
        rows = connection.execute(sa.text(_FILES), where).all()
        files += [row.id for row in rows]
        if len(rows) == room:
            return files, over, {walk.cohort: (rows[-1].created, rows[-1].id)}
        over.add(walk.cohort)
    return files, over, {}


def _set_marks(catalog: Catalog, connection: Connection, cohorts: list[int]) -> None:
    """Up to which dates the walk deals with ages, and when the next is due; what comes of age meanwhile is worked off as ever."""
    given = {"ids": catalog.id_list(cohorts)}
    for statement in (_COPY_MARKS, _EXPIRE_MARKS):
        connection.execute(sa.text(statement.format(ids=catalog.in_list)), given)


def _go_through(catalog: Catalog, connection: Connection, files: list[int], now: float) -> None:
    given = {"ids": catalog.id_list(files), "now": now}
    for statement in (_CANCEL, _EXPIRE, _SAVE):
        connection.execute(sa.text(statement.format(ids=catalog.in_list)), given)
    request(connection, _ASKED.format(ids=catalog.in_list), given)


def _hold_ages(catalog: Catalog, connection: Connection, cohorts: Iterable[int]) -> None:
    """Ages of these cohorts are worked off before this batch or after it, not at the same time."""
    w = t.want.c
    aged = sa.select(w.cohort).where(catalog.among(w.cohort, cohorts), (w.after_s > 0) | w.keep_s.is_not(None))
    connection.execute(aged.order_by(w.cohort, w.endpoint).with_for_update()).all()

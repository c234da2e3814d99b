"""Works off what has come of age: copies asked for from an age on, copies kept until one. By due dates of wants, never a scan.

A want remembers up to which creation date its files were dealt with, and when the next one is due.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.expiry import expire
from backbone.pending import request

_ASKED = """
SELECT f.id AS file, w.endpoint AS target, w.priority AS priority, :now + w.within_s AS deadline
FROM bb_file f JOIN bb_want w ON w.cohort = f.cohort
WHERE f.cohort = :cohort AND w.endpoint = :endpoint AND f.created > :first AND f.created <= :last AND f.dropped IS NULL
 AND (w.keep_s IS NULL OR f.created + w.keep_s > :now)
"""


def work_off(catalog: Catalog, *, now: float, grace_s: float, limit: int = 1000) -> tuple[int, int]:
    """Everything whose date has come: (copies asked for, copies that are due for deletion)."""
    w = t.want
    copied = sum(_copy(catalog, cohort, endpoint, now) for cohort, endpoint in _due(catalog, w.c.copy_at, now, limit))
    expired = sum(_expire(catalog, c, endpoint, now, grace_s) for c, endpoint in _due(catalog, w.c.expire_at, now, limit))
    return copied, expired


def _due(catalog: Catalog, date: sa.Column[float], now: float, limit: int) -> list[tuple[int, int]]:
    query = sa.select(t.want.c.cohort, t.want.c.endpoint).where(date <= now).order_by(date).limit(limit)
    return [(row.cohort, row.endpoint) for row in catalog.all(query)]


def _locked(connection: Connection, cohort: int, endpoint: int) -> sa.Row[tuple[object, ...]] | None:
    chosen = (t.want.c.cohort == cohort, t.want.c.endpoint == endpoint)
    return connection.execute(sa.select(t.want).where(*chosen).with_for_update()).one_or_none()


def _copy(catalog: Catalog, cohort: int, endpoint: int, now: float) -> int:
    with catalog.begin() as connection:
        want = _locked(connection, cohort, endpoint)
        if want is None or want.copy_at is None or want.copy_at > now:
            return 0
        last = now - want.after_s
        given = {"cohort": cohort, "endpoint": endpoint, "first": want.copied_to, "last": last, "now": now}
        asked = request(connection, _ASKED, given)
        _set_copy_mark(connection, cohort, endpoint, last, want.after_s)
    return asked


def _expire(catalog: Catalog, cohort: int, endpoint: int, now: float, grace_s: float) -> int:
    with catalog.begin() as connection:
        want = _locked(connection, cohort, endpoint)
        if want is None or want.expire_at is None or want.expire_at > now:
            return 0
        grace = connection.execute(sa.select(t.cohort.c.grace_s).where(t.cohort.c.id == cohort)).scalar_one()
        last = now - want.keep_s
        count = expire(
            connection,
            cohort=cohort,
            endpoint=endpoint,
            first=want.expired_to,
            last=last,
            due=now + (grace_s if grace is None else grace),
            why=f"kept its time: {', '.join(want.policies)}",
        )
        _set_expire_mark(connection, cohort, endpoint, last, want.keep_s)
    return count


def _next(connection: Connection, cohort: int, last: float) -> float | None:
    query = sa.select(sa.func.min(t.file.c.created)).where(t.file.c.cohort == cohort, t.file.c.created > last)
    found: float | None = connection.execute(query).scalar()
    return found


def _set_copy_mark(connection: Connection, cohort: int, endpoint: int, last: float, after_s: float) -> None:
    """Files created until `last` have been asked for; the next is due when it is `after_s` old."""
    following = _next(connection, cohort, last)
    values = {"copied_to": last, "copy_at": None if following is None else following + after_s}
    connection.execute(t.want.update().where(t.want.c.cohort == cohort, t.want.c.endpoint == endpoint).values(values))


def _set_expire_mark(connection: Connection, cohort: int, endpoint: int, last: float, keep_s: float) -> None:
    """Copies of files created until `last` have been let go; the next is due when it is `keep_s` old."""
    following = _next(connection, cohort, last)
    values = {"expired_to": last, "expire_at": None if following is None else following + keep_s}
    connection.execute(t.want.update().where(t.want.c.cohort == cohort, t.want.c.endpoint == endpoint).values(values))

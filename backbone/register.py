"""Registration: files, their replica, history, and what policies ask for, in one transaction; by COPY and statements over sets.

Idempotent by key: the same content again adds at most a replica; other content under a known key is a ConflictError. Ages of
policies: a want from an age on, or until one, is remembered by the date of the next file due, never by a row for each file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.catalog import Catalog
from backbone.cohorts import Cohorts, share_policies
from backbone.errors import ConflictError, TransientError
from backbone.files import NewFile
from backbone.history import NOTE_MANY
from backbone.pending import find_sources

_STAGE = sa.Table(
    "bb_stage",
    sa.MetaData(),
    *(sa.Column(name) for name in ("key", "size", "sha256", "cohort", "created")),
)

_TEMPORARY = (
    "CREATE TEMP TABLE IF NOT EXISTS bb_stage"
    " (key TEXT, size BIGINT, sha256 TEXT, cohort BIGINT, created DOUBLE PRECISION) ON COMMIT DELETE ROWS",
    "CREATE TEMP TABLE IF NOT EXISTS bb_new (file BIGINT, cohort BIGINT, created DOUBLE PRECISION) ON COMMIT DELETE ROWS",
    "CREATE TEMP TABLE IF NOT EXISTS bb_again (file BIGINT, state TEXT) ON COMMIT DELETE ROWS",
)

_INSERT_FILES = (
    "INSERT INTO bb_file (key, size, sha256, cohort, created) SELECT key, size, sha256, cohort, created FROM bb_stage"
    " WHERE true ORDER BY key ON CONFLICT (key) DO NOTHING"
)
_FILES_POSTGRESQL = (
    f"WITH fresh AS ({_INSERT_FILES} RETURNING id, cohort, created)"
    " INSERT INTO bb_new (file, cohort, created) SELECT id, cohort, created FROM fresh"
)
_FILES_SQLITE_NEW = "INSERT INTO bb_new (file, cohort, created) SELECT id, cohort, created FROM bb_file WHERE id > :before"

_REPLICAS = (
    "INSERT INTO bb_replica (file, endpoint, state, origin, verified) SELECT file, :at, 'AVAILABLE', true, :now FROM bb_new"
)

_TRANSFERS = """
INSERT INTO bb_transfer (file, target, source, state, priority, deadline, created, attempts, reason)
SELECT n.file, w.endpoint, l.source, CASE WHEN l.source IS NULL THEN 'WAITING' ELSE 'PENDING' END, w.priority, :now + w.within_s,
 :now, 0, CASE WHEN l.source IS NULL THEN 'no whole copy has a link to there yet' END
FROM bb_new n JOIN bb_want w ON w.cohort = n.cohort
LEFT JOIN bb_link l ON l.source = :at AND l.target = w.endpoint
WHERE w.fetch AND w.endpoint <> :at AND n.created + w.after_s <= :now AND (w.keep_s IS NULL OR n.created + w.keep_s > :now)
"""

# Wants of these cohorts that an age plays a part in; locked, so that whoever works off ages sees these files or is seen by them.
_AGED = (
    "SELECT cohort, endpoint FROM bb_want WHERE cohort {ids} AND (after_s > 0 OR keep_s IS NOT NULL)"
    " ORDER BY cohort, endpoint{lock}"
)
# Marks are moved back for files older than they say: registered late, or by a clock that is behind. Asking twice is harmless.
_COPY_AT = """
UPDATE bb_want SET copy_at = x.at, copied_to = CASE WHEN x.first <= copied_to THEN x.first - 1 ELSE copied_to END FROM (
 SELECT w.cohort, w.endpoint, min(n.created) + w.after_s AS at, min(n.created) AS first
 FROM bb_new n JOIN bb_want w ON w.cohort = n.cohort
 WHERE w.fetch AND n.created + w.after_s > :now GROUP BY w.cohort, w.endpoint, w.after_s) x
WHERE bb_want.cohort = x.cohort AND bb_want.endpoint = x.endpoint
 AND (bb_want.copy_at IS NULL OR bb_want.copy_at > x.at OR bb_want.copied_to >= x.first)
"""
_EXPIRE_AT = """
UPDATE bb_want SET expire_at = x.at, expired_to = CASE WHEN x.first <= expired_to THEN x.first - 1 ELSE expired_to END FROM (
 SELECT w.cohort, w.endpoint, min(n.created) + w.keep_s AS at, min(n.created) AS first
 FROM bb_new n JOIN bb_want w ON w.cohort = n.cohort
 WHERE w.keep_s IS NOT NULL GROUP BY w.cohort, w.endpoint, w.keep_s) x
WHERE bb_want.cohort = x.cohort AND bb_want.endpoint = x.endpoint
 AND (bb_want.expire_at IS NULL OR bb_want.expire_at > x.at OR bb_want.expired_to >= x.first)
"""

_CONFLICT = (
    "SELECT s.key, s.sha256 AS given, f.sha256 AS known FROM bb_stage s JOIN bb_file f ON f.key = s.key"
    " WHERE s.sha256 <> f.sha256 OR s.size <> f.size LIMIT 1"
)
_AGAIN = (
    "INSERT INTO bb_again (file, state) SELECT DISTINCT f.id, r.state FROM bb_stage s JOIN bb_file f ON f.key = s.key"
    " LEFT JOIN bb_replica r ON r.file = f.id AND r.endpoint = :at"
    " WHERE NOT EXISTS (SELECT 1 FROM bb_new n WHERE n.file = f.id)"
)
_AGAIN_REPLICA = (
    "INSERT INTO bb_replica (file, endpoint, state, origin, verified) SELECT file, :at, 'AVAILABLE', true, :now FROM bb_again"
    " WHERE state IS NULL OR state <> 'AVAILABLE' ORDER BY file"
    " ON CONFLICT (file, endpoint) DO UPDATE SET state = 'AVAILABLE', verified = :now, due = NULL, reason = NULL"
)
# In one order, and before their states are read: a deletion that begins meanwhile is waited for, and seen.
_AGAIN_HELD = (
    "SELECT r.file FROM bb_replica r JOIN bb_file f ON f.id = r.file JOIN bb_stage s ON s.key = f.key WHERE r.endpoint = :at"
    " ORDER BY r.file FOR UPDATE OF r"
)
_AGAIN_FILE = "UPDATE bb_file SET dropped = NULL WHERE dropped IS NOT NULL AND id IN (SELECT file FROM bb_again)"


def register_batch(
    catalog: Catalog, connection: Connection, cohorts: Cohorts, at: int, files: Sequence[NewFile], *, actor: str, now: float
) -> int:
    """Register whole objects that are at endpoint number `at`, in the caller's transaction. Returns how many were new to the
    catalog. ConflictError if a key is known with other content: nothing of the batch is registered then.
    """
    share_policies(catalog, connection)
    shared = [file.shared for file in files]
    numbers = cohorts.numbers(connection, shared)
    rows = [(f.key, f.size, f.sha256, numbers[values], f.created) for f, values in zip(files, shared, strict=True)]
    _stage(catalog, connection, rows)
    ids = catalog.id_list({row[3] for row in rows})
    lock = " FOR NO KEY UPDATE" if catalog.is_postgresql else ""
    aged = connection.execute(sa.text(_AGED.format(ids=catalog.in_list, lock=lock)), {"ids": ids}).all()
    new = _insert_files(catalog, connection)
    said: dict[str, Any] = {"at": at, "now": now, "actor": actor, "what": "registered", "why": None}
    _say(connection, said, _REPLICAS, NOTE_MANY + "(SELECT file, :at AS endpoint FROM bb_new) q", _TRANSFERS)
    if aged:
        _say(connection, said, _COPY_AT, _EXPIRE_AT)
    if new < len(files):
        _again(catalog, connection, said)
    return new


def _stage(catalog: Catalog, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    for statement in _TEMPORARY:
        connection.exec_driver_sql(statement if catalog.is_postgresql else statement.replace(" ON COMMIT DELETE ROWS", ""))
    names = list(_STAGE.columns.keys())
    if catalog.is_postgresql:
        catalog.copy(connection, _STAGE, names, rows)
        return
    for table in ("bb_stage", "bb_new", "bb_again"):
        connection.exec_driver_sql(f"DELETE FROM {table}")
    connection.execute(_STAGE.insert(), [dict(zip(names, row, strict=True)) for row in rows])


def _insert_files(catalog: Catalog, connection: Connection) -> int:
    if catalog.is_postgresql:
        return connection.exec_driver_sql(_FILES_POSTGRESQL).rowcount
    before = connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM bb_file").scalar_one()
    connection.exec_driver_sql(_INSERT_FILES)
    return connection.execute(sa.text(_FILES_SQLITE_NEW), {"before": before}).rowcount


def _say(connection: Connection, parameters: dict[str, Any], *statements: str) -> None:
    for statement in statements:
        connection.execute(sa.text(statement), parameters)


def _again(catalog: Catalog, connection: Connection, said: dict[str, Any]) -> None:
    """What the catalog knows already: other content is refused; the same may have a new place, or be whole again."""
    other = connection.exec_driver_sql(_CONFLICT).first()
    if other is not None:
        raise ConflictError(
            f"file {other.key} is registered with SHA-256 {other.known[:12]}…, not {other.given[:12]}…: "
            "a key's content never changes; give the new one another key"
        )
    if catalog.is_postgresql:
        connection.execute(sa.text(_AGAIN_HELD), said)
    connection.execute(sa.text(_AGAIN), said)
    rows = connection.exec_driver_sql("SELECT file, state FROM bb_again WHERE state IS NULL OR state <> 'AVAILABLE'").all()
    if any(row.state == "DELETING" for row in rows):
        raise TransientError("some of these files are being deleted at this endpoint just now; register them again in a minute")
    if not rows:
        return
    _say(
        connection,
        said,
        _AGAIN_REPLICA,
        _AGAIN_FILE,
        NOTE_MANY + "(SELECT file, :at AS endpoint FROM bb_again WHERE state IS NULL) q",
    )
    arrived(catalog, connection, [row.file for row in rows], said["at"])


def arrived(catalog: Catalog, connection: Connection, files: Sequence[int], endpoint: int) -> None:
    """Whole copies of these files are at the endpoint now: nothing is pending for it, rules know it, others may copy from it."""
    parameters = {"ids": catalog.id_list(files), "at": endpoint}
    _say(
        connection,
        parameters,
        f"DELETE FROM bb_transfer WHERE file {catalog.in_list} AND target = :at",
        f"UPDATE bb_rule_file SET ok = true WHERE file {catalog.in_list} AND target = :at AND NOT ok",
    )
    find_sources(catalog, connection, files)

"""What must be moved: asks for copies, and chooses where each comes from. Statements over sets of files.

A transfer's source is the whole copy with the cheapest link to the target; without one it waits until such a copy is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.catalog import Catalog

# The best source of file {file} for target {target}; NULL: none.
SOURCE = """(SELECT r.endpoint FROM bb_replica r JOIN bb_link l ON l.source = r.endpoint AND l.target = {target}
 WHERE r.file = {file} AND r.state = 'AVAILABLE' ORDER BY l.cost, r.endpoint LIMIT 1)"""

# Nothing asks for file f at endpoint {endpoint}: no policy at its age, no rule.
UNWANTED = """NOT EXISTS (SELECT 1 FROM bb_want w WHERE w.cohort = f.cohort AND w.endpoint = {endpoint}
 AND (w.keep_s IS NULL OR f.created + w.keep_s > :now))
 AND NOT EXISTS (SELECT 1 FROM bb_rule_file rf WHERE rf.file = f.id AND rf.target = {endpoint})"""

_NO_SOURCE = "no whole copy has a link to there yet"
NOWHERE = "no whole copy is left anywhere"

_REQUEST = f"""
INSERT INTO bb_transfer (file, target, source, state, priority, deadline, created, attempts, reason)
SELECT q.file, q.target, q.source, CASE WHEN q.source IS NULL THEN 'WAITING' ELSE 'PENDING' END, q.priority, q.deadline, :now, 0,
 CASE WHEN q.source IS NULL THEN '{_NO_SOURCE}' END
FROM (
  SELECT a.file, a.target, a.priority, a.deadline,
   CASE WHEN h.state = 'DELETING' THEN NULL ELSE {SOURCE.format(file="a.file", target="a.target")} END AS source
  FROM (%s) a LEFT JOIN bb_replica h ON h.file = a.file AND h.endpoint = a.target
  WHERE h.state IS NULL OR h.state <> 'AVAILABLE'
  ORDER BY a.file, a.target
) q
WHERE true
ON CONFLICT (file, target) DO UPDATE SET
 priority = CASE WHEN excluded.priority > bb_transfer.priority THEN excluded.priority ELSE bb_transfer.priority END,
 deadline = CASE WHEN excluded.deadline < bb_transfer.deadline THEN excluded.deadline ELSE bb_transfer.deadline END
 WHERE excluded.priority > bb_transfer.priority OR excluded.deadline < bb_transfer.deadline
"""

_REVIVE = """
UPDATE bb_replica SET due = NULL, reason = NULL WHERE state = 'AVAILABLE' AND due IS NOT NULL
 AND EXISTS (SELECT 1 FROM (%s) a WHERE a.file = bb_replica.file AND a.target = bb_replica.endpoint)
"""


def request(connection: Connection, asked: str, parameters: Mapping[str, Any]) -> int:
    """Ask for the copies that the query `asked` gives as (file, target, priority, deadline); `parameters` has `now`.

    A copy that is there stays, and is no longer up for deletion; one that is asked for already gets the higher priority and the
    earlier deadline. Returns the number of transfers that are new or more urgent.
    """
    connection.execute(sa.text(_REVIVE % asked), parameters)
    return connection.execute(sa.text(_REQUEST % asked), parameters).rowcount


def find_sources(catalog: Catalog, connection: Connection, files: Iterable[int]) -> None:
    """Give transfers of these files a source, where a copy that has just come brings one."""
    given = {"ids": catalog.id_list(files)}
    without = f"file {catalog.in_list} AND source IS NULL AND state IN ('WAITING', 'STUCK')"
    # In one order, so that movers that end at the same time do not wait for each other in a circle.
    lock = " FOR UPDATE" if catalog.is_postgresql else ""
    query = f"SELECT file FROM bb_transfer WHERE {without} ORDER BY file, target{lock}"
    if not connection.execute(sa.text(query), given).all():
        return
    source = SOURCE.format(file="bb_transfer.file", target="bb_transfer.target")
    connection.execute(
        sa.text(
            f"UPDATE bb_transfer SET source = {source}, state = 'PENDING', due = NULL, reason = NULL"
            f" WHERE {without} AND {source} IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM bb_replica d"
            " WHERE d.file = bb_transfer.file AND d.endpoint = bb_transfer.target AND d.state = 'DELETING')"
        ),
        given,
    )


def leave_source(catalog: Catalog, connection: Connection, files: Iterable[int], endpoint: int) -> None:
    """Take another source for transfers of these files that would have come from `endpoint`; those under way will see for
    themselves. Without another source they wait, and are STUCK where no whole copy is left anywhere.
    """
    source = SOURCE.format(file="bb_transfer.file", target="bb_transfer.target")
    ids = catalog.id_list(files)
    where = f"file {catalog.in_list} AND state IN ('PENDING', 'WAITING', 'STUCK')"
    connection.execute(
        sa.text(f"UPDATE bb_transfer SET source = {source} WHERE {where} AND source = :endpoint"),
        {"ids": ids, "endpoint": endpoint},
    )
    whole = "EXISTS (SELECT 1 FROM bb_replica w WHERE w.file = bb_transfer.file AND w.state = 'AVAILABLE')"
    connection.execute(
        sa.text(
            f"UPDATE bb_transfer SET due = NULL, state = CASE WHEN {whole} THEN 'WAITING' ELSE 'STUCK' END,"
            f" reason = CASE WHEN {whole} THEN '{_NO_SOURCE}' ELSE '{NOWHERE}' END"
            f" WHERE {where} AND source IS NULL"
        ),
        {"ids": ids},
    )

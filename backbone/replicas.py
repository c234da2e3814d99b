"""Where files are, and what becomes of a copy that is found bad or missing: it is made again from a good one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.files import AVAILABLE, COPYING, Replica
from backbone.flow import eta_s
from backbone.history import NOTE_MANY
from backbone.pending import leave_source, request

REPAIR_PRIORITY = 90
REPAIR_WITHIN_S = 3600.0


def present(catalog: Catalog, keys: Iterable[str], endpoint: int) -> set[str]:
    """Which of the keys are whole at the endpoint; one query."""
    query = (
        sa.select(t.file.c.key)
        .join(t.replica, (t.replica.c.file == t.file.c.id) & (t.replica.c.endpoint == endpoint))
        .where(catalog.among(t.file.c.key, keys), t.replica.c.state == AVAILABLE)
    )
    return {row.key for row in catalog.all(query)}


def known(catalog: Catalog, keys: Iterable[str], endpoint: int) -> set[str]:
    """Which of the keys the catalog has a replica of at the endpoint, in whatever state; one query."""
    query = (
        sa.select(t.file.c.key)
        .join(t.replica, (t.replica.c.file == t.file.c.id) & (t.replica.c.endpoint == endpoint))
        .where(catalog.among(t.file.c.key, keys))
    )
    return {row.key for row in catalog.all(query)}


def locate(catalog: Catalog, keys: Iterable[str], *, now: float) -> dict[str, list[Replica]]:
    """Replicas of each known key, whole ones first, and where copies are on their way; three queries for any number."""
    asked = list(keys)
    chosen = catalog.among(t.file.c.key, asked)
    about = (t.file.c.key, t.file.c.size, t.file.c.sha256)
    there = sa.select(*about, t.replica).join(t.replica, t.replica.c.file == t.file.c.id).where(chosen)
    coming = sa.select(*about, t.transfer).join(t.transfer, t.transfer.c.file == t.file.c.id).where(chosen)
    found: dict[str, list[Replica]] = {row.key: [] for row in catalog.all(sa.select(t.file.c.key).where(chosen))}
    moving = {(row.key, row.target): row for row in catalog.all(coming)}
    with catalog.read() as connection:
        eta = {target: eta_s(connection, target, now=now) for target in {target for _, target in moving}}
    for row in catalog.all(there):
        transfer = moving.pop((row.key, row.endpoint), None)
        found[row.key].append(
            Replica(
                key=row.key,
                endpoint=catalog.names[row.endpoint],
                state=row.state,
                size=row.size,
                sha256=row.sha256,
                verified=row.verified,
                eta_s=eta[row.endpoint] if transfer else None,
                reason=(transfer.reason if transfer else None) or row.reason or "",
            )
        )
    for (key, target), row in moving.items():
        found[key].append(
            Replica(
                key=key,
                endpoint=catalog.names[target],
                state=COPYING,
                size=row.size,
                sha256=row.sha256,
                eta_s=eta[target],
                reason=row.reason or "",
            )
        )
    for replicas in found.values():
        replicas.sort(key=lambda replica: (replica.state != AVAILABLE, replica.state != COPYING, replica.endpoint))
    return found


def mark(
    catalog: Catalog, connection: Connection, keys: Sequence[str], endpoint: int, state: str, *, actor: str, why: str, now: float
) -> int:
    """Say that copies are BAD (their bytes are wrong) or LOST (not there), in the caller's transaction; new copies are asked for
    at once. A copy that is being deleted is left alone; one whose time is over stays due: the new one goes when it would have
    gone. Returns how many were AVAILABLE until now.
    """
    numbers = list(catalog.file_ids(connection, keys).values())
    chosen = (catalog.among(t.replica.c.file, numbers), t.replica.c.endpoint == endpoint, t.replica.c.state == AVAILABLE)
    rows = connection.execute(sa.select(t.replica.c.file).where(*chosen).order_by(t.replica.c.file).with_for_update()).all()
    files = [row.file for row in rows]
    if not files:
        return 0
    ids = catalog.id_list(files)
    connection.execute(t.replica.update().where(*chosen).values(state=state, reason=why))
    connection.execute(
        sa.text(f"UPDATE bb_rule_file SET ok = false WHERE file {catalog.in_list} AND target = :at"), {"ids": ids, "at": endpoint}
    )
    connection.execute(
        sa.text(NOTE_MANY + f"(SELECT f.id AS file, :at AS endpoint FROM bb_file f WHERE f.id {catalog.in_list}) q"),
        {"ids": ids, "at": endpoint, "now": now, "actor": actor, "what": state.lower(), "why": why},
    )
    request(
        connection,
        "SELECT f.id AS file, CAST(:at AS INTEGER) AS target, CAST(:priority AS INTEGER) AS priority,"
        f" CAST(:deadline AS DOUBLE PRECISION) AS deadline FROM bb_file f WHERE f.id {catalog.in_list}",
        {"ids": ids, "at": endpoint, "priority": REPAIR_PRIORITY, "deadline": now + REPAIR_WITHIN_S, "now": now},
    )
    leave_source(catalog, connection, files, endpoint)
    return len(files)

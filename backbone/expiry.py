"""The end of copies: due when nothing asks for them, deleted after a grace period, never below the floor.

A copy that is due is AVAILABLE until its deletion begins; whoever asks for it before saves it. Deletion begins in a transaction
that locks the files, looks once more at what asks for them and counts the whole copies that remain; only then is the object
removed, and only after that the row. A worker that dies in between leaves a lease that ends; deleting twice is harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.files import DELETING
from backbone.history import NOTE_MANY
from backbone.pending import UNWANTED, find_sources

STAYS = "stays for now: "
"""How the reasons of copies begin whose time is over and which may not go."""
_POSTPONED_S = 600.0

# May file f's copy at :at go? What asks for it, what copies from it or to its place, how many others are whole, how many must be.
_LOOK = f"""
SELECT f.id, f.key, r.state, r.due,
 ({UNWANTED.format(endpoint=":at")}) AS unwanted,
 EXISTS (SELECT 1 FROM bb_transfer x WHERE x.file = f.id AND x.source = :at) AS read,
 EXISTS (SELECT 1 FROM bb_transfer x WHERE x.file = f.id AND x.target = :at) AS written,
 (SELECT count(*) FROM bb_replica o WHERE o.file = f.id AND o.endpoint <> :at AND o.state = 'AVAILABLE') AS others,
 CASE WHEN c.drop_after_s IS NOT NULL AND f.created + c.drop_after_s <= :now THEN 0 ELSE c.floor END AS floor
FROM bb_file f JOIN bb_cohort c ON c.id = f.cohort JOIN bb_replica r ON r.file = f.id AND r.endpoint = :at
WHERE f.id {{ids}}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletion:
    """An object to be removed; its replica is DELETING already. `worker` holds it until its lease ends."""

    number: int
    key: str
    endpoint: str
    worker: str


def begin_deletions(catalog: Catalog, endpoint: int, *, limit: int, worker: str, lease_s: float, now: float) -> list[Deletion]:
    """Up to `limit` copies at the endpoint whose time is over and which may go; they are DELETING from now on. What is asked for
    again is kept; what would fall below the floor, or is being copied from, waits and says why.
    """
    r = t.replica
    due = sa.select(r.c.file).where(r.c.endpoint == endpoint, r.c.due <= now).order_by(r.c.due).limit(limit)
    if not catalog.all(due.limit(1)):  # asked every second or so: writers are not kept waiting for that
        return []
    with catalog.begin() as connection:
        numbers = sorted(connection.execute(due.with_for_update(skip_locked=True)).scalars())
        if not numbers:
            return []
        # Two places that each hold "the other's last copy" decide one after the other.
        connection.execute(
            sa.select(t.file.c.id).where(catalog.among(t.file.c.id, numbers)).order_by(t.file.c.id).with_for_update()
        )
        given = {"ids": catalog.id_list(numbers), "at": endpoint, "now": now}
        rows = connection.execute(sa.text(_LOOK.format(ids=catalog.in_list)), given).all()
        verdicts = {row.id: _verdict(row) for row in rows}
        going = [row for row in rows if verdicts[row.id] == ""]
        _set(catalog, connection, endpoint, [row.id for row in going], state=DELETING, due=now + lease_s, reason=worker)
        _set(catalog, connection, endpoint, [n for n, why in verdicts.items() if why is None], due=None, reason=None)
        for why in {why for why in verdicts.values() if why}:
            kept = [n for n, found in verdicts.items() if found == why]
            _set(catalog, connection, endpoint, kept, due=now + _POSTPONED_S, reason=why)
    return [Deletion(number=row.id, key=row.key, endpoint=catalog.names[endpoint], worker=worker) for row in going]


def _verdict(row: sa.Row[Any]) -> str | None:
    """Empty: it goes. None: it is asked for again. Otherwise why it stays for now."""
    if row.state == DELETING:
        return ""
    if not row.unwanted:
        return None
    if row.read:
        return f"{STAYS}it is being copied from"
    if row.written:  # removed now, it could be removed after the good one has come
        return f"{STAYS}a good copy is on its way here"
    if row.state == "AVAILABLE" and row.others < row.floor:
        return f"{STAYS}{row.others} other whole copies, the floor is {row.floor}"
    return ""


def _set(catalog: Catalog, connection: Connection, endpoint: int, files: Sequence[int], **values: Any) -> None:
    if files:
        chosen = (catalog.among(t.replica.c.file, files), t.replica.c.endpoint == endpoint)
        connection.execute(t.replica.update().where(*chosen).values(**values))


def deleted(catalog: Catalog, deletions: Sequence[Deletion], *, now: float) -> int:
    """These objects are gone. A file without any copy left is `dropped`: its row and history remain. Returns how many counted."""
    return sum(
        _deleted(catalog, [d for d in deletions if d.endpoint == name], catalog.endpoint_id(name), now)
        for name in sorted({d.endpoint for d in deletions})
    )


def _deleted(catalog: Catalog, deletions: Sequence[Deletion], endpoint: int, now: float) -> int:
    r, worker = t.replica, deletions[0].worker
    with catalog.begin() as connection:
        mine = (r.c.endpoint == endpoint, r.c.state == DELETING, r.c.reason == worker)
        asked = catalog.among(r.c.file, [d.number for d in deletions])
        numbers = list(connection.execute(sa.select(r.c.file).where(asked, *mine).order_by(r.c.file).with_for_update()).scalars())
        if not numbers:
            return 0
        given = {"ids": catalog.id_list(numbers), "at": endpoint, "now": now}
        connection.execute(r.delete().where(catalog.among(r.c.file, numbers), *mine))
        gone = f"(SELECT f.id AS file, :at AS endpoint FROM bb_file f WHERE f.id {catalog.in_list}) q"
        connection.execute(sa.text(NOTE_MANY + gone), {**given, "actor": worker, "what": "deleted", "why": None})
        connection.execute(
            sa.text(
                f"UPDATE bb_file SET dropped = :now WHERE id {catalog.in_list}"
                " AND NOT EXISTS (SELECT 1 FROM bb_replica r WHERE r.file = bb_file.id)"
            ),
            given,
        )
        find_sources(catalog, connection, numbers)
    return len(numbers)


def deletion_failed(catalog: Catalog, deletion: Deletion, *, delay_s: float, now: float) -> None:
    """The object could not be removed, or nobody knows: it is tried again after `delay_s` (it stays DELETING: it may be gone)."""
    r, at = t.replica, catalog.endpoint_id(deletion.endpoint)
    with catalog.begin() as connection:
        mine = (r.c.file == deletion.number, r.c.endpoint == at, r.c.state == DELETING, r.c.reason == deletion.worker)
        connection.execute(r.update().where(*mine).values(due=now + delay_s))


# Copies of files of a cohort created in a span of time, at an endpoint, that no rule asks for.
_EXPIRE = """
UPDATE bb_replica SET due = :due, reason = :why
WHERE endpoint = :at AND state <> 'DELETING' AND due IS NULL
 AND file IN (SELECT f.id FROM bb_file f WHERE f.cohort = :cohort AND f.created > :first AND f.created <= :last)
 AND NOT EXISTS (SELECT 1 FROM bb_rule_file rf WHERE rf.file = bb_replica.file AND rf.target = :at)
"""
_CANCEL = """
DELETE FROM bb_transfer WHERE target = :at AND state <> 'RUNNING'
 AND file IN (SELECT f.id FROM bb_file f WHERE f.cohort = :cohort AND f.created > :first AND f.created <= :last)
 AND NOT EXISTS (SELECT 1 FROM bb_rule_file rf WHERE rf.file = bb_transfer.file AND rf.target = :at)
"""


def expire(connection: Connection, *, cohort: int, endpoint: int, first: float, last: float, due: float, why: str) -> int:
    """Copies of a cohort's files created after `first` and until `last` are due; copies not made yet are called off. Returns how
    many became due.
    """
    given = {"at": endpoint, "cohort": cohort, "first": first, "last": last, "due": due, "why": why}
    connection.execute(sa.text(_CANCEL), given)
    return connection.execute(sa.text(_EXPIRE), given).rowcount

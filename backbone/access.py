"""Who may read a file: its owner, a list, a group, or everybody; and everybody once it is public. Refusals are written down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.errors import refused
from backbone.history import NOTE_MANY, note


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """A user, as whoever authenticated them says. Operators read everything."""

    name: str
    groups: frozenset[str] = frozenset()
    operator: bool = False


def public_at(created: float, public_from: float | None, after_s: float | None, latest_s: float | None) -> float | None:
    """When a file is public: when published, but not before the minimum age; by itself at the maximum age; None: never."""
    acts = [] if public_from is None else [max(public_from, created + (after_s or 0.0))]
    ages = [] if latest_s is None else [created + latest_s]
    return min(acts + ages, default=None)


def may_read(row: Any, who: Principal, *, now: float) -> bool:
    """Whether `who` may read a file, by columns of file and cohort."""
    if who.operator or row.access == "public" or row.owner == who.name:
        return True
    kind, _, names = row.access.partition(":")
    if kind == "group" and names in who.groups:
        return True
    if kind == "list" and who.name in names.split(","):
        return True
    free = public_at(row.created, row.public_from, row.public_after_s, row.public_latest_s)
    return free is not None and free <= now


def check_readable(catalog: Catalog, keys: Iterable[str], who: Principal, *, now: float) -> None:
    """AccessRefused for the first file that `who` may not read, and every refusal in the history. A key that nobody registered is
    refused in the same words, so that names of what is hidden cannot be guessed.
    """
    asked = list(dict.fromkeys(keys))
    columns = (t.file.c.id, t.file.c.key, t.file.c.created, t.file.c.public_from)
    about = (t.cohort.c.owner, t.cohort.c.access, t.cohort.c.public_after_s, t.cohort.c.public_latest_s)
    query = sa.select(*columns, *about).join(t.cohort, t.cohort.c.id == t.file.c.cohort)
    rows = {row.key: row for row in catalog.all(query.where(catalog.among(t.file.c.key, asked)))}
    hidden = [key for key in asked if key not in rows or not may_read(rows[key], who, now=now)]
    if not hidden:
        return
    with catalog.begin() as connection:
        for key in hidden:
            number = rows[key].id if key in rows else None
            note(connection, at=now, actor=who.name, what="refused", file=number, why=f"read {key}")
    raise refused(f"{who.name} may not read {hidden[0]}, or there is no such file; ask its owner for access")


def publish(catalog: Catalog, keys: Iterable[str], *, actor: str, now: float) -> int:
    """Make files public (see `public_at`), and note it; UnknownFile for a key that is not registered."""
    f = t.file.c
    with catalog.begin() as connection:
        numbers = sorted(catalog.file_ids(connection, keys).values())
        chosen = (catalog.among(f.id, numbers), f.public_from.is_(None))
        files = connection.execute(sa.select(f.id).where(*chosen).order_by(f.id).with_for_update()).scalars().all()
        connection.execute(t.file.update().where(catalog.among(f.id, files)).values(public_from=now))
        said = {"now": now, "actor": actor, "what": "published", "why": None, "ids": catalog.id_list(files)}
        published = f"(SELECT f.id AS file, CAST(NULL AS INTEGER) AS endpoint FROM bb_file f WHERE f.id {catalog.in_list}) q"
        connection.execute(sa.text(NOTE_MANY + published), said)
    return len(files)

"""A new object and its registration: all or nothing to every reader, whoever dies in between.

Intent (a row) → object (created only if the key is free) → registration, which removes the intent in its own transaction. Until
then the catalog says nothing of the file. What a dead writer leaves is settled later: an object that is whole is registered,
otherwise the intent goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.cohorts import Cohorts
from backbone.endpoint import Endpoint, ObjectInfo, sha256_of
from backbone.errors import ConflictError, ObjectAbsent, ObjectExists, TransientError
from backbone.files import AVAILABLE, DELETING, NewFile
from backbone.history import note
from backbone.register import register_batch


def described(key: str, content: bytes | Path, about: NewFile | Mapping[str, Any]) -> NewFile:
    """The file with the size and checksum of `content`; `about` gives the rest (ConflictError if it says other ones)."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha256 = sha256_of(content)
    if isinstance(about, NewFile):
        if (about.key, about.size, about.sha256) != (key, size, sha256):
            raise ConflictError(
                f"put {key}: the content is not what `about` says ({about.key}, {about.size} bytes); give the facts"
            )
        return about.checked()
    return NewFile(**{**about, "key": key, "size": size, "sha256": sha256}).checked()


def put_registered(
    catalog: Catalog, cohorts: Cohorts, endpoint: Endpoint, file: NewFile, content: bytes | Path, *, actor: str, now: float
) -> ObjectInfo:
    """Store and register; the same again is a success, other content under the key a ConflictError."""
    at = catalog.endpoint_id(endpoint.name)
    info = ObjectInfo(key=file.key, size=file.size, sha256=file.sha256, about=file.about())
    with catalog.begin() as connection:
        known = connection.execute(
            sa.select(t.file.c.sha256, t.replica.c.state)
            .outerjoin(t.replica, (t.replica.c.file == t.file.c.id) & (t.replica.c.endpoint == at))
            .where(t.file.c.key == file.key)
        ).one_or_none()
        if known is not None and known.sha256 != file.sha256:
            raise ConflictError(f"put {file.key}: the key is registered with other content; give the new one another key")
        if known is not None and known.state == AVAILABLE:
            return info
        if known is not None and known.state == DELETING:
            raise TransientError(f"put {file.key}: it is being deleted at {endpoint.name} just now; put it again in a minute")
        row = {"endpoint": at, "key": file.key, "file": _row(file), "actor": actor, "at": now}
        intent = connection.execute(t.intent.insert().values(row).returning(t.intent.c.id)).scalar_one()
    replaced = known is not None and known.state is not None
    _store(endpoint, file, content, create_only=not replaced)
    with catalog.begin() as connection:
        register_batch(catalog, connection, cohorts, at, [file], actor=actor, now=now)
        connection.execute(t.intent.delete().where(t.intent.c.id == intent))
    return info


def _store(endpoint: Endpoint, file: NewFile, content: bytes | Path, *, create_only: bool) -> None:
    """A copy that the catalog knows to be bad or lost is written over; otherwise the key must be free, or hold the same."""
    try:
        stored = endpoint.put(file.key, content, create_only=create_only, about=file.about())
    except ObjectExists:
        stored = endpoint.info(file.key)
        if stored.sha256 is None:
            stored = ObjectInfo(key=file.key, size=stored.size, sha256=sha256_of(endpoint.get(file.key)))
    if (stored.size, stored.sha256) != (file.size, file.sha256):
        raise ConflictError(
            f"put {file.key}: {endpoint.name} holds another object of this name that is not registered; "
            "see it with `pachon backbone orphans`, or give the new one another key"
        )


def _row(file: NewFile) -> dict[str, Any]:
    return {"size": file.size, "about": file.about()}


def settle(
    catalog: Catalog, cohorts: Cohorts, endpoint: Endpoint, *, now: float, grace_s: float, limit: int = 1000
) -> tuple[int, int]:
    """Settle puts at this endpoint that began longer ago than `grace_s`: (registered, taken back). A put that is still going on
    is not harmed: registering twice is the same as once, and an intent that was taken back is not needed to register.
    """
    at = catalog.endpoint_id(endpoint.name)
    query = (
        sa.select(t.intent).where(t.intent.c.endpoint == at, t.intent.c.at <= now - grace_s).order_by(t.intent.c.at).limit(limit)
    )
    finished = undone = 0
    for row in catalog.all(query):
        file = NewFile.from_about(row.key, row.file["about"])
        whole = _is_whole(endpoint, file)
        try:
            _settled(catalog, cohorts, at, row, file if whole else None, why="it broke off", now=now)
        except ConflictError as error:  # the key was given to other content elsewhere meanwhile: this object is an orphan
            whole = False
            _settled(catalog, cohorts, at, row, None, why=str(error), now=now)
        finished, undone = finished + whole, undone + (not whole)
    return finished, undone


def _settled(
    catalog: Catalog, cohorts: Cohorts, at: int, row: sa.Row[Any], file: NewFile | None, *, why: str, now: float
) -> None:
    """The intent goes: with its file registered, or without."""
    with catalog.begin() as connection:
        if file is not None:
            register_batch(catalog, connection, cohorts, at, [file], actor=row.actor, now=now)
        else:
            note(connection, at=now, actor=row.actor, what="put-undone", endpoint=at, why=f"{row.key}: {why}")
        connection.execute(t.intent.delete().where(t.intent.c.id == row.id))


def _is_whole(endpoint: Endpoint, file: NewFile) -> bool:
    try:
        info = endpoint.info(file.key)
    except ObjectAbsent:
        return False
    return info.size == file.size and (info.sha256 or sha256_of(endpoint.get(file.key))) == file.sha256

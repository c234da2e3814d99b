"""Recovery after a disaster: an endpoint's objects are lost, or the catalog is (0186, LVV-T198).

`recover_endpoint` compares an endpoint with the catalog by listing it, and asks for everything that is gone from the others;
movers bring it. `recover_catalog` fills an empty catalog from the endpoints: manifests and what objects say of themselves give
the files, listings give the replicas, policies in force then ask for what is missing. Both may be killed and run again.

Not in objects, and so not recovered: history, acts of publication (a file is then public at its policy's latest age), stage-in
rules (whoever asked for them asks again).
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from backbone import tables as t
from backbone.endpoint import Endpoint
from backbone.errors import ConflictError, ObjectAbsent, PermanentError
from backbone.files import AVAILABLE, LOST, STUCK, NewFile
from backbone.identity import renew_identity
from backbone.manifest import OWN, read_manifests
from backbone.repair import Damage, mark_damaged

if TYPE_CHECKING:
    from backbone.backbone import Backbone

_PAGE = 2000
_EXAMPLES = 10


def _silent(_: object) -> None:
    """Nobody wants to hear of progress."""


@dataclass(frozen=True, kw_only=True)
class EndpointRecovery:
    """`files` that should be there were looked at, `lost` are not and were asked for (`lost_bytes`)."""

    endpoint: str
    files: int = 0
    lost: int = 0
    lost_bytes: int = 0
    took_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CatalogRecovery:
    """`replicas` found by endpoint; `files` new to the catalog; `unknown`: objects that nothing describes; `conflicts`: objects
    that describe themselves otherwise than another of the same key.
    """

    files: int = 0
    replicas: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    conflicts: int = 0
    examples: tuple[str, ...] = ()
    took_s: float = 0.0


def recover_endpoint(
    backbone: Backbone, name: str, *, actor: str, say: Callable[[EndpointRecovery], None] = _silent
) -> EndpointRecovery:
    """Mark LOST what the endpoint's own listing does not show, and ask for it from the others.

    Only replicas that were there before the listing began are judged: what arrives meanwhile may be missing from it. What is
    there now is taken for the endpoint from now on: movers go on with it.
    """
    renew_identity(backbone.catalog, backbone.endpoint(name))
    begun, started = time.monotonic(), backbone.now()
    catalog, number = backbone.catalog, backbone.catalog.endpoint_id(name)
    with catalog.read() as connection:
        last_file = connection.execute(sa.select(sa.func.coalesce(sa.func.max(t.file.c.id), 0))).scalar_one()
    listed = _own_left_out(backbone.endpoint(name).list(""))
    there, last_key, report = next(listed, None), "", EndpointRecovery(endpoint=name)
    while rows := _page(backbone, number, last_key, last_file, started):
        lost = []
        for row in rows:
            while there is not None and there < row.key:
                there = next(listed, None)
            if there != row.key:
                lost.append(row)
        if lost:
            damages = [Damage(key=row.key, state=LOST, reason="gone from the endpoint's listing") for row in lost]
            with catalog.begin() as connection:
                mark_damaged(catalog, connection, number, damages, actor=actor, now=backbone.now())
        last_key = rows[-1].key
        report = replace(
            report,
            files=report.files + len(rows),
            lost=report.lost + len(lost),
            lost_bytes=report.lost_bytes + sum(row.size for row in lost),
            took_s=time.monotonic() - begun,
        )
        say(report)
    return report


def _own_left_out(keys: Iterator[str]) -> Iterator[str]:
    return (key for key in keys if not key.startswith(OWN))


def _page(backbone: Backbone, number: int, last_key: str, last_file: int, started: float) -> list[sa.Row[tuple[object, ...]]]:
    seen_before = t.replica.c.verified.is_(None) | (t.replica.c.verified < started)
    query = (
        sa.select(t.file.c.key, t.file.c.size)
        .join(t.replica, (t.replica.c.file == t.file.c.id) & (t.replica.c.endpoint == number))
        .where(t.file.c.key > last_key, t.file.c.id <= last_file, t.replica.c.state == AVAILABLE, seen_before)
        .order_by(t.file.c.key)
        .limit(_PAGE)
    )
    return list(backbone.catalog.all(query))


def still_missing(backbone: Backbone, name: str) -> int:
    """Replicas of the endpoint that are BAD or LOST still; 0: it is recovered."""
    number = backbone.catalog.endpoint_id(name)
    query = sa.select(sa.func.count()).where(t.replica.c.endpoint == number, t.replica.c.state.in_(["BAD", LOST]))
    with backbone.catalog.read() as connection:
        found: int = connection.execute(query).scalar_one()
    return found


def is_moving(backbone: Backbone, name: str) -> bool:
    """Whether anything is on its way to the endpoint, or will be without a person's help."""
    number = backbone.catalog.endpoint_id(name)
    query = sa.select(t.transfer.c.file).where(t.transfer.c.target == number, t.transfer.c.state != STUCK)
    return bool(backbone.catalog.all(query.limit(1)))


def recover_catalog(
    backbone: Backbone, *, actor: str, workers: int = 8, say: Callable[[CatalogRecovery], None] = _silent
) -> CatalogRecovery:
    """Fill the catalog from all endpoints of the settings; what it knows already stays. TransientError if one does not answer:
    run it again then, or without that endpoint in the settings.
    """
    begun, report = time.monotonic(), CatalogRecovery()
    with tempfile.TemporaryDirectory() as folder, closing(_Manifested(Path(folder))) as told:
        for name in backbone.settings.endpoints:
            told.read(backbone.endpoint(name))
        with ThreadPoolExecutor(workers) as pool:
            for name in backbone.settings.endpoints:
                endpoint = backbone.endpoint(name)
                keys = _own_left_out(endpoint.list(""))
                while page := list(islice(keys, _PAGE)):
                    files = told.files(page)
                    missing = [key for key in page if key not in files]
                    answers = list(pool.map(lambda key, at=endpoint: _by_itself(at, key), missing))
                    files |= {answer.key: answer for answer in answers if isinstance(answer, NewFile)}
                    unknown = [answer for answer in answers if isinstance(answer, str)]
                    report = _registered(backbone, name, list(files.values()), unknown, actor, report)
                    report = replace(report, took_s=time.monotonic() - begun)
                    say(report)
    return report


def _by_itself(endpoint: Endpoint, key: str) -> NewFile | str | None:
    """What an object says of itself; a reason if that is not enough; None if it is gone by now."""
    try:
        return NewFile.from_about(key, endpoint.info(key).about)
    except ObjectAbsent:
        return None
    except PermanentError as error:
        return f"{key} at {endpoint.name}: {error}"


def _registered(
    backbone: Backbone, name: str, files: Sequence[NewFile], unknown: Sequence[str], actor: str, report: CatalogRecovery
) -> CatalogRecovery:
    new, conflicts = _register(backbone, name, files, actor)
    known = {**report.replicas, name: report.replicas.get(name, 0) + len(files) - len(conflicts)}
    return replace(
        report,
        files=report.files + new,
        replicas=known,
        unknown=report.unknown + len(unknown),
        conflicts=report.conflicts + len(conflicts),
        examples=(*report.examples, *unknown, *conflicts)[:_EXAMPLES],
    )


def _register(backbone: Backbone, name: str, files: Sequence[NewFile], actor: str) -> tuple[int, list[str]]:
    """All at once; where one contradicts what is known, by halves down to that one."""
    if not files:
        return 0, []
    try:
        return backbone.register(name, files, actor, manifest=False), []
    except ConflictError as error:
        if len(files) == 1:
            return 0, [f"{files[0].key} at {name}: {error}"]
        half = len(files) // 2
        parts = [_register(backbone, name, part, actor) for part in (files[:half], files[half:])]
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]


class _Manifested:
    """What manifests say, by key, on disk: there may be more than memory holds."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "manifests.sqlite3")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE file(key TEXT PRIMARY KEY, said TEXT NOT NULL) WITHOUT ROWID")

    def read(self, endpoint: Endpoint) -> None:
        """Take in the manifests of an endpoint."""
        for _, files in read_manifests(endpoint):
            rows = ((file.key, json.dumps(asdict(file))) for file in files)
            with self._db:
                self._db.executemany("INSERT OR IGNORE INTO file VALUES (?, ?)", rows)

    def files(self, keys: Sequence[str]) -> dict[str, NewFile]:
        """Those of the keys that manifests know."""
        query = "SELECT said FROM file WHERE key IN (SELECT value FROM json_each(?))"
        found = (json.loads(said) for (said,) in self._db.execute(query, (json.dumps(list(keys)),)))
        return {said["key"]: NewFile(**{**said, "tags": tuple(said["tags"])}) for said in found}

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

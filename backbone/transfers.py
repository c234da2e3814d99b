"""The mover's side of the pending table: take, finish, fail, try again. A lease runs out by itself: a dead mover holds nothing.

States: PENDING → RUNNING → (gone: done) | WAITING (tried again at `due`, or when a source is there) | STUCK (needs a person, or a
whole copy). A worker that lost its lease changes nothing: attempt number and worker are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.cohorts import tags_of
from backbone.files import AVAILABLE, PENDING, RUNNING, SHARED, STUCK, WAITING, NewFile
from backbone.flow import add
from backbone.history import NOTE_MANY, note
from backbone.pending import NOWHERE, find_sources
from backbone.register import arrived

_LEASE_OVER = "the mover that had it said nothing more; it is taken up again"

# Taking is the one thing done for each file moved: as text these cost half of what they cost as expressions, and PostgreSQL does
# it in one step.
_FIRST = (
    "SELECT file FROM bb_transfer WHERE source = :source AND target = :target AND state = 'PENDING'"
    " ORDER BY priority DESC, deadline, file LIMIT :limit"
)
_SET = "state = 'RUNNING', worker = :worker, due = :lease, attempts = bb_transfer.attempts + 1, reason = NULL"
_COLUMNS = "x.*, f.key, f.size, f.sha256, f.created AS made, " + ", ".join(f"c.{name}" for name in SHARED)
_FILES = "JOIN bb_file f ON f.id = x.file JOIN bb_cohort c ON c.id = f.cohort"
_TAKE = (
    f"WITH n AS MATERIALIZED ({_FIRST} FOR UPDATE SKIP LOCKED),"
    f" x AS (UPDATE bb_transfer SET {_SET} FROM n WHERE bb_transfer.file = n.file AND bb_transfer.target = :target"
    f" RETURNING bb_transfer.*) SELECT {_COLUMNS} FROM x {_FILES} ORDER BY x.priority DESC, x.deadline, x.file"
)
_MINE = f"UPDATE bb_transfer SET {_SET} WHERE target = :target AND file "
_WHAT = f"SELECT {_COLUMNS} FROM bb_transfer x {_FILES} WHERE x.target = :target AND x.file "


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """A copy to be made, taken by a worker. `file` says what must arrive; its `about()` goes with the object."""

    number: int  # of the file
    file: NewFile
    source: str
    target: str
    priority: int
    deadline: float
    attempt: int
    worker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferState:
    """A row of the pending table, for people."""

    key: str
    source: str | None
    target: str
    state: str
    priority: int
    deadline: float
    attempts: int
    due: float | None
    reason: str


def take(
    catalog: Catalog,
    source: int,
    target: int,
    *,
    limit: int,
    worker: str,
    lease_s: float,
    now: float,
    newest_first: bool = False,
) -> list[Transfer]:
    """Up to `limit` pending transfers of a link, highest priority first and then by deadline (or the newest files first, while a
    backlog drains); nobody else gets them until the lease ends.
    """
    given = {"source": source, "target": target, "worker": worker, "lease": now + lease_s}
    with catalog.begin() as connection:
        if catalog.is_postgresql and not newest_first:
            return [_transfer(catalog, row) for row in connection.execute(sa.text(_TAKE), {**given, "limit": limit})]
        numbers = _newest(connection, source, target, limit) if newest_first else _first(connection, source, target, limit)
        if not numbers:
            return []
        given["ids"] = catalog.id_list(numbers)
        connection.execute(sa.text(_MINE + catalog.in_list), given)
        rows = connection.execute(sa.text(_WHAT + catalog.in_list), given).all()
    place = {number: index for index, number in enumerate(numbers)}
    return [_transfer(catalog, row) for row in sorted(rows, key=lambda row: place[row.file])]


def _ready(source: int, target: int) -> tuple[sa.ColumnElement[bool], ...]:
    x = t.transfer.c
    return x.source == source, x.target == target, x.state == sa.literal_column("'PENDING'")


def _first(connection: Connection, source: int, target: int, limit: int) -> list[int]:
    return list(connection.execute(sa.text(_FIRST), {"source": source, "target": target, "limit": limit}).scalars())


def _newest(connection: Connection, source: int, target: int, limit: int) -> list[int]:
    """By priority, and within one the latest deadlines: the same index, read backwards a priority at a time."""
    x = t.transfer.c
    found: list[int] = []
    ready, following = _ready(source, target), sa.select(x.priority).order_by(x.priority.desc()).limit(1)
    priority = connection.execute(following.where(*ready)).scalar()
    while priority is not None and len(found) < limit:
        chosen = sa.select(x.file).where(*ready, x.priority == priority).order_by(x.deadline.desc(), x.file.desc())
        found += connection.execute(chosen.limit(limit - len(found)).with_for_update(skip_locked=True)).scalars()
        priority = connection.execute(following.where(*ready, x.priority < priority)).scalar()
    return found


def _transfer(catalog: Catalog, row: sa.Row[tuple[object, ...]]) -> Transfer:
    shared = {name: getattr(row, name) for name in SHARED}
    file = NewFile(key=row.key, size=row.size, sha256=row.sha256, created=row.made, **{**shared, "tags": tags_of(row.tags)})
    return Transfer(
        number=row.file,
        file=file,
        source=catalog.names[row.source],
        target=catalog.names[row.target],
        priority=row.priority,
        deadline=row.deadline,
        attempt=row.attempts,
        worker=row.worker,
    )


def _still_ours(connection: Connection, catalog: Catalog, transfers: Sequence[Transfer], target: int) -> list[Transfer]:
    x = t.transfer
    rows = connection.execute(
        sa.select(x.c.file, x.c.attempts, x.c.worker)
        .where(catalog.among(x.c.file, [transfer.number for transfer in transfers]), x.c.target == target, x.c.state == RUNNING)
        .order_by(x.c.file)
        .with_for_update()
    )
    held = {(row.file, row.attempts, row.worker) for row in rows}
    return [transfer for transfer in transfers if (transfer.number, transfer.attempt, transfer.worker) in held]


def done(catalog: Catalog, transfers: Sequence[Transfer], *, now: float) -> int:
    """These have arrived whole and were verified: they are replicas now, all of them at once. Those whose lease was lost are left
    to whoever has them. Returns how many counted.
    """
    counted = 0
    for source, target in sorted({(transfer.source, transfer.target) for transfer in transfers}):
        chosen = [transfer for transfer in transfers if (transfer.source, transfer.target) == (source, target)]
        counted += _done(catalog, chosen, catalog.endpoint_id(source), catalog.endpoint_id(target), now)
    return counted


def _done(catalog: Catalog, transfers: Sequence[Transfer], source: int, target: int, now: float) -> int:
    with catalog.begin() as connection:
        ours = _still_ours(connection, catalog, transfers, target)
        if not ours:
            return 0
        numbers = [transfer.number for transfer in ours]
        ids = catalog.id_list(numbers)
        said = {"ids": ids, "target": target, "now": now}
        connection.execute(
            sa.text(
                "INSERT INTO bb_replica (file, endpoint, state, origin, verified)"
                f" SELECT f.id, :target, 'AVAILABLE', false, :now FROM bb_file f WHERE f.id {catalog.in_list}"
                " ON CONFLICT (file, endpoint) DO UPDATE"
                " SET state = 'AVAILABLE', verified = excluded.verified, reason = NULL"
            ),
            said,
        )
        arrived(catalog, connection, numbers, target)
        connection.execute(
            sa.text(NOTE_MANY + f"(SELECT f.id AS file, :target AS endpoint FROM bb_file f WHERE f.id {catalog.in_list}) q"),
            {**said, "actor": ours[0].worker, "what": "copied", "why": f"from {ours[0].source}"},
        )
        add(catalog, connection, source, target, now=now, files=len(ours), size=sum(transfer.file.size for transfer in ours))
    return len(ours)


def failed(catalog: Catalog, transfer: Transfer, *, reason: str, delay_s: float, now: float, stuck: bool = False) -> bool:
    """An attempt came to nothing: it is tried again after `delay_s`, from the next source if there are several; or it is STUCK,
    for a person to look at, as it is where no whole copy is left anywhere. False where the lease was lost.
    """
    target, source = catalog.endpoint_id(transfer.target), catalog.endpoint_id(transfer.source)
    x = t.transfer
    with catalog.begin() as connection:
        if not _still_ours(connection, catalog, [transfer], target):
            return False
        chosen = (x.c.file == transfer.number, x.c.target == target)
        following = _next_source(connection, transfer.number, source, target)
        if following is None and not stuck and not _is_whole_somewhere(connection, transfer.number):
            stuck, reason = True, NOWHERE
        connection.execute(
            x.update()
            .where(*chosen)
            .values(
                state=STUCK if stuck else WAITING,
                due=None if stuck or following is None else now + delay_s,
                source=following,
                worker=None,
                reason=reason,
            )
        )
        add(catalog, connection, source, target, now=now, files=0, size=0, failures=1)
        if stuck:
            note(connection, at=now, actor=transfer.worker, what="stuck", file=transfer.number, endpoint=target, why=reason)
    return True


def _is_whole_somewhere(connection: Connection, file: int) -> bool:
    whole = sa.select(t.replica.c.file).where(t.replica.c.file == file, t.replica.c.state == AVAILABLE)
    return connection.execute(whole.limit(1)).first() is not None


def _next_source(connection: Connection, file: int, source: int, target: int) -> int | None:
    """The source after this one, cheapest first, around; None: no whole copy has a link to the target any more."""
    rows = connection.execute(
        sa.select(t.link.c.source)
        .join(t.replica, t.replica.c.endpoint == t.link.c.source)
        .where(t.link.c.target == target, t.replica.c.file == file, t.replica.c.state == "AVAILABLE")
        .order_by(t.link.c.cost, t.link.c.source)
    )
    sources: list[int] = list(rows.scalars())
    if not sources:
        return None
    return sources[(sources.index(source) + 1) % len(sources)] if source in sources else sources[0]


def renew(catalog: Catalog, transfers: Sequence[Transfer], *, lease_s: float, now: float) -> int:
    """Keep the leases of long transfers. Returns how many are still this worker's."""
    kept = 0
    for target in sorted({transfer.target for transfer in transfers}):
        chosen = [transfer for transfer in transfers if transfer.target == target]
        number = catalog.endpoint_id(target)
        with catalog.begin() as connection:
            ours = [transfer.number for transfer in _still_ours(connection, catalog, chosen, number)]
            condition = (catalog.among(t.transfer.c.file, ours), t.transfer.c.target == number)
            kept += connection.execute(t.transfer.update().where(*condition).values(due=now + lease_s)).rowcount if ours else 0
    return kept


def wake(catalog: Catalog, *, now: float) -> int:
    """Transfers whose time has come again, and those whose mover is dead, are pending. Returns how many."""
    x = t.transfer
    over = (x.c.due <= now, x.c.state.in_([WAITING, RUNNING]), x.c.source.is_not(None))
    if not catalog.all(sa.select(x.c.file).where(*over).limit(1)):
        return 0
    with catalog.begin() as connection:
        why = sa.case((x.c.state == RUNNING, _LEASE_OVER), else_=x.c.reason)
        return connection.execute(x.update().where(*over).values(state=PENDING, due=None, worker=None, reason=why)).rowcount


def mended(catalog: Catalog, source: int, target: int) -> int:
    """A link that was cut works: what waits on it for its next attempt need not wait any longer. Returns how many."""
    x = t.transfer
    waits = (x.c.source == source, x.c.target == target, x.c.state == WAITING, x.c.due.is_not(None))
    with catalog.begin() as connection:
        return connection.execute(x.update().where(*waits).values(state=PENDING, due=None)).rowcount


def retry(catalog: Catalog, *, actor: str, now: float, keys: Iterable[str] | None = None, target: int | None = None) -> int:
    """Let STUCK transfers (of these keys, to this endpoint; all) be tried again, from wherever a whole copy is now."""
    x = t.transfer
    with catalog.begin() as connection:
        chosen = [x.c.state == STUCK]
        if keys is not None:
            chosen.append(catalog.among(x.c.file, catalog.file_ids(connection, keys).values()))
        if target is not None:
            chosen.append(x.c.target == target)
        files = list(connection.execute(sa.select(x.c.file).where(*chosen).with_for_update()).scalars())
        if files:
            mine = (catalog.among(x.c.file, files), *chosen)
            connection.execute(x.update().where(*mine).values(source=None, attempts=0, due=None, state=WAITING))
            find_sources(catalog, connection, files)
            note(connection, at=now, actor=actor, what="retried", endpoint=target, why=f"{len(files)} transfers that were stuck")
    return len(files)


def transfers(
    catalog: Catalog, *, keys: Iterable[str] | None = None, state: str | None = None, target: int | None = None, limit: int = 100
) -> list[TransferState]:
    """The pending table as it is, STUCK first."""
    x = t.transfer
    query = sa.select(x, t.file.c.key).join(t.file, t.file.c.id == x.c.file)
    if keys is not None:
        query = query.where(catalog.among(t.file.c.key, keys))
    if state is not None:
        query = query.where(x.c.state == state)
    if target is not None:
        query = query.where(x.c.target == target)
    worst_first = sa.case({STUCK: 0, WAITING: 1, RUNNING: 2}, value=x.c.state, else_=3)
    rows = catalog.all(query.order_by(worst_first, x.c.priority.desc(), x.c.deadline, x.c.file).limit(limit))
    return [
        TransferState(
            key=row.key,
            source=None if row.source is None else catalog.names[row.source],
            target=catalog.names[row.target],
            state=row.state,
            priority=row.priority,
            deadline=row.deadline,
            attempts=row.attempts,
            due=row.due,
            reason=row.reason or "",
        )
        for row in rows
    ]

"""What moves over the links: counted by the minute, and how long the rest will take."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog

_WINDOW_S = 300.0
_ADDED_UP = 10_000
_BACKLOG = (
    "SELECT count(*) AS files, sum(q.size) AS bytes FROM (SELECT f.size FROM bb_transfer x JOIN bb_file f ON f.id = x.file"
    " WHERE x.state = 'PENDING' AND x.target = :target AND x.source IN (SELECT l.source FROM bb_link l WHERE l.target = :target)"
    " LIMIT :limit) q"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkState:
    """A link now: what waits, what moves, and the rate of the last minutes."""

    source: str
    target: str
    pending: int
    pending_bytes: int
    running: int
    waiting: int
    stuck: int
    bytes_per_s: float
    files_per_s: float
    failures: int

    @property
    def eta_s(self) -> float | None:
        """How long what is pending will take at this rate; None where nothing moves."""
        return self.pending_bytes / self.bytes_per_s if self.bytes_per_s else None


def add(
    catalog: Catalog, connection: Connection, source: int, target: int, *, now: float, files: int, size: int, failures: int = 0
) -> None:
    """Count what was moved, in the caller's transaction."""
    statement = catalog.insert(t.flow).values(
        source=source, target=target, minute=int(now // 60), files=files, bytes=size, failures=failures
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["source", "target", "minute"],
            set_={
                "files": t.flow.c.files + statement.excluded.files,
                "bytes": t.flow.c.bytes + statement.excluded.bytes,
                "failures": t.flow.c.failures + statement.excluded.failures,
            },
        )
    )


def rate_bytes_per_s(connection: Connection, target: int, *, now: float) -> float:
    """What came to the endpoint in the last five minutes."""
    query = sa.select(sa.func.sum(t.flow.c.bytes), sa.func.min(t.flow.c.minute)).where(
        t.flow.c.target == target, t.flow.c.minute >= int((now - _WINDOW_S) // 60)
    )
    size, first = connection.execute(query).one()
    return 0.0 if not size else float(size) / max(now - first * 60, 1.0)


def eta_s(connection: Connection, target: int, *, now: float) -> float | None:
    """When what is pending for the endpoint will be there; None: nothing moves. Up to ten thousand files are added up here, more
    is taken from what movers noted last, less what has come since.
    """
    rate = rate_bytes_per_s(connection, target, now=now)
    if not rate:
        return None
    row = connection.execute(sa.text(_BACKLOG), {"target": target, "limit": _ADDED_UP + 1}).one()
    here_s = float(row.bytes or 0) / rate
    if row.files <= _ADDED_UP:
        return here_s
    noted = connection.execute(sa.select(t.backlog).where(t.backlog.c.target == target)).one_or_none()
    return None if noted is None else max(noted.bytes / rate - (now - noted.at), here_s)


def note_backlog(catalog: Catalog, *, now: float) -> bool:
    """Add up what waits for each endpoint; costs as much as the pending table is long. False where nothing waits."""
    pending = t.transfer.c.state == "PENDING"
    if not catalog.all(sa.select(t.transfer.c.file).where(pending).limit(1)):
        return False
    sums = sa.select(t.transfer.c.target, sa.literal(now), sa.func.sum(t.file.c.size))
    sums = sums.join(t.file, t.file.c.id == t.transfer.c.file).where(pending).group_by(t.transfer.c.target)
    with catalog.begin() as connection:
        connection.execute(t.backlog.delete())
        connection.execute(t.backlog.insert().from_select(["target", "at", "bytes"], sums))
    return True


def link_states(catalog: Catalog, *, now: float) -> list[LinkState]:
    """Every link on which something waits, or moved of late. Costs as much as the pending table is long."""
    flow = sa.select(
        t.flow.c.source,
        t.flow.c.target,
        sa.func.sum(t.flow.c.files).label("files"),
        sa.func.sum(t.flow.c.bytes).label("bytes"),
        sa.func.sum(t.flow.c.failures).label("failures"),
        sa.func.min(t.flow.c.minute).label("first"),
    )
    flow = flow.where(t.flow.c.minute >= int((now - _WINDOW_S) // 60)).group_by(t.flow.c.source, t.flow.c.target)
    waiting = (
        sa.select(
            t.transfer.c.source,
            t.transfer.c.target,
            t.transfer.c.state,
            sa.func.count().label("files"),
            sa.func.sum(t.file.c.size).label("bytes"),
        )
        .join(t.file, t.file.c.id == t.transfer.c.file)
        .where(t.transfer.c.source.is_not(None))
        .group_by(t.transfer.c.source, t.transfer.c.target, t.transfer.c.state)
    )
    moved = {(row.source, row.target): row for row in catalog.all(flow)}
    held = {(row.source, row.target, row.state): row for row in catalog.all(waiting)}
    pairs = sorted({*moved, *((source, target) for source, target, _ in held), *catalog.links})

    def count(pair: tuple[int, int], state: str) -> int:
        row = held.get((*pair, state))
        return int(row.files) if row else 0

    states = []
    for pair in pairs:
        row, pending = moved.get(pair), held.get((*pair, "PENDING"))
        seconds = max(now - row.first * 60, 1.0) if row else 1.0
        states.append(
            LinkState(
                source=catalog.names[pair[0]],
                target=catalog.names[pair[1]],
                pending=count(pair, "PENDING"),
                pending_bytes=int(pending.bytes) if pending else 0,
                running=count(pair, "RUNNING"),
                waiting=count(pair, "WAITING"),
                stuck=count(pair, "STUCK"),
                bytes_per_s=float(row.bytes) / seconds if row else 0.0,
                files_per_s=float(row.files) / seconds if row else 0.0,
                failures=int(row.failures) if row else 0,
            )
        )
    return states

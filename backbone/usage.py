"""What the backbone holds and does, for people: places, links, what is stuck and why.

Totals by place cost a pass over the replicas; everything else is read from the short tables of what is not yet as it should be.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from backbone import tables as t
from backbone.files import AVAILABLE, STUCK, WAITING
from backbone.flow import LinkState, link_states
from backbone.transfers import TransferState, transfers

if TYPE_CHECKING:
    from backbone.backbone import Backbone
    from backbone.catalog import Catalog

_MANY = 100


@dataclass(frozen=True, kw_only=True)
class ScrubState:
    """How far the scrubbing of a place is; dates in seconds since 1970. `files` and `damaged` are of the round under way."""

    rounds: int
    ended: float | None
    files: int
    damaged: int


@dataclass(frozen=True, kw_only=True)
class PlaceUsage:
    """One endpoint: replicas by state, their bytes and how many there is room for, transfers on their way to it by state."""

    name: str
    root: str
    replicas: dict[str, int]
    size_bytes: int
    room_bytes: float | None
    arriving: dict[str, int]
    scrub: ScrubState | None

    @property
    def damaged(self) -> int:
        """Replicas that are BAD or LOST."""
        return self.replicas.get("BAD", 0) + self.replicas.get("LOST", 0)


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The backbone at `at` (seconds since 1970). `stuck` are at most a hundred of the transfers that need a person."""

    at: float
    places: tuple[PlaceUsage, ...]
    links: tuple[LinkState, ...]
    files: int
    size_bytes: int
    dropped: int
    open_rules: int
    open_puts: int
    orphans: int
    stuck: tuple[TransferState, ...]
    waiting: tuple[TransferState, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Totals:
    """Counts by place and state, kept for `keep_s`: who looks often must not make the database count often."""

    def __init__(self, catalog: Catalog, *, keep_s: float = 0.0) -> None:
        self._catalog, self._keep_s = catalog, keep_s
        self._read_at = -1e300
        self._rows: Sequence[sa.Row[Any]] = ()

    def rows(self) -> Sequence[sa.Row[Any]]:
        """Rows of endpoint, state, files, bytes."""
        if time.monotonic() - self._read_at > self._keep_s:
            counts = (sa.func.count().label("files"), sa.func.coalesce(sa.func.sum(t.file.c.size), 0).label("bytes"))
            query = sa.select(t.replica.c.endpoint, t.replica.c.state, *counts).join(t.file, t.file.c.id == t.replica.c.file)
            self._rows = self._catalog.all(query.group_by(t.replica.c.endpoint, t.replica.c.state))
            self._read_at = time.monotonic()
        return self._rows


def overview(backbone: Backbone, totals: Totals | None = None) -> Overview:
    """Everything that the page and `pachon backbone usage` show."""
    catalog = backbone.catalog
    counted = (totals or Totals(catalog)).rows()
    arriving: dict[int, dict[str, int]] = {}
    by_state = sa.select(t.transfer.c.target, t.transfer.c.state, sa.func.count().label("files"))
    for row in catalog.all(by_state.group_by(t.transfer.c.target, t.transfer.c.state)):
        arriving.setdefault(row.target, {})[row.state] = row.files
    scrubs = {row.endpoint: row for row in catalog.all(sa.select(t.scrub))}
    places = []
    for name, endpoint in backbone.endpoints.items():
        number = catalog.endpoint_id(name)
        mine = [row for row in counted if row.endpoint == number]
        scrub = scrubs.get(number)
        places.append(
            PlaceUsage(
                name=name,
                root=endpoint.root,
                replicas={row.state: row.files for row in mine},
                size_bytes=sum(int(row.bytes) for row in mine if row.state == AVAILABLE),
                room_bytes=gb * 1e9 if (gb := backbone.settings.endpoints[name].room_gb) is not None else None,
                arriving=arriving.get(number, {}),
                scrub=scrub and ScrubState(rounds=scrub.rounds, ended=scrub.ended, files=scrub.files, damaged=scrub.damaged),
            )
        )
    return Overview(
        at=backbone.now(),
        places=tuple(places),
        links=tuple(link_states(catalog, now=backbone.now())),
        stuck=tuple(transfers(catalog, state=STUCK, limit=_MANY)),
        waiting=tuple(transfers(catalog, state=WAITING, limit=_MANY)),
        **_counts(catalog),
    )


def _counts(catalog: Catalog) -> dict[str, int]:
    size = sa.func.coalesce(sa.func.sum(t.file.c.size), 0)
    files = sa.select(sa.func.count(t.file.c.id), size, sa.func.count(t.file.c.dropped))
    rules = sa.select(sa.func.count()).select_from(t.rule).where(t.rule.c.released.is_(None))
    with catalog.read() as connection:
        count, total, dropped = connection.execute(files).one()
        return {
            "files": count,
            "size_bytes": int(total),
            "dropped": dropped,
            "open_rules": connection.execute(rules).scalar_one(),
            "open_puts": connection.execute(sa.select(sa.func.count()).select_from(t.intent)).scalar_one(),
            "orphans": connection.execute(sa.select(sa.func.count()).select_from(t.orphan)).scalar_one(),
        }

"""What earlier attempts took, by task label: remembered in the ledger across campaigns and restarts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.ledger import Ledger
from workflow.ledger.tables import label_stats

_REMEMBERED = 200  # samples; older ones fade


@dataclass(frozen=True, kw_only=True)
class LabelStats:
    """Of one task label of one production."""

    samples: int = 0
    wall_s: float = 0.0
    peak_mb: float = 0.0
    memory_mb: int | None = None
    """What it needed after running out of memory with less."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One success, or several of one label."""

    label: str
    n: int = 1
    wall_s: float
    """Of all `n` together."""
    peak_mb: float
    """The largest."""
    grown_mb: int | None
    """Memory that one was given after failing with less."""


def read(connection: Connection, production: str) -> dict[str, LabelStats]:
    """By label."""
    rows = connection.execute(sa.select(label_stats).where(label_stats.c.production == production))
    return {r.label: _stats(r) for r in rows}


def _stats(row: Any) -> LabelStats:
    return LabelStats(samples=row.samples, wall_s=row.wall_s, peak_mb=row.peak_mb, memory_mb=row.memory_mb)


def learn(ledger: Ledger, connection: Connection, production: str, samples: Iterable[Sample]) -> None:
    """Add successes: a fading mean of wall times, the largest memory. Campaigns of one production take turns at a label."""
    by_label: dict[str, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.label, []).append(sample)
    if not by_label:
        return
    blank = {"production": production, "samples": 0, "wall_s": 0.0, "peak_mb": 0.0}
    labels = sorted(by_label)
    mine = (label_stats.c.production == production, label_stats.c.label.in_(labels))
    locked = sa.select(label_stats).where(*mine).order_by(label_stats.c.label).with_for_update()
    rows = connection.execute(locked).all()
    if len(rows) < len(labels):
        ledger.insert_new(connection, label_stats, [{**blank, "label": label} for label in labels])
        rows = connection.execute(locked).all()
    for row in rows:
        new = _merged(_stats(row), by_label[row.label])
        values = {"samples": new.samples, "wall_s": new.wall_s, "peak_mb": new.peak_mb, "memory_mb": new.memory_mb}
        where = (label_stats.c.production == production, label_stats.c.label == row.label)
        connection.execute(label_stats.update().where(*where).values(values))


def _merged(old: LabelStats, some: list[Sample]) -> LabelStats:
    weight, n = min(old.samples, _REMEMBERED), sum(s.n for s in some)
    grown = [m for m in (old.memory_mb, *(s.grown_mb for s in some)) if m is not None]
    return LabelStats(
        samples=old.samples + n,
        wall_s=(old.wall_s * weight + sum(s.wall_s for s in some)) / (weight + n),
        peak_mb=max(old.peak_mb, *(s.peak_mb for s in some)),
        memory_mb=max(grown, default=None),
    )

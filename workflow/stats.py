"""What earlier attempts took, by task label: remembered in the ledger across campaigns and restarts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

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
    return {r.label: LabelStats(samples=r.samples, wall_s=r.wall_s, peak_mb=r.peak_mb, memory_mb=r.memory_mb) for r in rows}


def learn(connection: Connection, production: str, samples: Iterable[Sample]) -> None:
    """Add successes: a fading mean of wall times, the largest memory."""
    by_label: dict[str, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.label, []).append(sample)
    if not by_label:
        return
    known = read(connection, production)
    for label, some in by_label.items():
        new = _merged(known.get(label, LabelStats()), some)
        values = {"samples": new.samples, "wall_s": new.wall_s, "peak_mb": new.peak_mb, "memory_mb": new.memory_mb}
        key = {"production": production, "label": label}
        if label in known:
            where = (label_stats.c.production == production, label_stats.c.label == label)
            connection.execute(label_stats.update().where(*where).values(values))
        else:
            connection.execute(label_stats.insert().values({**key, **values}))


def _merged(old: LabelStats, some: list[Sample]) -> LabelStats:
    weight, n = min(old.samples, _REMEMBERED), sum(s.n for s in some)
    grown = [m for m in (old.memory_mb, *(s.grown_mb for s in some)) if m is not None]
    return LabelStats(
        samples=old.samples + n,
        wall_s=(old.wall_s * weight + sum(s.wall_s for s in some)) / (weight + n),
        peak_mb=max(old.peak_mb, *(s.peak_mb for s in some)),
        memory_mb=max(grown, default=None),
    )

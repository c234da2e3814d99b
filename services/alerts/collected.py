"""Alerts that batch productions made, into the outbox: a night in batch, and what a prompt night left to the day after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from payloads.alerts import read_alerts
from payloads.repository import open_repository
from services.alerts.outbox import AlertOutbox

_TYPE = "alerts"


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Frames whose packets were read, alerts that are new to the outbox, alerts that it had."""

    frames: int
    new: int
    known: int

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def collect(home: Path, instrument: str, day_obs: int) -> Collected:
    """Promise every alert of a night's frames to the subscribers, the newest packet of each frame. Twice is the same as once."""
    butler = open_repository(home / "repo")
    chain = f"{instrument}/prompt"
    if chain not in butler.collections.query(f"{instrument}/*") or not butler.registry.queryDatasetTypes(_TYPE):
        return Collected(frames=0, new=0, known=0)
    refs = butler.query_datasets(
        _TYPE, collections=chain, instrument=instrument, where=f"visit.day_obs = {day_obs:d}", limit=None, explain=False
    )
    new = known = 0
    with AlertOutbox.open(home) as outbox:
        for ref in sorted(refs, key=lambda r: (r.dataId["visit"], r.dataId["detector"])):
            added = outbox.add(int(ref.dataId["visit"]), int(ref.dataId["detector"]), read_alerts(butler.get(ref)))
            new, known = new + added.new, known + added.known
    return Collected(frames=len(refs), new=new, known=known)

"""Alerts that batch productions made, into the outbox: a night in batch, and what a prompt night left to the day after."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lsst.daf.butler import Butler, DatasetRef, FileIntegrityError

from payloads.alerts import AlertsDamaged, read_alerts
from payloads.ids import exposures_of
from payloads.repository import open_repository
from services.alerts.frames import Withheld, withheld
from services.alerts.outbox import AlertOutbox
from services.alerts.packets import PacketRefused

_log = logging.getLogger(__name__)
_TYPE = "alerts"


@dataclass(frozen=True, kw_only=True)
class WithheldOf:
    """Alerts that `origin` brought of frames that `told_by` had told."""

    origin: str
    told_by: str
    frames: int
    alerts: int

    def __str__(self) -> str:
        teller = self.told_by or "another"
        return (
            f"{self.alerts} alerts of {self.frames} frames of {self.origin or 'no name'} are withheld: {teller} told these frames"
        )


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Frames that the day has alerts of, of which `read` were read now; alerts that are new to the outbox, alerts that
    subscribers had; those of the day that they do not get, whoever brought them, and why; datasets that cannot be read, and why:
    nothing of these is told, and the next call looks at them again."""

    frames: int
    read: int
    new: int
    known: int
    withheld: tuple[WithheldOf, ...]
    damaged: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def collect(home: Path, instrument: str, day_obs: int) -> Collected:
    """Promise the alerts of a night's frames to the subscribers, those of the newest dataset of each frame. Twice is as once.

    A dataset is read once: the outbox remembers it in the transaction that makes its alerts known. Of a frame whose alerts were
    told, by prompt workers or from an earlier dataset, none is told again (services/alerts/frames.py).
    """
    butler = open_repository(home / "repo")
    chain = f"{instrument}/prompt"
    refs = []
    if chain in butler.collections.query(f"{instrument}/*") and butler.registry.queryDatasetTypes(_TYPE):
        where = f"visit.day_obs = {day_obs:d}"
        refs = butler.query_datasets(_TYPE, collections=chain, instrument=instrument, where=where, limit=None, explain=False)
    with AlertOutbox.open(home) as outbox:
        there = outbox.collected(str(ref.id) for ref in refs)
        new, known, damaged = 0, sum(there.values()), []
        unread = [ref for ref in refs if str(ref.id) not in there]
        for ref in sorted(unread, key=lambda r: (r.dataId["visit"], r.dataId["detector"])):
            frame = int(ref.dataId["visit"]), int(ref.dataId["detector"])
            whose = {"instrument": instrument, "origin": ref.run, "dataset": str(ref.id)}
            try:
                added = outbox.add(*frame, _packets(butler, ref), **whose)
            except (AlertsDamaged, PacketRefused) as error:
                damaged.append(f"visit {frame[0]} detector {frame[1]} of {ref.run}: {error}")
                _log.error("%s; left out", damaged[-1])
                continue
            new, known = new + added.new, known + added.known
        held = summed(withheld(outbox.book, instrument, *exposures_of(day_obs)))
    read = len(unread) - len(damaged)
    return Collected(frames=len(refs), read=read, new=new, known=known, withheld=held, damaged=tuple(damaged))


def _packets(butler: Butler, ref: DatasetRef) -> list[dict[str, Any]]:
    try:
        return read_alerts(butler.get(ref))
    except FileIntegrityError as error:  # of the Butler: not as long as it was
        raise AlertsDamaged(str(error)) from error


def summed(calls: Iterable[Withheld]) -> tuple[WithheldOf, ...]:
    """By who brought them and who had told."""
    frames, alerts = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for call in calls:
        frames[call.origin, call.told_by] += 1
        alerts[call.origin, call.told_by] += call.alerts
    return tuple(
        WithheldOf(origin=origin, told_by=teller, frames=count, alerts=alerts[origin, teller])
        for (origin, teller), count in sorted(frames.items())
    )

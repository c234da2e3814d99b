"""Runs the soak: rounds on a fresh stand until enough objects went through, or time is up; counts go on from the last run's."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from deploy.soak.killer import Killer
from deploy.soak.record import Record
from deploy.soak.rounds import Round, SoakFailed
from deploy.soak.stand import Stand

DAMAGE = 0.001
ROUND = 3000
KILL_EVERY_S = (8.0, 30.0)


def soak(
    home: Path,
    *,
    objects: int,
    minutes: float | None = None,
    real: bool = True,
    movers: int = 2,
    damage: float = DAMAGE,
    kill_every_s: tuple[float, float] = KILL_EVERY_S,
    per_round: int = ROUND,
    say: Callable[[str], None] = print,
) -> Record:
    """Put `objects` more through the backbone, unless `minutes` end first (whole rounds); returns the record of all runs.

    Leaves the stand where something went wrong, and says where; otherwise only HOME/soak.json stays. SoakFailed for a broken
    promise, with the counts of the rounds before it written.
    """
    path = home / "soak.json"
    record, begun = Record.load(path), time.monotonic()
    record = _next_seed(record, path)
    stand = Stand(home / f"run-{record.seed - 1:06d}", real=real, movers=movers)
    done = 0
    try:
        with closing(stand.up()) as backbone, Killer(stand, every_s=kill_every_s, seed=record.seed) as killer:
            while done < objects and (minutes is None or time.monotonic() - begun < minutes * 60):
                count, before, started = min(per_round, objects - done), killer.kills.copy(), time.monotonic()
                one = Round(backbone, seed=record.seed, first=done, count=count, damage=damage, check=killer.check, say=say)
                report = one.run()
                took_s = time.monotonic() - started
                record = record.plus(report, kills=dict(killer.kills - before), took_s=took_s)
                record.write(path)
                done += count
                say(f"{done} of {objects} objects ({count / took_s:.0f}/s), {dict(killer.kills)} killed, {record.objects} in all")
                if report.lost or report.repaired < report.damaged:
                    raise SoakFailed(
                        f"{report.lost} objects lost, {report.damaged - report.repaired} damages left: see {stand.home}"
                    )
    finally:
        stand.down()
    stand.remove()
    return record


def _next_seed(record: Record, path: Path) -> Record:
    """Written before anything is put: a run that is killed is not repeated with the same objects."""
    following = Record(**{**vars(record), "seed": record.seed + 1})
    following.write(path)
    return following

"""What workers say, written into the ledger. A report that comes twice, or late, changes nothing that it should not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.messages.prompt import Armed, Beat, Ended, Left, Progress
from workflow.ledger import Ledger
from workflow.ledger.nights import part, worker
from workflow.night import books
from workflow.night.states import WORKER_TABLE, PartState, WorkerState
from workflow.states import follow

Report = Armed | Beat | Progress | Ended | Left
_OF_ENDED = (
    "stage",
    "worker",
    "stages",
    "alerts",
    "alerts_out",
    "sources",
    "quality",
    "stamps",
    "reason",
    "mechanism",
    "peak_mb",
    "cpu_s",
)


@dataclass(frozen=True)
class Intake:
    """Takes reports of one night in one transaction."""

    ledger: Ledger
    connection: Connection
    held: books.Row
    now: float

    def take(self, reports: Iterable[Report]) -> None:
        """In the order in which they came."""
        for report in reports:
            self._take(report)

    @singledispatchmethod
    def _take(self, said: Report) -> None:
        raise TypeError(f"no report: {said!r}")

    @_take.register
    def _armed(self, said: Armed) -> None:
        values = {"armed": self.now, "beat": self.now, "host": said.host, "preload_s": said.preload_s}
        if self._worker(said.worker, "armed", values):
            loaded = f"armed on {said.host} (pid {said.pid}) after {said.preload_s:.1f} s of loading"
            self._tell("armed", f"worker of detector {said.detector} {loaded}", said)

    @_take.register
    def _beat(self, said: Beat) -> None:
        alive = worker.update().where(worker.c.key == said.worker, worker.c.ended.is_(None))
        self.connection.execute(alive.values(beat=self.now))

    @_take.register
    def _left(self, said: Left) -> None:
        if self._worker(said.worker, "left", {"ended": self.now, "reason": said.reason}):
            self._tell("left", f"worker of detector {said.detector} ended: {said.reason}", said)

    @_take.register
    def _progress(self, said: Progress) -> None:
        books.appear(self.ledger, self.connection, self.held, said, self.now)
        values: dict[str, Any] = {"stage": said.stage, "since": said.at, "worker": said.worker}
        if said.arrived:
            values |= {"received": max(f.received for f in said.arrived), "stored": max(f.stored for f in said.arrived)}
            books.read_out(self.connection, self.held.name, said.visit, max(f.readout_end for f in said.arrived))
        another = sa.case((part.c.worker != said.worker, part.c.tries + 1), else_=part.c.tries)
        books.move(self.connection, self.held.name, said.visit, said.detector, "progress", {**values, "tries": another})

    @_take.register
    def _ended(self, said: Ended) -> None:
        books.appear(self.ledger, self.connection, self.held, said, self.now)
        if said.readout_end is not None:
            books.read_out(self.connection, self.held.name, said.visit, said.readout_end)
        values = {name: getattr(said, name) for name in _OF_ENDED} | {"ended": said.at, "since": said.at}
        moved = books.move(self.connection, self.held.name, said.visit, said.detector, said.state, values)
        if moved is None:
            return
        where = f"visit {said.visit} on detector {said.detector}"
        for mechanism, count in said.recovered.items():
            self._tell("recovered", f"{where}: {count} times {mechanism}", said, said.visit)
        if held_back := said.quality.get("alerts_withheld"):
            words = f"{held_back} alerts withheld: {said.quality.get('told_by')} had told this frame"
            self._tell("withheld", f"{where}: {words}", said, said.visit)
        if moved is not PartState.SUCCEEDED:
            self._tell(said.state, f"{where} {said.state} in {said.stage}: {said.reason}", said, said.visit)

    def _worker(self, key: str, what: str, values: Mapping[str, Any]) -> bool:
        """Bring a worker forward; whether its state is another now. One that was given up stays so, whatever it says."""
        query = sa.select(worker.c.state, worker.c.ended).where(worker.c.key == key).with_for_update()
        row = self.connection.execute(query).one_or_none()
        if row is None or row.ended is not None:
            return False
        old = WorkerState(row.state)
        new = follow(WORKER_TABLE, old, what)
        self.connection.execute(worker.update().where(worker.c.key == key).values(**values, state=new.value))
        return new is not old

    def _tell(self, kind: str, words: str, said: Report, visit: int | None = None) -> None:
        books.tell(self.connection, self.held.name, self.now, kind, words, visit, said.detector)

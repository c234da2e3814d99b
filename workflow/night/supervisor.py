"""One idempotent round of a night: hear the workers, replace the lost, tell of visits, cancel what is over its deadline, close.

Killed anywhere, called twice, begun elsewhere: the same end. Airflow has no part in it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import ValidationError

from backbone.messages.prompt import Drain, NextVisit, queue_of, read_report, reports_of
from backbone.messages.transport import Delivery, Receiver, Transport, TransportDown
from workflow.clock import Clock
from workflow.ledger import Ledger
from workflow.ledger.nights import night, visit
from workflow.night import books
from workflow.night.crew import Crew, Verdict
from workflow.night.lock import NightLock
from workflow.night.reports_in import Intake, Report
from workflow.night.settings import PromptSettings
from workflow.night.states import NIGHT_TABLE, NightState, PartState, WorkerState
from workflow.pools.pool import PoolJob
from workflow.states import follow

_LOG = logging.getLogger(__name__)
_AT_ONCE = 500
_DRAIN_AGAIN_S = 5.0
_DRAIN_MAX_S = 30.0


@dataclass
class Supervisor:
    """Of one night, as long as its lock is held."""

    lock: NightLock
    ledger: Ledger
    transport: Transport
    crew: Crew
    prompt: PromptSettings
    clock: Clock
    _receiver: Receiver | None = None
    _heard: float = 0.0
    """When this supervisor last knew that it hears what is said."""
    _deaf_until: float = 0.0
    _drain_told: float = 0.0
    _down: str = ""

    @property
    def name(self) -> str:
        """Of the night."""
        return self.lock.name

    def round(self) -> NightState:
        """Do what is due; returns the night's state. LockLost if another supervisor has taken over."""
        held = self._held()
        states = self.crew.states(self._living())  # before hearing: who left has then been heard to say so
        self._hear(held)
        self._crew(held, states)
        held = self._held()
        self._announce(held)
        self._deadlines(held)
        return self._go_on(self._held())

    def close(self) -> None:
        """Let go of the queue."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def _held(self) -> books.Row:
        with self.ledger.read() as connection:
            found = books.find(connection, self.name)
        if found is None:
            raise LookupError(f"the ledger has no night {self.name}")
        return found

    def _hear(self, held: books.Row) -> None:
        """Reports into the ledger first, and only then acknowledged."""
        now = self.clock.now()
        if now - self._heard > self.prompt.silent_s / 2:
            self._deaf_until = now
        deliveries: list[Delivery] = []
        try:
            receiver = self._receiver = self._receiver or self.transport.receiver(reports_of(held.instrument))
            receiver.renew()
            while len(deliveries) < _AT_ONCE and (found := receiver.receive()) is not None:
                deliveries.append(found)
            self._heard = now
            self._say_transport(held, "")
        except TransportDown as error:
            self._say_transport(held, str(error))
        if not deliveries:
            return
        reports = [said for said in map(_read, deliveries) if said is not None and said.night == held.name]
        with self.lock.begin() as connection:
            Intake(self.ledger, connection, held, now).take(reports)
        try:
            for delivery in deliveries:
                receiver.acknowledge(delivery)
        except TransportDown as error:
            self._say_transport(held, str(error))  # they come again

    def _say_transport(self, held: books.Row, trouble: str) -> None:
        if bool(trouble) == bool(self._down):
            return
        words = f"messages cannot be had: {trouble}" if trouble else "messages can be had again"
        self._down = trouble
        _LOG.warning("night %s: %s", held.name, words)
        with self.lock.begin() as connection:
            books.tell(connection, held.name, self.clock.now(), "transport", words)

    def _living(self) -> list[books.Row]:
        with self.ledger.read() as connection:
            return list(books.workers(connection, self.name))

    def _crew(self, held: books.Row, states: dict[str, PoolJob]) -> None:
        if held.state == NightState.CLOSED:
            return
        now = self.clock.now()
        verdicts = self.crew.verdicts(self._living(), states, now, self._deaf_until)
        with self.lock.begin() as connection:
            for verdict in verdicts:
                self.crew.give_up(connection, held, verdict, now)
            self.crew.missing(connection, held, now)
            living = list(books.workers(connection, held.name))
        self.crew.put_down([verdict.worker.key for verdict in verdicts])
        self.crew.submit(held, living, states)

    def _announce(self, held: books.Row) -> None:
        """Visits that the workers were not told of yet."""
        if held.state not in (NightState.OPENING, NightState.OPEN):
            return
        with self.ledger.read() as connection:
            untold = sa.select(visit).where(visit.c.night == held.name, visit.c.told.is_(None)).order_by(visit.c.visit)
            rows = connection.execute(untold).all()
        for row in rows:
            said = NextVisit.model_validate(row.announcement).model_dump(mode="json")
            try:
                for detector in held.detectors:
                    self.transport.send(queue_of(held.instrument, detector), said)
            except TransportDown as error:
                self._say_transport(held, str(error))
                return
            with self.lock.begin() as connection:
                told = visit.update().where(visit.c.night == held.name, visit.c.visit == row.visit)
                connection.execute(told.values(told=self.clock.now()))

    def _deadlines(self, held: books.Row) -> None:
        """What no worker ended, though it is past its time, is cancelled here: the worker is dead, or never heard of it."""
        now = self.clock.now()
        with self.ledger.read() as connection:
            late = [row for row in books.parts(connection, held.name, open_only=True) if now > self.limit(row)]
        if not late:
            return
        with self.lock.begin() as connection:
            for row in late:
                reason, mechanism = self._why(row)
                values = {"ended": now, "reason": reason, "mechanism": mechanism}
                if books.move(connection, held.name, row.visit, row.detector, "cancelled", values):
                    words = f"visit {row.visit} on detector {row.detector} cancelled in {row.stage or 'waiting'}: {reason}"
                    books.tell(connection, held.name, now, "cancelled", words, row.visit, row.detector)

    def limit(self, row: books.Row) -> float:
        """Until when a part may be open."""
        if row.readout_end is not None:
            return float(row.readout_end) + self.prompt.deadline_s + self.prompt.grace_s
        return float(row.expected_end) + self.prompt.deadline_s + self.prompt.no_frame_s

    def _why(self, row: books.Row) -> tuple[str, str]:
        if row.state == PartState.RUNNING:
            return (
                f"over {self.prompt.deadline_s:.0f} s after readout, and its worker {row.worker} does not say so",
                "worker lost",
            )
        if row.readout_end is not None:
            return "no worker took it in time, though others had the visit", "no worker"
        return "its frames never came", "no frame"

    def _go_on(self, held: books.Row) -> NightState:
        state = NightState(held.state)
        if state is NightState.OPENING and self._all_armed(held):
            return self._to(held, "armed", {"armed": self.clock.now()}, "every detector has an armed worker")
        if state is NightState.DRAINING:
            return self._drain(held)
        return state

    def _all_armed(self, held: books.Row) -> bool:
        with self.ledger.read() as connection:
            armed = {row.detector for row in books.workers(connection, held.name) if row.state == WorkerState.ARMED}
        return armed >= set(held.detectors)

    def _drain(self, held: books.Row) -> NightState:
        """Workers end what is in flight, then themselves; then the night is closed."""
        now = self.clock.now()
        living = self._living()
        with self.ledger.read() as connection:
            open_parts = books.parts(connection, held.name, open_only=True)
        if not open_parts and not living:
            return self._to(held, "close", {"closed": now}, "every worker has ended")
        if not open_parts and now - held.drained > self.prompt.deadline_s + _DRAIN_MAX_S:
            self._end_hard(held, living, now)
        elif living and now - self._drain_told > _DRAIN_AGAIN_S:
            self._drain_told = now
            self._tell_to_drain(held, living)
        return NightState.DRAINING

    def _tell_to_drain(self, held: books.Row, living: Sequence[books.Row]) -> None:
        try:
            for row in living:
                self.transport.send(queue_of(held.instrument, row.detector), Drain(night=held.name).model_dump(mode="json"))
        except TransportDown as error:
            self._say_transport(held, str(error))

    def _end_hard(self, held: books.Row, living: Sequence[books.Row], now: float) -> None:
        with self.lock.begin() as connection:
            for row in living:
                self.crew.give_up(connection, held, Verdict(row, "did not end though it was told to"), now)
        self.crew.put_down([row.key for row in living])

    def _to(self, held: books.Row, what: str, values: dict[str, float], words: str) -> NightState:
        state = follow(NIGHT_TABLE, NightState(held.state), what)
        with self.lock.begin() as connection:
            connection.execute(night.update().where(night.c.name == held.name).values(state=state.value, **values))
            books.tell(connection, held.name, self.clock.now(), state.value.lower(), words)
        _LOG.info("night %s is %s: %s", held.name, state, words)
        return state


def _read(delivery: Delivery) -> Report | None:
    """A report; one that cannot be read is logged and done with: it would come again for ever."""
    try:
        return read_report(dict(delivery.body))
    except ValidationError as error:
        _LOG.error("a report that cannot be read is dropped: %s", error)
        return None

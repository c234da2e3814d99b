"""The armed process of one detector: takes messages, keeps visits in flight, cancels them at their deadline, reports.

It acknowledges what it was told only when the end of it is in the supervisor's queue: killed at any moment, the next worker of
the detector gets the same messages, and alerts have the same ids.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from pydantic import BaseModel, ValidationError

from backbone.messages.prompt import (
    Armed,
    Beat,
    Drain,
    FrameArrived,
    Left,
    NextVisit,
    Progress,
    WorkerOrder,
    queue_of,
    read_order,
    reports_of,
)
from backbone.messages.transport import Delivery, Receiver, Transport, TransportDown
from services.prompt.flight import WAITING, Flight
from services.prompt.pilot import fly, say_that_it_is_late
from services.prompt.science import Plan, Science
from services.prompt.words import Done, Stage

_LOG = logging.getLogger(__name__)
_LISTEN_S = 0.05
_QUIET_S = 0.5
_REMEMBER = 1000


class Worker:
    """Of one detector of one night."""

    def __init__(
        self, order: WorkerOrder, transport: Transport, science: Science, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._order, self._transport, self._science, self._clock = order, transport, science, clock
        self._receiver: Receiver = transport.receiver(queue_of(order.instrument, order.detector))
        self._flights: dict[int, Flight] = {}
        self._done: dict[int, None] = {}
        self._out: deque[tuple[BaseModel, list[Delivery]]] = deque()
        self._beat_due = self._quiet_until = 0.0
        self._leave = ""

    @property
    def _who(self) -> dict[str, Any]:
        return {"night": self._order.night, "detector": self._order.detector, "worker": self._order.worker}

    def run(self) -> int:
        """Until the night drains, or SIGTERM; what is in flight then is finished. Returns the exit code."""
        signal.signal(signal.SIGTERM, self._asked_to_leave)
        began = self._clock()
        self._science.arm()
        self._say(Armed(**self._who, host=socket.gethostname(), pid=os.getpid(), preload_s=self._clock() - began))
        while not (self._leave and not self._flights):
            self.step()
        self._say(Left(**self._who, reason=self._leave))
        while self._out and self._clock() < self._beat_due + 10:
            self._tell(always=True)
        self._receiver.close()
        return 0

    def _asked_to_leave(self, _number: int, _frame: FrameType | None) -> None:
        self._leave = "it was told to by its pool"

    def step(self) -> None:
        """One turn: hear, look after what is in flight, tell."""
        self._hear()
        for flight in list(self._flights.values()):
            self._look_after(flight)
        if self._clock() >= self._beat_due:
            self._beat_due = self._clock() + self._order.beat_s
            self._out_of_date()
            self._say(Beat(**self._who, at=self._clock(), in_flight=tuple(self._flights)))
        self._tell()

    def _hear(self) -> None:
        try:
            self._receiver.renew()
            delivery = self._receiver.receive(_LISTEN_S)
        except TransportDown as error:
            self._be_quiet(error)
            time.sleep(_LISTEN_S)
            return
        if delivery is not None:
            self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        try:
            said = read_order(dict(delivery.body))
        except ValidationError as error:
            _LOG.error("a message that cannot be read is dropped: %s", error)
            self._acknowledge([delivery])
            return
        if isinstance(said, Drain):
            if said.night == self._order.night:
                self._leave = self._leave or "the night drains"
            self._acknowledge([delivery])
        elif said.visit in self._done:
            self._acknowledge([delivery])
        else:
            self._of_a_visit(said, delivery)

    def _of_a_visit(self, said: NextVisit | FrameArrived, delivery: Delivery) -> None:
        flight = self._flights.get(said.visit)
        if flight is None:
            flight = self._flights[said.visit] = Flight.of(said)
        flight.deliveries.append(delivery)
        if (isinstance(said, FrameArrived) and flight.add(said)) or flight.pid is None:
            self._progress(flight, self._clock())

    def _look_after(self, flight: Flight) -> None:
        now = self._clock()
        for word in flight.words():  # first: one that is done is done, however late this worker comes to hear of it
            if isinstance(word, Stage):
                flight.stage = word.stage
                self._progress(flight, word.at)
            else:
                self._end(flight, word if word.at else word.model_copy(update={"at": now}))
                return
        if now > flight.limit(self._order.deadline_s):
            self._cancel(flight, now)
        elif flight.pid is None and sum(one.pid is not None for one in self._flights.values()) < self._order.in_flight:
            flight.start(self._fly)

    def _fly(self, plan: Plan, pipe: Connection) -> None:
        fly(self._order, self._science, plan, pipe)

    def _cancel(self, flight: Flight, now: float) -> None:
        stage = flight.stage
        flight.cancel()
        if flight.readout_end is None:
            reason, mechanism = "its frames never came", "no frame"
        elif not flight.whole:
            reason, mechanism = f"{len(flight.frames)} of {len(flight.plan.exposures)} snaps came", "no frame"
        else:
            reason = f"not done {self._order.deadline_s:.0f} s after the end of readout: cancelled in {stage}"
            mechanism = "deadline" if stage != WAITING else "overload"
        self._end(flight, Done(state="cancelled", stage=stage, reason=reason, mechanism=mechanism, at=now))
        say_that_it_is_late(self._order, flight.plan, reason)

    def _end(self, flight: Flight, done: Done) -> None:
        del self._flights[flight.plan.visit]
        self._done[flight.plan.visit] = None
        if len(self._done) > _REMEMBER:
            del self._done[next(iter(self._done))]
        self._say(flight.ended(done, **self._who), flight.deliveries)

    def _progress(self, flight: Flight, at: float) -> None:
        plan = flight.plan
        arrived = tuple(flight.frames.values())
        self._say(
            Progress(
                **self._who,
                visit=plan.visit,
                stage=flight.stage,
                at=at,
                mode=plan.mode,
                exposures=plan.exposures,
                arrived=arrived,
            )
        )

    def _say(self, report: BaseModel, deliveries: list[Delivery] | None = None) -> None:
        self._out.append((report, deliveries or []))

    def _out_of_date(self) -> None:
        """While nobody takes them, beats must not pile up."""
        self._out = deque((report, kept) for report, kept in self._out if not isinstance(report, Beat))

    def _tell(self, *, always: bool = False) -> None:
        """Send what there is to say, in order; while messages cannot be sent it waits here."""
        if not always and self._clock() < self._quiet_until:
            return
        try:
            while self._out:
                report, deliveries = self._out[0]
                self._transport.send(reports_of(self._order.instrument), report.model_dump(mode="json"))
                self._out.popleft()
                self._acknowledge(deliveries)
        except TransportDown as error:
            self._be_quiet(error)

    def _acknowledge(self, deliveries: list[Delivery]) -> None:
        try:
            for delivery in deliveries:
                self._receiver.acknowledge(delivery)
        except TransportDown as error:
            self._be_quiet(error)  # they come again, and are known then

    def _be_quiet(self, error: TransportDown) -> None:
        if self._clock() >= self._quiet_until:
            _LOG.warning("%s", error)
        self._quiet_until = self._clock() + _QUIET_S

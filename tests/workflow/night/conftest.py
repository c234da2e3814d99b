"""A night in a ledger, under a clock of the test's own, with a pool and a transport in memory."""

import time
from collections import deque

import pytest

from backbone.messages.prompt import Armed, Beat, Ended, FrameArrived, NextVisit, Progress, reports_of
from backbone.messages.transport import Delivery, TransportDown
from workflow.clock import FakeClock
from workflow.night.loop import Watch
from workflow.night.nights import Nights
from workflow.night.settings import PromptSettings
from workflow.pools.fake import FakePool
from workflow.settings import Settings

CAMERA = "SimCam"


class MemoryTransport:
    """Queues in memory; `down` as a broker that is away."""

    def __init__(self):
        self.queues, self.down, self.taken = {}, False, {}

    def _up(self):
        if self.down:
            raise TransportDown("the broker is away")

    def send(self, queue, body):
        self._up()
        self.queues.setdefault(queue, deque()).append(dict(body))

    def receiver(self, queue):
        return MemoryReceiver(self, queue)

    def waiting(self, queue):
        return len(self.queues.get(queue, ()))

    def close(self):
        pass


class MemoryReceiver:
    def __init__(self, transport, queue):
        self._transport, self._queue, self._tag = transport, queue, 0

    def receive(self, wait_s=0.0):
        self._transport._up()
        waiting = self._transport.queues.setdefault(self._queue, deque())
        if not waiting:
            return None
        self._tag += 1
        return Delivery(body=waiting.popleft(), tag=self._tag)

    def acknowledge(self, delivery):
        self._transport._up()

    def renew(self):
        self._transport._up()

    def close(self):
        pass


class Stage:
    """The supervisor, and workers that say what the test lets them say."""

    def __init__(self, home):
        self.settings = Settings(home=home, prompt=PromptSettings())
        self.settings.write()
        self.clock, self.pool, self.transport = FakeClock(time.time()), FakePool(slots=9), MemoryTransport()
        self.nights = Nights(self.settings, clock=self.clock)
        self.watch = Watch(self.nights, transport=self.transport, pool=self.pool)

    def begin(self, name="n1", detectors=(0, 1)):
        return self.nights.begin(
            name, instrument=CAMERA, day_obs=20260101, skymap=CAMERA, detectors=detectors, actor="test", science="null"
        )

    def rounds(self, seconds=0.0, step=1.0):
        """Rounds over so many seconds, workers beating all the while."""
        end = self.clock.now() + seconds
        self.watch.round()
        while self.clock.now() < end:
            self.clock.sleep(step)
            self.beat()
            self.watch.round()

    def living(self, name="n1"):
        return {row.detector: row for row in self.nights.rows(name)[2] if row.ended is None}

    def beat(self, name="n1", but=()):
        for detector, row in self.living(name).items():
            if row.armed is not None and detector not in but:
                self.say(Beat(night=name, detector=detector, worker=row.key, at=self.clock.now()))

    def arm(self, name="n1"):
        self.rounds()
        for detector, row in self.living(name).items():
            if row.armed is None:
                self.say(Armed(night=name, detector=detector, worker=row.key, host="h", pid=1, preload_s=2.0))
        self.rounds()

    def say(self, report):
        self.transport.queues.setdefault(reports_of(CAMERA), deque()).append(report.model_dump(mode="json"))

    def announce(self, visit, **more):
        given = {"exposures": (visit,), "expected_end": self.clock.now() + 30} | more
        return self.nights.announce(NextVisit(instrument=CAMERA, visit=visit, **given), "ocs")

    def progress(self, visit, detector, stage="subtract", name="n1", **more):
        now = self.clock.now()
        frame = FrameArrived(
            instrument=CAMERA,
            detector=detector,
            visit=visit,
            exposure=visit,
            exposures=(visit,),
            key="k",
            size=1,
            sha256="0" * 64,
            readout_end=now,
            received=now,
            stored=now,
        )
        key = self.living(name)[detector].key
        said = {"night": name, "detector": detector, "worker": key, "visit": visit, "stage": stage, "at": now}
        self.say(Progress(**said, exposures=(visit,), arrived=(frame,), **more))

    def ended(self, visit, detector, state="succeeded", name="n1", **more):
        now = self.clock.now()
        said = {"night": name, "detector": detector, "worker": "w", "visit": visit, "stage": "done", "at": now}
        self.say(Ended(**(said | {"state": state, "exposures": (visit,), "alerts_out": now, "readout_end": now - 5} | more)))

    def part(self, visit, detector, name="n1"):
        return next(row for row in self.nights.rows(name)[1] if (row.visit, row.detector) == (visit, detector))

    def events(self, kind, name="n1"):
        return [row.words for row in self.nights.rows(name)[3] if row.kind == kind]


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    yield made
    made.watch.close()
    made.nights.ledger.close()

"""A night with real workers, processes of a local pool, that do what their frames say: what is late, what dies, what is left."""

import hashlib
import json
import os
import signal
import time
from contextlib import closing

import psutil
import pytest

from backbone.endpoints import open_endpoint
from backbone.errors import ConflictError
from backbone.messages.opened import open_transport
from backbone.messages.prompt import FrameArrived, NextVisit, queue_of
from services.telemetry.telemetry import Telemetry
from workflow.night.loop import Watch
from workflow.night.nights import Nights
from workflow.night.settings import PromptSettings
from workflow.night.states import NightState, WorkerState
from workflow.settings import LocalPool, Settings, Site

PATIENCE_S = 240.0
DEADLINE_S = 100.0
CAMERA = "SimCam"


class Observatory:
    """A home with a night, its supervisor, and the frames of its camera."""

    def __init__(self, home, *, pool=None, **prompt):
        os.environ.pop("PACHON_HOME", None)
        sites = (Site(name="ncsa", pool=pool or LocalPool(slots=4)),)
        self.settings = Settings(home=home, sites=sites, prompt=PromptSettings(poll_s=0.05, **prompt))
        self.settings.write()
        self.nights = Nights(self.settings)
        self.watch = Watch(self.nights)
        self.began = time.time()
        self.store = open_endpoint(str(home / "repo"), name="ncsa")
        self.transport = open_transport(self.settings.messages, home)

    def open(self, name, detectors=(0, 1)):
        self.nights.begin(
            name, instrument=CAMERA, day_obs=20211006, skymap=CAMERA, detectors=detectors, actor="test", science="null"
        )
        self.until(lambda: self.nights.status(name).state is NightState.OPEN)

    def until(self, true):
        limit = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < limit, "it never came to that"
            self.watch.round()
            time.sleep(0.02)

    def announce(self, visit, **more):
        said = NextVisit(instrument=CAMERA, visit=visit, exposures=(visit,), expected_end=self.began + 60.0 + visit, **more)
        return self.nights.announce(said, "ocs")

    def frame(self, visit, detector, *, age_s=0.0, exposures=(), exposure=None, **told):
        content = json.dumps(told).encode()
        exposure = exposure or visit
        key = f"prompt/raw/{exposure}/{detector}.fits"
        self.store.put(key, content)
        now = time.time()
        arrived = FrameArrived(
            instrument=CAMERA,
            detector=detector,
            visit=visit,
            exposure=exposure,
            exposures=exposures or (visit,),
            key=key,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            readout_end=now - age_s,
            received=now,
            stored=now,
        )
        self.transport.send(queue_of(CAMERA, detector), arrived.model_dump(mode="json"))

    def parts(self, night):
        return {(row.visit, row.detector): row for row in self.nights.rows(night)[1]}

    def ended(self, night, count):
        self.until(lambda: sum(row.ended is not None for row in self.parts(night).values()) >= count)
        return self.parts(night)

    def workers(self, night):
        return self.nights.rows(night)[2]

    def events(self, night, kind):
        return [row.words for row in self.nights.rows(night)[3] if row.kind == kind]

    def close(self, night):
        self.nights.drain(night, "test")
        self.until(lambda: self.nights.status(night).ended)


@pytest.fixture(scope="module")
def observatory(tmp_path_factory):
    """One for the module: arming costs a second of imports for each worker."""
    made = Observatory(tmp_path_factory.mktemp("home"), deadline_s=DEADLINE_S)
    made.open("night_a")
    with closing(made.watch):
        yield made
        made.watch._crew.put_down([row.key for row in made.workers("night_a") if row.ended is None])


def process_of(observatory, detector):
    """The armed worker of a detector, as a process."""
    (row,) = [w for w in observatory.workers("night_a") if w.detector == detector and w.ended is None]
    record = (observatory.settings.run_dir / "jobs" / "ncsa" / row.key / "record").read_text().split()
    keeper = psutil.Process(int(record[0]))
    (found,) = [p for p in keeper.children() if "services.prompt" in " ".join(p.cmdline())]
    return row.key, found


def test_visits_that_were_announced_are_processed_on_each_detector(observatory):
    night, new = observatory.announce(1)
    assert (night, new) == ("night_a", True)
    assert observatory.announce(1) == ("night_a", False)
    with pytest.raises(ConflictError, match="announced otherwise"):
        observatory.announce(1, field="elsewhere")
    for detector in (0, 1):
        observatory.frame(1, detector, sources=7)
    parts = observatory.ended("night_a", 2)
    for detector in (0, 1):
        row = parts[1, detector]
        assert (row.state, row.sources, row.tries) == ("SUCCEEDED", 7, 1)
        assert list(row.stages) == ["preload", "wait", "fetch", "null", "publish", "keep"]
        assert row.received <= row.stored <= row.alerts_out <= row.ended
    assert observatory.transport.waiting(queue_of(CAMERA, 0)) == 0


def test_a_visit_is_processed_once_all_its_snaps_are_there_and_without_announcement(observatory):
    observatory.frame(20, 0, exposure=20, exposures=(20, 21))
    observatory.frame(20, 1, exposure=20, exposures=(20, 21))
    observatory.until(lambda: (row := observatory.parts("night_a").get((20, 0))) is not None and row.stage == "wait")
    for detector in (0, 1):
        observatory.frame(20, detector, exposure=21, exposures=(20, 21))
    observatory.until(lambda: all(observatory.parts("night_a")[20, d].ended for d in (0, 1)))
    row = observatory.parts("night_a")[20, 0]
    assert (row.state, row.quality["snaps"]) == ("SUCCEEDED", 2)
    assert any("visit 20 came without next_visit" in words for words in observatory.events("night_a", "unannounced"))


def test_a_visit_over_its_deadline_is_cancelled_with_its_stage_and_the_next_is_not_delayed(observatory):
    observatory.announce(2)
    for detector in (0, 1):
        observatory.frame(2, detector, age_s=DEADLINE_S - 25, seconds=600, stage="subtract")
        observatory.frame(3, detector, sources=1)
    observatory.until(lambda: all(observatory.parts("night_a")[v, d].ended for v in (2, 3) for d in (0, 1)))
    late, after = (observatory.parts("night_a")[v, 0] for v in (2, 3))
    assert (late.state, late.mechanism, late.stage) == ("CANCELLED", "deadline", "subtract")
    assert "100 s after the end of readout" in late.reason
    assert after.state == "SUCCEEDED"
    assert after.ended < late.ended
    observatory.until(lambda: len(told := told_late(observatory)) == 2 and {visit for visit, _ in told} == {2})
    assert all("cancelled in subtract" in reason for _, reason in told_late(observatory))


def told_late(observatory):
    """Visit and reason of what the observatory was told as late."""
    with Telemetry.open(observatory.settings.home) as telemetry:
        return [(f.values["visit"], f.values["reason"]) for f in telemetry.read() if f.values["state"] == "late"]


def test_a_visit_whose_process_dies_costs_itself_alone(observatory):
    for detector in (0, 1):
        observatory.frame(4, detector, **({"signal": int(signal.SIGSEGV), "stage": "detect"} if detector == 0 else {}))
        observatory.frame(5, detector, error="no stars")
    observatory.until(lambda: all(observatory.parts("night_a").get((v, d)) is not None for v in (4, 5) for d in (0, 1)))
    observatory.until(lambda: all(observatory.parts("night_a")[v, d].ended for v in (4, 5) for d in (0, 1)))
    parts = observatory.parts("night_a")
    assert (parts[4, 0].state, parts[4, 0].mechanism, parts[4, 0].stage) == ("FAILED", "SIGSEGV", "detect")
    assert parts[4, 1].state == "SUCCEEDED"
    assert (parts[5, 0].state, parts[5, 0].mechanism, parts[5, 0].reason) == ("FAILED", "ValueError", "no stars")
    assert len({w.key for w in observatory.workers("night_a") if w.ended is None}) == 2


def test_a_killed_worker_is_replaced_and_what_it_had_is_done_by_the_next(observatory, tmp_path):
    key, process = process_of(observatory, 0)
    for detector in (0, 1):
        observatory.frame(6, detector, until=str(tmp_path / "go"))
    observatory.until(lambda: (row := observatory.parts("night_a").get((6, 0))) is not None and row.stage == "null")
    process.kill()
    observatory.until(lambda: observatory.parts("night_a")[6, 0].worker != key)
    (tmp_path / "go").touch()
    observatory.until(lambda: observatory.parts("night_a")[6, 0].ended is not None)
    row = observatory.parts("night_a")[6, 0]
    assert (row.state, row.tries) == ("SUCCEEDED", 2)
    assert row.worker != key
    lost = {w.key: w for w in observatory.workers("night_a")}[key]
    assert lost.state == WorkerState.LOST
    assert any("worker of detector 0 lost" in words for words in observatory.events("night_a", "lost"))


def test_a_worker_that_is_stuck_is_ended_and_replaced(observatory):
    key, process = process_of(observatory, 1)
    process.suspend()
    observatory.until(lambda: {w.key: w for w in observatory.workers("night_a")}[key].ended is not None)
    observatory.until(lambda: any(w.detector == 1 and w.state == WorkerState.ARMED for w in observatory.workers("night_a")))
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_night_that_drains_ends_what_is_in_flight_and_then_its_workers(observatory, tmp_path):
    observatory.frame(7, 0, until=str(tmp_path / "go"))
    observatory.frame(7, 1)
    observatory.until(lambda: (row := observatory.parts("night_a").get((7, 0))) is not None and row.stage == "null")
    observatory.nights.drain("night_a", "test")
    observatory.until(lambda: observatory.parts("night_a")[7, 1].ended is not None)
    assert not observatory.nights.status("night_a").ended
    (tmp_path / "go").touch()
    observatory.close("night_a")
    assert {row.state for row in observatory.parts("night_a").values() if row.visit == 7} == {"SUCCEEDED"}
    assert all(w.state in (WorkerState.ENDED, WorkerState.LOST) for w in observatory.workers("night_a"))
    assert observatory.nights.status("night_a").armed == 0

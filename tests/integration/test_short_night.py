"""A short night of a small camera, from frames at ingest's door to alerts, against undisturbed processing; a worker is killed."""

import threading
import time
from contextlib import ExitStack, closing

import pytest
import uvicorn

from backbone.endpoints import open_endpoint
from backbone.messages.opened import open_transport
from deploy.demo.night import CAMERA, prepare, survey_of
from deploy.demo.observatory import Observatory, fields_of, visits_of
from services.alerts.book import FULL
from services.alerts.outbox import AlertOutbox
from services.prompt_ingest.app import door
from services.prompt_ingest.camera import Camera
from services.prompt_ingest.forwarder import Forwarder
from services.prompt_ingest.spool import Spool
from services.telemetry.telemetry import Telemetry
from workflow.campaigns import Campaigns
from workflow.night.late import hand_over
from workflow.night.loop import Watch
from workflow.night.nights import Nights
from workflow.night.reports import performance_report, quality_report
from workflow.night.settings import PromptSettings
from workflow.settings import Settings

pytestmark = pytest.mark.timeout(2400)  # calibrations and templates first, on a machine that may be busy
PATIENCE_S = 900.0
VISITS = 3


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    """Calibrations, templates, and the frames of a night."""
    config = survey_of(visits=VISITS, detectors=1, size=320, cadence_s=39, seed=11)
    return prepare(tmp_path_factory.mktemp("night"), config, lambda _: None, jobs=1)


@pytest.fixture(scope="module")
def camera(stand):
    """At the door of prompt ingest, which runs in this process."""
    spool = Spool(stand.home / "spool" / "main")
    messages = Settings.load(stand.home).messages
    forwarder = Forwarder(
        spool,
        CAMERA,
        endpoint=lambda: open_endpoint(str(stand.home / "repo"), name="local"),
        transport=lambda: open_transport(messages, stand.home),
    )
    config = uvicorn.Config(door(spool, forwarder, token="t", max_bytes=1 << 24), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    address = server.servers[0].sockets[0].getsockname()
    with closing(Camera(lambda: f"http://127.0.0.1:{address[1]}", "t")) as made:
        yield made
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def night(stand, camera):
    """The night, over; a worker was killed on the way."""
    # What is slow here is the machine that tests run on, and not the night.
    settings = Settings.load(stand.home).model_copy(update={"prompt": PromptSettings(deadline_s=PATIENCE_S, arm_s=PATIENCE_S)})
    settings.write()
    nights = Nights(settings)
    with ExitStack() as exits:
        watch = exits.enter_context(closing(Watch(nights)))
        exits.callback(nights.ledger.close)
        exits.callback(lambda: watch._crew.put_down([row.key for row in nights.rows("n1")[2] if row.ended is None]))

        def until(true):
            limit = time.monotonic() + PATIENCE_S
            while not true():
                assert time.monotonic() < limit, "it never came to that"
                watch.round()
                time.sleep(0.05)

        fields = fields_of(stand.world, 1)
        begun = {"instrument": CAMERA, "day_obs": stand.day_obs, "skymap": CAMERA, "detectors": [0], "fields": fields}
        nights.begin("n1", **begun, actor="test")
        until(lambda: nights.status("n1").armed == 1)
        visits = visits_of(stand.world, 1)

        def announce(said):
            nights.announce(said, "ocs")
            if said.visit == visits[0].id:
                until(lambda: nights.rows("n1")[1][0].stage)  # the worker waits for the frame, which is sent only then

        observatory = Observatory(stand.world, stand.survey, camera, announce)
        observatory.play(visits[:1], 0.2)
        until(lambda: nights.rows("n1")[1][0].stage != "waiting")
        watch._crew.put_down([row.key for row in nights.rows("n1")[2]])  # kill -9, by its pool
        observatory.play(visits[1:], 0.2)
        until(lambda: len(nights.rows("n1")[1]) == VISITS and all(row.ended for row in nights.rows("n1")[1]))
        nights.drain("n1", "test")
        until(lambda: nights.status("n1").ended)
        yield nights


def test_every_alert_of_undisturbed_processing_is_out_once(stand, night):
    assert [row.state for row in night.rows("n1")[1]] == ["SUCCEEDED"] * VISITS
    assert stand.expected, "a night without alerts shows nothing"
    with AlertOutbox.open(stand.home) as outbox:
        assert outbox.known(stand.expected) == set(stand.expected)
        last, _ = outbox.book.streams()[FULL]
    assert last == len(stand.expected)


def test_the_killed_worker_was_replaced_and_its_visit_done_by_the_next(night):
    workers = night.rows("n1")[2]
    assert [row.state for row in workers] == ["LOST", "ENDED"]
    first = night.rows("n1")[1][0]
    assert (first.tries, first.worker) == (2, workers[1].key)


def test_frames_were_at_the_endpoint_soon_after_readout_and_the_spool_is_empty(stand, night):
    for row in night.rows("n1")[1]:
        assert row.readout_end <= row.received <= row.stored
    assert Spool(stand.home / "spool" / "main").depth() == 0


def test_the_reports_say_what_happened(night):
    performance, quality = performance_report(night, "n1"), quality_report(night, "n1")
    assert performance["parts"]["SUCCEEDED"] == VISITS
    assert performance["workers"]["lost"] == 1
    assert performance["workers"]["rearmed_s"][0] > 0
    assert [part["tries"] for part in performance["recovered_parts"]] == [2]
    assert {"isr", "subtract", "detect"} <= set(performance["stages"])
    measured = quality["filters"]["r"]["measures"]
    assert measured["zeropoint_mag"]["n"] == VISITS
    assert 28 < measured["zeropoint_mag"]["median"] < 32


def test_the_observatory_was_told_of_each_detector_and_stamps_are_kept(stand, night):
    with Telemetry.open(stand.home) as telemetry:
        told = telemetry.read()
    # Once each; in the order in which they ended, which is not the telescope's where a worker was killed.
    assert sorted(found.values["visit"] for found in told) == sorted(row.visit for row in night.rows("n1")[1])
    for row in night.rows("n1")[1]:
        if row.alerts:
            assert night.store.get(row.stamps).startswith(b"\x89PNG")


def test_nothing_was_left_to_offline(stand, night):
    production = stand.home.parents[0] / "nothing.yaml"
    assert hand_over(night, Campaigns.open(stand.home), "n1", production, "test") is None

"""A short night of a small camera, from frames at ingest's door to alerts, against undisturbed processing; a worker is killed,
and the frame of the last visit arrives without its pixels: it is left to the day after, whose raw frames are whole.
"""

import threading
import time
from contextlib import ExitStack, closing

import pytest
import uvicorn
from astropy.io import fits

from backbone.endpoints import open_endpoint
from backbone.messages.opened import open_transport
from deploy.demo.case import DagRun
from deploy.demo.local import run_locally
from deploy.demo.night import CAMERA, prepare, survey_of
from deploy.demo.observatory import Observatory, fields_of, visits_of
from deploy.stack import default_dags
from payloads.camera import Camera
from payloads.ingest import ingest
from payloads.repository import open_repository
from payloads.simulator.headers import raw_name
from services.alerts.book import FULL
from services.alerts.collected import collect as collect_alerts
from services.alerts.outbox import AlertOutbox
from services.prompt.collected import collect
from services.prompt_ingest.app import door
from services.prompt_ingest.camera import Camera as AtDoor
from services.prompt_ingest.forwarder import Forwarder
from services.prompt_ingest.spool import Spool
from services.telemetry.telemetry import Telemetry
from workflow.campaigns import Campaigns
from workflow.loop import Pace, Stop, run_until_ended
from workflow.night.late import hand_over, settle
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
    config = survey_of(visits=VISITS + 1, detectors=1, size=320, cadence_s=39, seed=11)
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
    with closing(AtDoor(lambda: f"http://127.0.0.1:{address[1]}", "t")) as made:
        yield made
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def night(stand, camera, tmp_path_factory):
    """The night, over; a worker was killed on the way, the last visit failed."""
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
        for done in range(1, VISITS):  # each when the one before is remembered
            until(lambda n=done: sum(row.ended is not None for row in nights.rows("n1")[1]) == n)
            observatory.play(visits[done : done + 1], 0.2)
        name = raw_name(stand.world.survey, visits[VISITS], stand.world.camera.detector(0))
        empty = tmp_path_factory.mktemp("empty") / name
        empty.parent.mkdir(parents=True)
        with fits.open(stand.survey / name) as hdus:
            hdus[0].data[:] = 0
            hdus.writeto(empty)
        Observatory(stand.world, empty.parents[2], camera, announce).play(visits[VISITS:], 0.2)
        until(lambda: len(nights.rows("n1")[1]) == VISITS + 1 and all(row.ended for row in nights.rows("n1")[1]))
        nights.drain("n1", "test")
        until(lambda: nights.status("n1").ended)
        yield nights


@pytest.fixture(scope="module")
def in_time(stand, night):
    """Alerts that undisturbed processing makes of the visits that were done in the night."""
    done = {visit.id for visit in visits_of(stand.world, 1)[:VISITS]}
    found = [alert for alert, visit in stand.expected.items() if visit in done]
    assert found, "a night without alerts shows nothing"
    return found


def test_every_alert_of_undisturbed_processing_is_out_once(stand, night, in_time):
    assert [row.state for row in night.rows("n1")[1]] == ["SUCCEEDED"] * VISITS + ["FAILED"]
    with AlertOutbox.open(stand.home) as outbox:
        assert outbox.known(stand.expected) == set(in_time)
        last, _ = outbox.book.streams()[FULL]
    assert last == len(in_time)


@pytest.fixture(scope="module")
def packets(stand, in_time):
    """Of these alerts."""
    with AlertOutbox.open(stand.home) as outbox:
        return [outbox.archive.get(alert) for alert in in_time]


def test_packets_carry_what_was_measured_at_their_object_in_the_visits_before(packets):
    first, *_, last = sorted({packet["diaSource"]["visit"] for packet in packets})
    forced = {visit: [p["prvDiaForcedSources"] for p in packets if p["diaSource"]["visit"] == visit] for visit in (first, last)}
    assert not any(forced[first])  # nothing was known of these places
    assert max(len({f["visit"] for f in found or []}) for found in forced[last]) == VISITS - 1


def test_asteroids_whose_orbits_are_known_are_told_as_such(stand, packets):
    """The orbits are the simulator's own: predictions are right by construction, and must find their way."""
    named = [packet["ssSource"]["ssObjectId"] for packet in packets if packet["ssSource"]]
    assert named
    assert set(named) <= set(stand.world.asteroids.id.tolist())
    assert not any(packet["diaObject"] for packet in packets if packet["ssSource"])


def test_the_killed_worker_was_replaced_and_its_visit_done_by_the_next(night):
    workers = night.rows("n1")[2]
    assert [row.state for row in workers] == ["LOST", "ENDED"]
    first = night.rows("n1")[1][0]
    assert (first.tries, first.worker) == (2, workers[1].key)


def test_a_frame_without_its_pixels_fails_with_a_reason(night):
    last = night.rows("n1")[1][-1]
    assert (last.state, last.tries, last.alerts) == ("FAILED", 1, 0)
    assert last.reason


def test_frames_were_at_the_endpoint_soon_after_readout_and_the_spool_is_empty(stand, night):
    for row in night.rows("n1")[1]:
        assert row.readout_end <= row.received <= row.stored
    assert Spool(stand.home / "spool" / "main").depth() == 0


def test_the_reports_say_what_happened(night):
    performance, quality = performance_report(night, "n1"), quality_report(night, "n1")
    assert (performance["parts"]["SUCCEEDED"], performance["parts"]["FAILED"]) == (VISITS, 1)
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
    assert [found.values["state"] for found in told].count("failed") == 1
    for row in night.rows("n1")[1]:
        if row.alerts:
            assert night.store.get(row.stamps).startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def day_after(stand, night, in_time):
    """What the DAG `offline` does, when the night's raw frames have come into the repository: returns what was told of each."""
    visits, told = visits_of(stand.world, 1), {}
    told["too early"] = collect(stand.home, CAMERA, stand.day_obs)
    paths = [stand.survey / raw_name(stand.world.survey, visit, stand.world.camera.detector(0)) for visit in visits]
    ingest(stand.home, Camera.load(stand.survey / "camera.yaml"), paths)
    told["sources"] = [collect(stand.home, CAMERA, stand.day_obs) for _ in range(2)]
    campaigns, production = Campaigns.open(stand.home), default_dags() / "productions" / "nightly_late.yaml"
    told["late"] = [hand_over(night, campaigns, "n1", production, "test") for _ in range(2)]
    for step in campaigns.status("n1_late").steps:
        campaigns.release("n1_late", step.name, "test")
    run_until_ended(campaigns, "n1_late", pace=Pace(0.1, 1.0), show=lambda _: None, advance=True, stop=Stop())
    told["alerts"] = [collect_alerts(stand.home, CAMERA, stand.day_obs) for _ in range(2)]
    offline = DagRun("offline", "offline", {"instrument": CAMERA, "day_obs": stand.day_obs})
    told["offline"], *_ = run_locally(stand.home, default_dags(), [offline])
    return told, campaigns


def test_sources_of_the_night_wait_for_its_raw_frames_and_are_then_in_the_repository_once(stand, night, day_after):
    told, _ = day_after
    done, found = [row for row in night.rows("n1")[1] if row.state == "SUCCEEDED"], told["sources"]
    assert told["too early"].unknown == tuple(row.visit for row in done)
    assert (found[0].frames, found[0].sources) == (VISITS, sum(row.sources for row in done))
    assert (found[1].frames, found[1].already, found[1].unknown) == (0, VISITS, ())


def test_what_failed_is_done_the_day_after_and_nothing_that_succeeded_is_done_again(stand, night, day_after):
    told, campaigns = day_after
    assert told["late"] == ["n1_late", "n1_late"]
    report = campaigns.report("n1_late")
    assert report.campaign.state == "SUCCEEDED"
    assert {label.expected for label in report.labels if label.step in {"frames", "difference", "package"}} == {1}
    (left,) = [row for row in night.rows("n1")[1] if row.state == "FAILED"]
    assert [(entry.visit, entry.step) for entry in campaigns.backlog("n1_late")] == [(left.visit, "prompt")]
    settle(night, "n1_late")
    assert campaigns.backlog("n1_late") == []


def test_alerts_of_what_was_left_reach_subscribers_once(stand, night, in_time, day_after):
    told, _ = day_after
    (first, again), last = told["alerts"], night.rows("n1")[1][-1]
    assert (first.frames, again.new, again.known) == (1, 0, first.new)
    late = {visit_detector for visit_detector in stand.expected.items() if visit_detector[1] == last.visit}
    assert first.new >= 0.7 * len(late) > 0  # another chain of algorithms, and the same sky
    with AlertOutbox.open(stand.home) as outbox:
        assert outbox.book.streams()[FULL][0] == len(in_time) + first.new
        assert {detector for detector, _ in outbox.archive.of_visit(last.visit)} == {0}


def test_tracklets_are_sought_in_all_frames_of_the_night(stand, day_after):
    with open_repository(stand.home / "repo") as butler:
        (ref,) = butler.query_datasets("findTracklets_metadata", collections="*", find_first=False)
        assert butler.get(ref)["findTracklets"]["n_frames"] == VISITS + 1
        (objects,) = butler.query_datasets("dia_source_history", collections=f"{CAMERA}/prompt")
        assert len(set(butler.get(objects)["visit"])) == VISITS + 1


def test_bodies_are_no_objects_the_day_after_whether_workers_or_batch_named_them(stand, night, day_after):
    with open_repository(stand.home / "repo") as butler:
        (ref,) = butler.query_datasets("dia_source_history", collections=f"{CAMERA}/prompt")
        sources = butler.get(ref)
    named = sources["ssObjectId"] != 0
    assert set(sources["ssObjectId"][named]) <= set(stand.world.asteroids.id.tolist())
    assert {night.rows("n1")[1][0].visit, night.rows("n1")[1][-1].visit} <= set(sources["visit"][named])
    assert not sources["diaObjectId"][named].any()


def test_a_night_that_somebody_runs_through_batch_as_well_tells_nothing_twice(stand, night, in_time, day_after):
    """All its frames have sources of other ids then; the one that batch had done already is the same frame too."""
    with AlertOutbox.open(stand.home) as outbox:
        before = outbox.book.streams()[FULL]
        told = {row.visit: len(outbox.archive.of_visit(row.visit)) for row in night.rows("n1")[1]}
    by_hand = DagRun("by hand", "nightly", {"instrument": CAMERA, "day_obs": stand.day_obs})
    run_locally(stand.home, default_dags(), [by_hand])
    found, again = (collect_alerts(stand.home, CAMERA, stand.day_obs) for _ in range(2))
    assert (found.frames, found.read, found.new) == (VISITS + 1, VISITS + 1, 0)
    assert {(one.told_by.partition("/")[0], one.frames) for one in found.withheld} == {("prompt", VISITS), ("n1_late", 1)}
    assert (again.read, again.withheld) == (0, found.withheld)
    with AlertOutbox.open(stand.home) as outbox:
        assert outbox.book.streams()[FULL] == before
        assert {visit: len(outbox.archive.of_visit(visit)) for visit in told} == told

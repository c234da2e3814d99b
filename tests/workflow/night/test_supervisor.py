"""The supervisor's decisions under a clock of the test's own."""

from pathlib import Path

import pytest

from backbone.errors import ConflictError, PermanentError, TransientError
from backbone.messages.prompt import Drain, Left, Mode, queue_of
from workflow.campaigns import Campaigns
from workflow.clock import FakeClock
from workflow.context import Context
from workflow.loop import Stop
from workflow.night.late import hand_over, settle
from workflow.night.lock import take
from workflow.night.loop import Watch, run_nights
from workflow.night.nights import NightNotOpen, Nights
from workflow.night.page import performance_page
from workflow.night.reports import performance_report
from workflow.night.states import NightState, WorkerState

CAMERA = "SimCam"
LATE = Path(__file__).parents[3] / "dags" / "productions" / "nightly_late.yaml"


def test_a_night_is_open_once_every_detector_has_an_armed_worker(stage):
    assert stage.begin().state is NightState.OPENING
    stage.rounds()
    assert sorted(stage.pool.submissions) == ["n1-d000-1", "n1-d001-1"]
    assert {resources.group for resources in stage.pool.resources.values()} == {"prompt"}
    stage.arm()
    assert (stage.nights.status("n1").state, stage.nights.status("n1").armed) == (NightState.OPEN, 2)


def test_the_same_night_begun_twice_is_one_and_another_is_refused(stage):
    stage.begin()
    stage.begin()
    with pytest.raises(ConflictError, match="begun otherwise"):
        stage.begin(detectors=(0,))
    with pytest.raises(ConflictError, match="n1 of SimCam is not closed"):
        stage.begin("n2")


def test_a_visit_is_told_to_every_detector_once(stage):
    stage.begin()
    stage.arm()
    stage.announce(7)
    stage.rounds(3)
    for detector in (0, 1):
        (said,) = stage.transport.queues[queue_of(CAMERA, detector)]
        assert (said["kind"], said["visit"]) == ("next_visit", 7)


def test_nobody_takes_visits_where_no_night_is_open(stage):
    with pytest.raises(NightNotOpen, match="none is open"):
        stage.announce(1)
    stage.begin()
    stage.nights.drain("n1", "test")
    with pytest.raises(NightNotOpen, match="draining"):
        stage.announce(1)


def test_a_visit_announced_while_messages_cannot_be_had_is_told_later(stage):
    stage.begin()
    stage.arm()
    stage.transport.down = True
    stage.announce(7)
    stage.rounds(30, step=3)
    assert stage.living()[0].key == "n1-d000-1", "who hears nothing must not call others silent"
    stage.transport.down = False
    stage.rounds(1)
    assert [said["visit"] for said in stage.transport.queues[queue_of(CAMERA, 0)]] == [7]
    assert len(stage.events("transport")) == 2


def test_a_worker_whose_process_is_gone_is_replaced_at_once(stage):
    stage.begin()
    stage.arm()
    stage.pool.end("n1-d000-1", -9)
    stage.rounds(1)
    assert stage.living()[0].key == "n1-d000-2"
    assert stage.pool.submissions[-1] == "n1-d000-2"
    assert "-9" in stage.events("lost")[0]


def test_workers_that_die_one_after_another_are_replaced_more_and_more_slowly(stage):
    stage.begin(detectors=(0,))
    stage.rounds()
    for _ in range(60):
        for row in stage.living().values():
            stage.pool.end(row.key, 3)
        stage.clock.sleep(1)
        stage.watch.round()
    assert 5 <= len(stage.pool.submissions) <= 8, "after 0.5, 1, 2, 4, 8, 16, 30 s"


def test_a_silent_worker_is_ended_and_replaced_though_its_pool_says_it_runs(stage):
    stage.begin()
    stage.arm()
    for _ in range(15):
        stage.clock.sleep(1)
        stage.beat(but=(1,))
        stage.watch.round()
    assert "n1-d001-1" in stage.pool.killed
    assert stage.living()[1].key == "n1-d001-2"
    assert stage.living()[0].key == "n1-d000-1"


def test_what_the_pool_does_not_know_is_no_death(stage):
    stage.begin()
    stage.arm()
    stage.pool.silent = True
    stage.rounds(60, step=4)
    assert {row.key for row in stage.living().values()} == {"n1-d000-1", "n1-d001-1"}


def test_a_part_that_no_worker_ended_is_cancelled_with_its_stage(stage):
    stage.begin()
    stage.arm()
    stage.announce(7)
    stage.progress(7, 0)
    stage.rounds(80, step=4)
    assert (stage.part(7, 0).state, stage.part(7, 0).stage, stage.part(7, 0).mechanism) == (
        "CANCELLED",
        "subtract",
        "worker lost",
    )
    assert (stage.part(7, 1).state, stage.part(7, 1).mechanism) == ("CANCELLED", "no worker")
    assert len(stage.events("cancelled")) == 2


def test_a_visit_whose_frames_never_come_is_given_up(stage):
    stage.begin()
    stage.arm()
    stage.announce(7)
    stage.rounds(112, step=4)
    assert stage.part(7, 0).state == "EXPECTED"
    stage.rounds(20, step=4)
    assert (stage.part(7, 0).state, stage.part(7, 0).reason) == ("CANCELLED", "its frames never came")


def test_a_success_that_comes_after_the_cancellation_counts(stage):
    stage.begin()
    stage.arm()
    stage.announce(7)
    stage.progress(7, 0)
    stage.rounds(80, step=4)
    stage.ended(7, 0, alerts=4)
    stage.rounds()
    assert (stage.part(7, 0).state, stage.part(7, 0).alerts) == ("SUCCEEDED", 4)


def test_reports_that_come_twice_change_nothing(stage):
    stage.begin()
    stage.arm()
    for _ in range(2):
        stage.progress(7, 0)
        stage.ended(7, 0, alerts=4)
        stage.ended(7, 1, "failed", reason="no stars", mechanism="NothingDetected", stage="characterize")
    stage.rounds()
    assert [stage.part(7, d).state for d in (0, 1)] == ["SUCCEEDED", "FAILED"]
    assert len(stage.events("failed")) == 1
    assert len(stage.events("unannounced")) == 1


def test_alerts_that_were_withheld_from_a_part_are_in_what_happened_and_in_the_report(stage):
    stage.begin()
    stage.arm()
    stage.announce(7)
    stage.ended(7, 1, alerts=0, quality={"alerts_withheld": 12, "told_by": "nightly_1/package/0"})
    stage.ended(7, 0, alerts=3)
    stage.rounds()
    said = "visit 7 on detector 1: 12 alerts withheld: nightly_1/package/0 had told this frame"
    assert stage.events("withheld") == [said]
    report = performance_report(stage.nights, "n1")
    assert report["alerts_withheld"] == [{"visit": 7, "detector": 1, "alerts": 12, "told_by": "nightly_1/package/0"}]
    assert "Alerts withheld" in performance_page(report)


def test_an_announcement_after_its_frames_is_taken_and_told_to_nobody_twice(stage):
    stage.begin()
    stage.arm()
    stage.progress(7, 0)
    stage.rounds()
    assert stage.announce(7, mode=Mode.DEEP_DRILLING) == ("n1", True)
    assert stage.announce(7, mode=Mode.DEEP_DRILLING, expected_end=stage.clock.now() + 30) == ("n1", False)


def test_a_night_that_drains_tells_its_workers_and_closes_when_they_have_left(stage):
    stage.begin()
    stage.arm()
    stage.progress(7, 0)
    stage.rounds()
    stage.nights.drain("n1", "test")
    stage.rounds(2)
    assert stage.nights.status("n1").state is NightState.DRAINING
    assert Drain(night="n1").model_dump(mode="json") in stage.transport.queues[queue_of(CAMERA, 0)]
    for detector in (0, 1):
        stage.ended(7, detector)
    for detector, row in stage.living().items():
        stage.say(Left(night="n1", detector=detector, worker=row.key, reason="the night drains"))
    stage.rounds(1)
    assert stage.nights.status("n1").state is NightState.CLOSED
    assert {row.state for row in stage.nights.rows("n1")[2]} == {WorkerState.ENDED}


def test_a_worker_that_leaves_and_is_gone_while_its_pool_is_asked_is_not_lost(stage, monkeypatch):
    stage.begin(detectors=(0,))
    stage.arm()
    stage.nights.drain("n1", "test")
    ask = stage.pool.poll

    def leaves_meanwhile(keys):
        for row in stage.living().values():
            stage.say(Left(night="n1", detector=0, worker=row.key, reason="the night drains"))
            stage.pool.end(row.key, 0)
        return ask(keys)

    monkeypatch.setattr(stage.pool, "poll", leaves_meanwhile)
    stage.rounds(1)
    assert [row.state for row in stage.nights.rows("n1")[2]] == [WorkerState.ENDED]


def test_workers_that_do_not_leave_are_ended(stage):
    stage.begin()
    stage.arm()
    stage.nights.drain("n1", "test")
    stage.rounds(120, step=5)
    assert stage.nights.status("n1").state is NightState.CLOSED
    assert set(stage.pool.killed) >= {"n1-d000-1", "n1-d001-1"}


def test_another_supervisor_takes_over_when_the_first_says_nothing(stage):
    stage.begin()
    stage.arm()
    other = Nights(stage.settings, clock=FakeClock(stage.clock.now()))
    lock = take(other.ledger, other.clock, "n1", 10.0)
    assert lock is not None, "a process may take its own lock again: it is alone with it"
    stage.rounds(1)
    stage.announce(9)
    stage.rounds(1)
    (said,) = stage.transport.queues[queue_of(CAMERA, 0)]
    assert said["visit"] == 9
    other.ledger.close()


def test_a_supervisor_that_begins_anew_goes_on_with_the_workers_that_are_there(stage):
    stage.begin()
    stage.arm()
    anew = Watch(stage.nights, transport=stage.transport, pool=stage.pool)
    for _ in range(5):
        stage.clock.sleep(1)
        stage.beat()
        anew.round()
    assert {row.key for row in stage.living().values()} == {"n1-d000-1", "n1-d001-1"}
    assert len(stage.pool.submissions) == 2


def test_a_ledger_that_does_not_answer_ends_no_supervisor(stage, monkeypatch):
    stage.begin()
    stage.arm()
    ask, silent = stage.nights.ledger.all, [True, True]

    def away(query):
        if silent:
            silent.pop()
            raise TransientError("the ledger did not answer")
        return ask(query)

    monkeypatch.setattr(stage.nights.ledger, "all", away)
    slept, stop = [], Stop()

    def sleep(seconds):
        slept.append(seconds)
        stop.asked = len(slept) > 2

    monkeypatch.setattr(stage.clock, "sleep", sleep)
    monkeypatch.setattr("workflow.night.loop.Watch", lambda _nights: stage.watch)
    run_nights(stage.nights, stop=stop)
    assert not silent, "it asked again"
    assert slept[-1] == stage.settings.prompt.poll_s, "and holds its night as before"


def test_a_round_counts_no_parts(stage, monkeypatch):
    stage.begin()
    stage.arm()
    monkeypatch.setattr(stage.nights, "statuses", None)  # counts all parts of a night: 10^5, five times a second
    stage.rounds(1)
    assert set(stage.living()) == {0, 1}


def test_a_night_that_could_not_be_armed_or_named_is_refused(stage):
    for detectors in ((0, 0), (0, -1), ()):
        with pytest.raises(PermanentError, match="detector"):
            stage.begin(detectors=detectors)
    for name in ("", "a/b", "../n", ".n", "n" * 81):  # of files, and of jobs in the pool
        with pytest.raises(PermanentError, match="letters, digits"):
            stage.begin(name)
    assert stage.nights.open_names() == []


def test_what_a_night_left_is_handed_over_once_however_often_that_is_asked_for(stage):
    stage.begin(detectors=(0,))
    stage.arm()
    stage.progress(7, 0)
    stage.ended(7, 0, "failed", reason="no stars", mechanism="NothingDetected", stage="characterize")
    stage.nights.drain("n1", "test")
    for detector, row in stage.living().items():
        stage.say(Left(night="n1", detector=detector, worker=row.key, reason="the night drains"))
    stage.rounds(1)
    campaigns = Campaigns(stage.settings, context=Context(stage.settings, ledger=stage.nights.ledger, clock=stage.clock))
    assert [hand_over(stage.nights, campaigns, "n1", LATE, "test") for _ in range(2)] == ["n1_late"] * 2
    assert [entry.visit for entry in campaigns.backlog()] == [7]
    assert len(stage.events("handed")) == 1
    settle(stage.nights, "n1_late")  # it is done
    assert hand_over(stage.nights, campaigns, "n1", LATE, "test") == "n1_late"
    assert campaigns.backlog() == []

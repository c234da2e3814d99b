"""The real stack on a home of its own: the door's answers, a campaign's wait over `kill -9` of scheduler and triggerer."""

import os
import time

import psutil
import pytest

from backbone.errors import AccessRefused
from deploy.processes import marked
from deploy.rest import AirflowClient, NotThere, RequestRefused, RunConflict
from deploy.stack import Stack
from workflow.campaigns import Campaigns
from workflow.settings import Settings

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.kill, pytest.mark.timeout(400)]

# Named as DAGs that the OCS role may start, and one that it may not.
QUICK = """
import time
from airflow.sdk import dag, task, Param

@dag(dag_id="calibration_daily", schedule=None, params={"day_obs": Param(type="integer")})
def quick():
    @task
    def stamp():
        return time.time()
    stamp()

quick()
"""
WAITS = """
from airflow.sdk import DAG
from operators.campaign import CampaignStepOperator
from operators.gate import ApprovalGate
from operators.params import params_of

with DAG("nightly", schedule=None, params={"campaign": "c"}):
    CampaignStepOperator(task_id="frames", campaign="{{ params.campaign }}", step="frames", poll_s=0.5)

with DAG("release", schedule=None, params=params_of("release")):
    gate = ApprovalGate(task_id="approval", conf_of="release", subject="{{ params.release }}?", body="good")
"""
PRODUCTION = {
    "production": "p",
    "kind": "nightly",
    "steps": [{"name": "frames", "pipeline": "resource://payloads/pipelines/frames.yaml"}],
}
LIMIT_S = 120


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    dags = home / "dags"
    dags.mkdir()
    (dags / "quick.py").write_text(QUICK)
    (dags / "waits.py").write_text(WAITS)
    Settings(home=home).write()
    made = Stack(home, dags, with_engine=False)
    try:
        made.up(print)
        yield made
    finally:
        made.down(print)
        assert marked(f"{home}:") == [], "down left processes behind"


@pytest.fixture(scope="module")
def ocs(stack):
    with AirflowClient(stack.api_url, "ocs", stack.password("ocs")) as client:
        until(lambda: {"calibration_daily", "nightly"} <= set(client.dags()))
        yield client


def until(true):
    limit = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.2)  # nothing here can be waited on but another process's work


def test_command_of_the_observatory_runs_and_is_quick(stack, ocs):
    latencies = []
    for n in range(4):
        begun = time.time()
        ocs.trigger("calibration_daily", f"r{n}", {"day_obs": 20260101})
        assert ocs.wait("calibration_daily", f"r{n}", timeout_s=LIMIT_S, poll_s=0.1).state == "success"
        with AirflowClient(stack.api_url, "admin", stack.password("admin")) as admin:
            latencies.append(admin.xcom("calibration_daily", f"r{n}", "stamp") - begun)
    # Measured: 0.5-0.9 s on an idle machine; the bound is for one that is busy with other things.
    assert min(latencies) < 15


def test_same_command_again_is_the_same_run_and_another_conf_a_conflict(ocs):
    first = ocs.trigger("calibration_daily", "again", {"day_obs": 20260101})
    assert ocs.trigger("calibration_daily", "again", {"day_obs": 20260101}).id == first.id
    with pytest.raises(RunConflict):
        ocs.trigger("calibration_daily", "again", {"day_obs": 20260102})


def test_bad_conf_is_refused_at_the_door(ocs):
    with pytest.raises(RequestRefused, match="day_obs"):
        ocs.trigger("calibration_daily", "bad", {"day_obs": "today"})


def test_wrong_password_is_401(stack):
    with AirflowClient(stack.api_url, "ocs", "wrong") as stranger, pytest.raises(AccessRefused, match="401"):
        stranger.dags()


def test_observatory_may_not_start_a_release(ocs):
    with pytest.raises(AccessRefused, match="403"):
        ocs.trigger("release", "r", {})
    assert "release" not in ocs.dags()


def test_run_that_is_not_there_is_404(ocs):
    with pytest.raises(NotThere):
        ocs.run("nightly", "nothing")


def test_viewer_may_look_and_nothing_else(stack):
    with AirflowClient(stack.api_url, "viewer", stack.password("viewer")) as viewer:
        assert "release" in viewer.dags()
        with pytest.raises(AccessRefused, match="403"):
            viewer.trigger("calibration_daily", "v", {"day_obs": 20260101})


def test_release_waits_for_a_scientist_and_learns_who_it_was(stack, ocs):
    with AirflowClient(stack.api_url, "scientist", stack.password("scientist")) as scientist:
        scientist.trigger("release", "dr1", {"release": "dr1", "instrument": "SimCam"})
        until(lambda: scientist.approvals("release", "dr1"))
        (asked,) = scientist.approvals("release", "dr1")
        assert (asked["task"], asked["subject"], asked["body"]) == ("approval", "dr1?", "good")
        with AirflowClient(stack.api_url, "viewer", stack.password("viewer")) as viewer, pytest.raises(AccessRefused):
            viewer.answer("release", "dr1", "approval", "Approve")
        scientist.answer("release", "dr1", "approval", "Approve")
        assert scientist.wait("release", "dr1", timeout_s=LIMIT_S, poll_s=0.2).state == "success"
        assert scientist.xcom("release", "dr1", "approval") == "scientist"


def test_waiting_step_outlives_kill_9_of_scheduler_and_triggerer(stack, ocs):
    campaigns = Campaigns.open(stack.home)
    campaigns.start(PRODUCTION, name="c", actor="test", release="none")
    campaigns.pause("c", "test", reason="nothing is to run")
    ocs.trigger("nightly", "night", {"campaign": "c"})
    until(lambda: [t.state for t in ocs.tasks("nightly", "night")] == ["deferred"])

    killed = [p for p in stack.programs({}) if p.name in {"airflow-scheduler", "airflow-triggerer"}]
    for program in killed:
        leader = program.leader()
        os.kill(leader.pid, 9)
        psutil.wait_procs([leader], timeout=10)
    assert {s.name for s in stack.status() if s.healthy is False} >= {p.name for p in killed}
    stack.up(print)
    assert all(s.healthy is not False for s in stack.status())

    campaigns.cancel("c", "test", reason="the test has seen enough")
    assert ocs.wait("nightly", "night", timeout_s=LIMIT_S, poll_s=0.2).state == "failed"
    (task,) = ocs.tasks("nightly", "night")
    assert task.try_number == 1, "the task was resumed, not run again"
    with AirflowClient(stack.api_url, "admin", stack.password("admin")) as admin:
        log = admin.log("nightly", "night", "frames", task.try_number)
    assert "campaign c step frames ended as C" in log

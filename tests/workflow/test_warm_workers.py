"""Warm workers under the engine: real processes that take one job after the other, and what kills and stops make of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.workflow.conftest import World
from workflow.clock import SystemClock
from workflow.job import heartbeat_key
from workflow.ledger import tables as t
from workflow.pools.opened import open_pools
from workflow.pools.pool import PoolState
from workflow.settings import LocalPool, Settings, Site
from workflow.states import CampaignState, JobState

PATIENCE_S = 120


class Staying(World):
    """One site of this machine, whose jobs stay; the null payload, since a start without the Butler takes a fifth."""

    slots = 1

    def __init__(self, home, *, engine=None):
        super().__init__(home, engine={"shortest_job_s": 60, **(engine or {})})
        self.context.clock = self.clock = SystemClock()

    def installation(self, home, **more):
        return Settings(home=home, sites=(Site(name="local", pool=LocalPool(slots=self.slots, stay_s=PATIENCE_S)),), **more)

    def pools(self):
        return open_pools(self.settings, lambda site: self.context.endpoint(site))

    def begin(self, name, quanta=2, sleep_s=0.0):
        step = {"name": "null", "pipeline": f"null:{quanta}:{sleep_s}", "inputs": []}
        self.campaigns.start({"production": "null", "kind": "cpp", "steps": [step]}, name=name, actor="tester")

    def until(self, condition, *names):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, [self.campaigns.status(name) for name in names]
            for name in names:
                self.campaigns.advance(name)
            time.sleep(0.05)  # real processes must come to it

    def finish(self, name="c1"):
        self.until(lambda: self.campaigns.status(name).ended and name not in self.campaigns.live(), name)
        return self.campaigns.status(name)

    def jobs(self, name):
        return self.rows(sa.select(t.job).where(t.job.c.campaign == name).order_by(t.job.c.created))

    def beats(self, job):
        endpoint = self.context.endpoint("local")
        return heartbeat_key(job) in set(endpoint.list(f"_a/{job}/"))

    def pids(self):
        """Of the workers' own processes, by their pool's record: the shell that keeps each is its parent."""
        found = []
        for record in self.settings.run_dir.glob("jobs/local/*/record"):
            shell = int(record.read_text().split()[0])
            path = Path(f"/proc/{shell}/task/{shell}/children")
            found += [int(pid) for pid in path.read_text().split()] if path.exists() else []
        return found

    def close(self):
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def staying(make_world):
    world = make_world(kind=Staying)
    yield world
    world.close()


def test_the_jobs_of_later_campaigns_go_to_the_worker_that_is_there_and_each_quantum_is_accepted_once(staying):
    for name in ("c1", "c2", "c3"):
        staying.begin(name)
        assert staying.finish(name).state is CampaignState.SUCCEEDED
    first, second, third = (row.pool_job for name in ("c1", "c2", "c3") for row in staying.jobs(name))
    assert (second, third) == (f"{first}#1", f"{first}#2")
    assert len(staying.pids()) == 1
    assert staying.rows(sa.select(sa.func.count()).select_from(t.accepted))[0][0] == 6
    began = [row.started for name in ("c1", "c2", "c3") for row in staying.jobs(name)]
    assert began == sorted(began)
    assert all(row.started >= row.created for row in staying.jobs("c3")), "a job does not begin before it is made"
    assert staying.context.pools["local"].capacity("cpp") == 1


@pytest.mark.kill
def test_a_worker_that_is_killed_at_work_costs_what_it_was_at_and_another_goes_on(staying):
    staying.begin("c1")
    staying.finish("c1")
    staying.begin("c2", quanta=1, sleep_s=2)
    staying.until(lambda: any(staying.beats(row.id) for row in staying.jobs("c2")), "c2")
    os.kill(staying.pids()[0], signal.SIGKILL)
    assert staying.finish("c2").state is CampaignState.SUCCEEDED
    lost, again = staying.jobs("c2")
    assert "#" in lost.pool_job
    assert "#" not in again.pool_job
    assert [r.failure_class for r in staying.rows(sa.select(t.outcome.c.failure_class).where(t.outcome.c.job == lost.id))] == [
        "infrastructure"
    ]


@pytest.mark.kill
def test_a_job_that_is_given_to_a_worker_that_has_just_died_is_taken_up_by_another_and_charged_to_nobodys_host(staying):
    staying.begin("c1")
    staying.finish("c1")
    pool = staying.context.pools["local"]
    (pid,) = staying.pids()
    os.kill(pid, signal.SIGSTOP)  # it lives, and does not look
    staying.begin("c2")
    staying.until(lambda: [row.state for row in staying.jobs("c2")] == [JobState.RUNNING], "c2")
    os.kill(pid, signal.SIGKILL)
    (row,) = staying.jobs("c2")
    staying.until(lambda: pool.poll([row.id])[row.id].state is PoolState.GONE)
    assert pool.poll([row.id])[row.id].failure == "preempted"
    assert staying.finish("c2").state is CampaignState.SUCCEEDED


@pytest.mark.kill
def test_a_worker_that_is_silent_for_longer_than_its_jobs_lease_is_ended_and_what_it_had_runs_elsewhere(make_world):
    world = make_world(kind=Staying, engine={"lease_s": 3, "heartbeat_s": 0.2})
    try:
        world.begin("c1")
        world.finish("c1")
        (pid,) = world.pids()
        os.kill(pid, signal.SIGSTOP)
        world.begin("c2")
        world.until(lambda: any(row.state == JobState.LOST for row in world.jobs("c2")), "c2")
        os.kill(pid, signal.SIGCONT)
        assert world.finish("c2").state is CampaignState.SUCCEEDED
        assert world.rows(sa.select(sa.func.count()).select_from(t.accepted))[0][0] == 4
    finally:
        world.close()


@pytest.mark.kill
@pytest.mark.parametrize("how", ["pause", "cancel"])
def test_to_hold_or_cancel_a_campaign_ends_the_worker_that_is_at_its_job(staying, how):
    staying.begin("c1")
    staying.finish("c1")
    before = staying.pids()
    staying.begin("c2", quanta=1, sleep_s=30)
    staying.until(lambda: any(staying.beats(row.id) for row in staying.jobs("c2")), "c2")
    assert staying.pids() == before
    if how == "pause":
        staying.campaigns.pause("c2", "tester", how="hold")
    else:
        staying.campaigns.cancel("c2", "tester")
    staying.until(lambda: not staying.pids(), "c2")
    staying.until(lambda: [row.state for row in staying.jobs("c2")] == [JobState.ENDED], "c2")
    states = {r.state for r in staying.rows(sa.select(t.quantum.c.state).where(t.quantum.c.campaign == "c2"))}
    assert states <= ({"READY", "HELD"} if how == "pause" else {"DELETED"})
    staying.begin("c3")
    assert staying.finish("c3").state is CampaignState.SUCCEEDED
    assert "#" not in staying.jobs("c3")[0].pool_job, "a worker of its own, since the other is gone"

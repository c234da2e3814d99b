"""A job's lease while its pool says nothing: its own signs of life renew it, and nothing else does."""

from __future__ import annotations

import sqlalchemy as sa

from workflow.job import heartbeat_key
from workflow.ledger import tables as t
from workflow.pools.fake import FakePool
from workflow.states import JobState


def test_a_job_that_beats_is_kept_and_one_that_falls_silent_is_given_up_within_its_lease(make_world):
    world = make_world(pool=FakePool(slots=1, name="local"), engine={"shortest_job_s": 1000, "lease_s": 100})
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    (row,) = world.rows(sa.select(t.job))
    world.pool.silent = True
    endpoint = world.context.endpoint("local")
    for beat in range(5):  # 400 s, each longer than half a lease
        endpoint.put(heartbeat_key(row.id), str(beat).encode())
        world.clock.sleep(80)
        world.campaigns.advance("c1")
        (row,) = world.rows(sa.select(t.job))
        assert row.state in (JobState.SUBMITTED, JobState.RUNNING)
        assert row.lease_expires == world.clock.now() + 100
    world.clock.sleep(101)
    world.campaigns.advance("c1")
    (row,) = world.rows(sa.select(t.job))
    assert row.state == JobState.LOST
    assert {r.state for r in world.rows(sa.select(t.quantum.c.state))} == {"READY"}  # its second half waits for the first


def test_a_job_that_its_pool_calls_running_but_that_says_nothing_is_given_up_too(make_world):
    world = make_world(pool=FakePool(slots=1, name="local"), engine={"shortest_job_s": 1000, "lease_s": 100})
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    (row,) = world.rows(sa.select(t.job))
    world.context.endpoint("local").put(heartbeat_key(row.id), b"1")
    for _ in range(2):
        world.clock.sleep(101)
        world.campaigns.advance("c1")
    (row,) = world.rows(sa.select(t.job))
    assert row.state == JobState.RUNNING, "its beat was new when it was last looked at"
    world.clock.sleep(101)
    world.campaigns.advance("c1")
    assert world.rows(sa.select(t.job.c.state).where(t.job.c.id == row.id))[0].state == JobState.LOST


def test_a_job_that_is_found_running_after_the_engine_slept_past_its_lease_has_time_for_its_first_beat(make_world):
    world = make_world(pool=FakePool(slots=1, name="local"), engine={"shortest_job_s": 1000, "lease_s": 100})
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    world.clock.sleep(1000)
    world.campaigns.advance("c1")
    (row,) = world.rows(sa.select(t.job))
    assert (row.state, row.lease_expires) == (JobState.RUNNING, world.clock.now() + 100)

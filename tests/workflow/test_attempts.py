"""Many attempts at one quantum: zombies, weaving, repeats. The attempts write different values, so that any mixing shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa
from lsst.daf.butler import Butler

from workflow.campaign import load
from workflow.job import JobMessage
from workflow.jobs import follow_jobs
from workflow.ledger import Ledger
from workflow.ledger import tables as t
from workflow.lock import locked
from workflow.pools.fake import FakePool
from workflow.publisher import RefCache, publish
from workflow.states import CampaignState, JobState


class Held(FakePool):
    """Takes jobs and lets the test say when they run; nothing kills them."""

    def __init__(self):
        super().__init__(slots=1, name="local", run=self._take)
        self.messages = []

    def _take(self, message):
        self.messages.append(JobMessage.model_validate_json(message.read_text()))

    def kill(self, key, *, hard=False):
        self.killed.append(key)


@pytest.fixture
def held(make_world):
    return make_world(pool=Held(), engine={"shortest_job_s": 1000, "lease_s": 100, "heartbeat_s": 1000})


def run(world, message: JobMessage, monkeypatch, *, add=1):
    """Do a job in a fork; returns its exit code."""
    path = world.home / "message.json"
    path.write_text(message.model_dump_json())
    with monkeypatch.context() as m:
        m.setenv("TINY_ADD", str(add))
        return world.do(path)


def zombie_and_heir(world):
    """One job is given up while its pool is silent, and another has its quanta."""
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    (zombie,) = world.pool.messages
    world.pool.silent = True
    world.campaigns.advance("c1")
    world.clock.sleep(101)
    world.campaigns.advance("c1")
    assert {r.state for r in world.rows(sa.select(t.job.c.state))} == {JobState.LOST}
    assert world.campaigns.status("c1").step("pair").failed == 0
    world.pool.silent = False
    world.pool._slots = 2
    world.campaigns.advance("c1")
    heir = world.pool.messages[1]
    assert set(heir.quanta) == set(zombie.quanta)
    return zombie, heir


def end(world, *messages):
    for message in messages:
        world.pool.end(message.attempt, 0)
    status = world.finish()
    assert status.state is CampaignState.SUCCEEDED
    return status


def values(world):
    butler = Butler.from_config(str(world.home / "repo"))
    refs = butler.query_datasets("tiny_out", collections="c1/pair/1")
    return {butler.get(r)["value"] - r.dataId["detector"] for r in refs}, len(refs)


def test_a_zombie_that_runs_to_the_end_changes_nothing(held, monkeypatch):
    zombie, heir = zombie_and_heir(held)
    assert run(held, heir, monkeypatch) == 0
    held.campaigns.advance("c1")
    assert run(held, zombie, monkeypatch, add=500) == 0
    held.campaigns.advance("c1")
    zombies_files = held.home / "repo" / "_a" / zombie.attempt
    assert any(p.is_file() for p in zombies_files.rglob("*"))  # it may still run: not swept
    end(held, heir, zombie)
    assert values(held) == ({1001}, 8)
    assert {r.job for r in held.rows(sa.select(t.accepted.c.job))} == {heir.attempt}
    assert not any(p.is_file() for p in zombies_files.rglob("*"))


def test_a_zombie_that_is_first_after_all_is_accepted_and_its_heir_is_not(held, monkeypatch):
    zombie, heir = zombie_and_heir(held)
    assert run(held, zombie, monkeypatch) == 0
    held.campaigns.advance("c1")
    assert run(held, heir, monkeypatch, add=500) == 0
    end(held, heir, zombie)
    assert values(held) == ({1001}, 8)
    assert {r.job for r in held.rows(sa.select(t.accepted.c.job))} == {zombie.attempt}


def test_interleaved_attempts_are_not_woven_together(held, monkeypatch):
    """The zombie's first half is accepted; the heir's second half read the heir's own first half, and is refused."""
    zombie, heir = zombie_and_heir(held)
    firsts = {r.id for r in held.rows(sa.select(t.quantum.c.id).where(t.quantum.c.label == "first"))}
    half = zombie.model_copy(update={"quanta": tuple(q for q in zombie.quanta if q in firsts)})
    assert run(held, half, monkeypatch) == 0
    assert run(held, heir, monkeypatch, add=500) == 0
    held.campaigns.advance("c1")
    assert {r.job for r in held.rows(sa.select(t.accepted.c.job))} == {zombie.attempt}
    held.pool.end(zombie.attempt, 0)
    held.pool.end(heir.attempt, 0)
    held.campaigns.advance("c1")
    ready = {r.id: r.state for r in held.rows(sa.select(t.quantum)) if r.id not in firsts}
    assert set(ready.values()) == {"PENDING"}
    third = held.pool.messages[2]
    assert not set(third.quanta) & firsts
    assert run(held, third, monkeypatch) == 0
    end(held, third)
    assert values(held) == ({1001}, 8)


def test_collecting_twice_accepts_once(held, monkeypatch):
    held.start({"subset": "pair"})
    held.campaigns.advance("c1")
    (message,) = held.pool.messages
    assert run(held, message, monkeypatch) == 0
    held.campaigns.advance("c1")
    with held.ledger.begin() as c:
        c.execute(t.job.update().values(segments=0))
    held.campaigns.advance("c1")
    for table in (t.accepted, t.outbox, t.outcome):
        assert held.rows(sa.select(sa.func.count()).select_from(table))[0][0] == 16
    stats = {r.label: r.samples for r in held.rows(sa.select(t.label_stats))}
    assert stats == {"first": 8, "second": 8}


@pytest.mark.kill
@pytest.mark.parametrize("where", ["registry written", "uncommitted", "committed"])
def test_a_publisher_killed_anywhere_is_completed_by_the_next(make_world, monkeypatch, where):
    """A real death in the second batch: no clean-up, no rollback call."""
    world = make_world(pool=Held(), engine={"shortest_job_s": 1000, "publish_batch": 5})
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    assert run(world, world.pool.messages[0], monkeypatch) == 0
    with locked(world.ledger, world.clock, "c1", 60) as lock:
        follow_jobs(load(world.context, lock))
    seen = []

    def hook(at):
        seen.append(at)
        if seen.count(where) == 2:
            os._exit(9)

    pid = os.fork()
    if pid == 0:
        try:
            from workflow.context import Context

            context = Context(
                world.settings, ledger=Ledger.open(world.settings.ledger_url), clock=world.clock, pools={"local": world.pool}
            )
            with locked(context.ledger, context.clock, "c1", 60) as lock:
                publish(load(context, lock), RefCache(), hook=hook)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    left = sa.select(sa.func.count()).select_from(t.outbox).where(t.outbox.c.published.is_(None))
    assert world.rows(left)[0][0] == 11
    end(world, world.pool.messages[0])
    assert values(world) == ({1001}, 8)
    assert world.rows(left)[0][0] == 0


def test_a_job_that_was_never_taken_by_its_pool_is_submitted_again_under_its_key(held):
    held.start({"subset": "pair"})
    take, held.pool.silent = held.pool.submit, False

    def refuse(key, message: Path, resources):
        from workflow.errors import PoolUnavailable

        raise PoolUnavailable("no answer")

    held.pool.submit = refuse
    held.campaigns.advance("c1")
    assert {r.state for r in held.rows(sa.select(t.job.c.state))} == {JobState.PREPARED}
    held.pool.submit = take
    held.campaigns.advance("c1")
    held.campaigns.advance("c1")
    (row,) = held.rows(sa.select(t.job))
    assert (row.state, held.pool.submissions) == (JobState.RUNNING, [row.id])

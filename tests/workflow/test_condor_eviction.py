"""A running job that its real pool evicts: what was accepted of it stays, the rest runs elsewhere, and nobody waits for it."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import sqlalchemy as sa

from tests.workflow.conftest import World
from workflow.clock import SystemClock
from workflow.job import segment_key
from workflow.ledger import tables as t
from workflow.pools.opened import open_pools
from workflow.settings import Settings, Site
from workflow.states import CampaignState, JobState

PATIENCE_S = 60
QUANTA = 8


class OnePool(World):
    """The site `ncsa`, a real pool; the null payload, since a start without the Butler takes a fifth."""

    def __init__(self, home, *, condor):
        self.condor = condor
        super().__init__(home, engine={"shortest_job_s": 60})
        self.context.clock = self.clock = SystemClock()

    def installation(self, home, **more):
        own = {"tokens": str(self.condor.tokens), "collector": self.condor.address("ncsa")}
        return Settings(home=home, sites=(Site(name="ncsa", pool=self.condor.settings.model_copy(update=own)),), **more)

    def pools(self):
        return open_pools(self.settings, lambda site: self.context.endpoint(site))

    def until(self, condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, self.campaigns.report("c1")
            self.campaigns.advance("c1")
            time.sleep(0.05)  # real jobs must come to it

    def jobs_have_ended(self):
        return {row.state for row in self.rows(sa.select(t.job))} == {JobState.ENDED}

    def accepted(self):
        return {row.quantum: row.job for row in self.rows(sa.select(t.accepted))}

    def evict(self, how, *, for_good):
        pool = self.context.pools["ncsa"]
        ours = f'PachonPool == "{pool._sent.id}" && JobStatus == 2'
        if for_good:  # its slot has gone to somebody else
            pool._daemons.edit(ours, "Requirements", "false")
        pool._daemons.act(how, ours, "its slot is needed")


@pytest.mark.parametrize(("how", "for_good"), [("Vacate", False), ("VacateFast", True)])
def test_an_evicted_job_keeps_what_was_accepted_and_another_does_the_rest_once(how, for_good, make_world, condor, monkeypatch):
    monkeypatch.setattr("workflow.advance.sweep", lambda work: None)  # else segments go as soon as they are taken in
    world = make_world(kind=OnePool, condor=condor)
    step = {"name": "null", "pipeline": f"null:{QUANTA}:0.4", "inputs": []}
    world.campaigns.start({"production": "null", "kind": "cpp", "steps": [step]}, name="c1", actor="tester")
    world.until(lambda: len(world.accepted()) >= 2)
    (row,) = world.rows(sa.select(t.job))
    keys = [segment_key(row.id, number) for number in range(row.segments)]
    before = world.accepted(), [world.context.archive.get(key) for key in keys]
    world.evict(how, for_good=for_good)
    world.until(lambda: world.campaigns.status("c1").ended and world.jobs_have_ended())

    assert world.campaigns.status("c1").state is CampaignState.SUCCEEDED
    assert [world.context.archive.get(key) for key in keys] == before[1]
    first, *others = world.rows(sa.select(t.job).order_by(t.job.c.created))
    after = world.accepted()
    assert before[0].items() <= after.items()
    assert len(after) == QUANTA
    assert set(after.values()) == {first.id, *(other.id for other in others)}
    failures = Counter(r.failure_class for r in world.rows(sa.select(t.outcome).where(t.outcome.c.state == "failed")))
    assert failures == ({"preempted": 1} if how == "Vacate" else {}), "a job that did something is not charged for the rest"

"""A campaign on two real HTCondor pools: the real runner in real jobs, half of the groups at each."""

from __future__ import annotations

import os
import time

import pytest
import sqlalchemy as sa

from tests.workflow.conftest import TINY
from tests.workflow.test_sites import Sites
from workflow.clock import SystemClock
from workflow.ledger import tables as t
from workflow.pools.opened import open_pools
from workflow.settings import Settings, Site
from workflow.states import CampaignState

GROUPS = {"subset": "pair", "group_by": ["detector"]}
PATIENCE_S = 120


class TwoPools(Sites):
    """Sites `ncsa` and `ccin2p3` are the pools of the fixture `condor`; the home names them by their collectors."""

    def __init__(self, home, *, condor, **more):
        self.condor = condor
        super().__init__(home, **more)
        self.context.clock = SystemClock()

    def installation(self, home, **more):
        plain = super().installation(home, **more)
        path = os.pathsep.join([str(TINY), os.environ["PYTHONPATH"]])
        pool = self.condor.settings.model_copy(update={"environment": {"PYTHONPATH": path}, "tokens": str(self.condor.tokens)})
        sites = tuple(
            Site(name=s.name, pool=pool.model_copy(update={"collector": self.condor.address(s.name)}), endpoint=s.endpoint)
            for s in plain.sites
        )
        return Settings(home=home, **{**plain.model_dump(exclude={"home"}, exclude_unset=True), "sites": sites})

    def pools(self):
        return open_pools(self.settings, lambda site: self.context.endpoint(site))

    def finish(self, name="c1"):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            status = self.campaigns.advance(name)
            self.move()
            if status.ended and name not in self.campaigns.live():
                return status
            time.sleep(0.5)  # real jobs must come to it
        raise AssertionError(f"not ended: {status}\n{self.campaigns.report(name)}")


@pytest.mark.slow
def test_half_of_the_groups_run_at_each_of_two_real_pools_and_all_is_published(make_world, condor):
    world = make_world(kind=TwoPools, exposures=1, detectors=2, condor=condor, engine={"shortest_job_s": 60})
    world.start(GROUPS, share={"ncsa": 0.5, "ccin2p3": 0.5})
    assert world.finish().state is CampaignState.SUCCEEDED
    jobs = world.rows(sa.select(t.job.c.site, t.job.c.exit_code, t.job.c.pool_job))
    assert sorted(site for site, *_ in jobs) == ["ccin2p3", "ncsa"]
    assert {code for _, code, _ in jobs} == {0}
    assert len(world.results()) == 2
    assert not list(world.home.glob("run/jobs/*/dispatches/*"))

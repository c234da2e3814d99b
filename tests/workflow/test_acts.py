"""What operators do to a running campaign: retries that cannot grow, moves to another site, priorities; all are in the audit."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from workflow import advance
from workflow.broker import Word
from workflow.campaigns import Campaigns
from workflow.cli import campaign
from workflow.cli_acts import configuration
from workflow.context import Context
from workflow.errors import ConflictError, ProductionError, SettingsError, UnknownCampaign
from workflow.ledger import tables as t
from workflow.ledger.counts import tallied
from workflow.pools.fake import FakePool
from workflow.pools.pool import PoolJob, PoolState
from workflow.rescue import RetryRefused
from workflow.settings import LocalPool, Site
from workflow.states import JobState


def audit(world):
    rows = world.rows(sa.select(t.action.c.actor, t.action.c.what, t.action.c.why).order_by(t.action.c.seq))
    return [tuple(r) for r in rows if r.actor not in ("engine", "tester")]


def coverage(world):
    return {r.label: r.n for r in world.rows(tallied(t.tally.c.label).where(t.tally.c.campaign == "c1"))}


def test_a_retry_shows_what_it_would_run_and_never_runs_more(make_world, tmp_path):
    mended = tmp_path / "mended"
    values = {(1, d): {"do": "raise", "unless": str(mended)} for d in (0, 1)}
    world = make_world(exposures=1, detectors=3, values=values)
    world.start({"subset": "pair", "on_failure": "continue", "finish": [{"backlog": True}]})
    world.finish()
    before = coverage(world)
    assert len(world.campaigns.backlog("c1")) == 4

    def cli(*words):
        return CliRunner().invoke(campaign, ["retry", "c1", "--actor", "op", "--home", str(world.home), *words])

    shown = cli().output
    assert "2 failed and 2 pruned quanta would go again, in steps: pair" in shown
    assert "--yes --at-most 4" in shown
    assert world.campaigns.status("c1").ended  # shown, not done
    report = world.campaigns.retry("c1", "op", dry_run=True)
    assert report.labels == {"pair/first": {"FAILED": 2}, "pair/second": {"PRUNED": 2}}
    assert report.core_hours > 0
    with pytest.raises(RetryRefused, match="4 quanta would run, more than the 3 agreed to"):
        world.campaigns.retry("c1", "op", at_most=3)
    mended.touch()
    assert "2 failed and 2 pruned quanta go again" in cli("--yes", "--at-most", "4", "--reason", "mended").output
    status = world.finish()
    assert (status.step("pair").expected, status.step("pair").published, status.step("pair").failed) == (6, 6, 0)
    assert world.campaigns.backlog("c1") == []
    assert coverage(world) == before
    assert audit(world) == [("op", "retry of 4 quanta of pair", "mended")]


@pytest.fixture
def two_sites(make_world):
    """A world of two sites with one endpoint, in whose pools nothing starts by itself."""
    world = make_world(exposures=1, engine={"shortest_job_s": 0.1})
    sites = tuple(Site(name=name, pool=LocalPool(slots=2)) for name in ("ncsa", "ccin2p3"))
    world.settings = world.context.settings = world.settings.model_copy(update={"sites": sites})
    world.pools = {site.name: FakePool(slots=2, name=site.name) for site in sites}
    world.context._pools = world.pools
    return world


def test_pending_work_moves_to_the_other_site_and_what_runs_stays(two_sites):
    world = two_sites
    world.start({"subset": "pair", "chunk": {"target_s": 1, "max_quanta": 2}})
    world.campaigns.advance("c1")
    away = list(world.pools["ncsa"].submissions)
    assert len(away) == 2
    for name in away[1:]:  # the pool has it, and has not started it
        world.pools["ncsa"]._jobs[name] = PoolJob(key=name, state=PoolState.PENDING)
    shown = world.campaigns.move("c1", "ccin2p3", "op", dry_run=True)
    assert (shown.jobs, audit(world)) == (1, [])
    with pytest.raises(Exception, match="did you mean 'ccin2p3'"):
        world.campaigns.move("c1", "ccin2p4", "op")
    done = world.campaigns.move("c1", "ccin2p3", "op", reason="cooling at ncsa")
    assert (done.jobs, done.quanta) == (1, shown.quanta)
    states = {r.id: r.state for r in world.rows(sa.select(t.job.c.id, t.job.c.state))}
    assert states[away[1]] == JobState.KILLED
    world.campaigns.advance("c1")
    assert world.pools["ncsa"].killed == [away[1]]
    world.pools["ncsa"].lose(away[1])
    for name in world.pools["ccin2p3"].submissions:
        world.pools["ccin2p3"].end(name, 0)
    for _ in range(3):
        world.campaigns.advance("c1")
    assert world.pools["ncsa"].submissions == away  # nothing new goes there, though it has a free slot
    sites = {r.site for r in world.rows(sa.select(t.job.c.site).where(t.job.c.state.in_((JobState.SUBMITTED, JobState.RUNNING))))}
    assert sites == {"ncsa", "ccin2p3"}
    failed = sa.select(sa.func.count()).select_from(t.outcome).where(t.outcome.c.job == away[1])
    assert world.rows(failed)[0][0] == 0  # given back without charge
    assert audit(world) == [("op", "sites: only ccin2p3", "cooling at ncsa")]


def test_priority_decides_which_campaign_goes_first_and_reaches_the_pools(two_sites):
    world = two_sites
    world.start({"subset": "pair"}, name="a")
    world.start({"subset": "pair"}, name="b")
    assert world.campaigns.live() == ["a", "b"]
    assert world.campaigns.prioritise("b", 7, "op", "needed tonight") == 0
    assert world.campaigns.live() == ["b", "a"]
    world.campaigns.advance("b")
    asked = [r for pool in world.pools.values() for r in pool.resources.values()]
    assert asked
    assert {r.priority for r in asked} == {7}
    assert audit(world) == [("op", "priority 0 → 7", "needed tonight")]
    with pytest.raises(UnknownCampaign):
        world.campaigns.prioritise("c", 1, "op")


def test_a_move_of_what_there_is_not_is_refused(two_sites):
    two_sites.start({"subset": "pair"})
    with pytest.raises((ConflictError, UnknownCampaign), match="did you mean 'pair'"):
        two_sites.campaigns.move("c1", "ncsa", "op", step="pear")


def test_configurations_on_the_command_line_keep_their_types():
    found = configuration(("first:add=5", "first:sub.name=abc", "second:on=true"))
    assert found == {"first": {"add": 5, "sub.name": "abc"}, "second": {"on": True}}
    for bad in ("first", "first:add", "first=5", ":add=5"):
        with pytest.raises(ProductionError, match="LABEL:FIELD=VALUE"):
            configuration((bad,))


@pytest.mark.parametrize("moment", ["finish", "succeed"])
def test_a_retry_while_its_step_or_campaign_is_being_ended_is_not_lost(make_world, tmp_path, monkeypatch, moment):
    mended = tmp_path / "mended"
    world = make_world(exposures=1, detectors=2, values={(1, 0): {"do": "raise", "unless": str(mended)}})
    world.start({"subset": "pair", "on_failure": "continue"})
    asked = []

    def retry():
        if not asked:
            mended.touch()
            asked.append(world.campaigns.retry("c1", "op").quanta)

    def finish(work, row):
        if moment == "finish":
            retry()

    end = advance._move

    def move(work, event, *more):
        if event == moment:
            retry()
        return end(work, event, *more)

    monkeypatch.setattr(advance, "finish", finish)
    monkeypatch.setattr(advance, "_move", move)
    status = world.finish()
    assert asked == [2]
    assert (status.state, status.step("pair").accepted, status.step("pair").failed) == ("SUCCEEDED", 4, 0)


def test_a_job_that_is_given_up_while_it_is_sent_or_looked_at_stays_given_up(two_sites):
    world = two_sites
    world.start({"subset": "pair"})
    pool, given_up = world.pools["ncsa"], []
    send, look = pool.submit_many, pool.poll

    def states():
        return {r.state for r in world.rows(sa.select(t.job.c.state).where(t.job.c.site == "ncsa"))}

    def sent(requests):
        taken = send(requests)
        given_up.append(world.campaigns.move("c1", "ccin2p3", "op").jobs)  # the ledger does not say yet that they were sent
        return taken

    pool.submit_many = sent
    world.campaigns.advance("c1")
    assert given_up[0] > 0
    assert states() == {JobState.KILLED}

    def say(state):
        with world.ledger.begin() as connection:
            connection.execute(t.job.update().where(t.job.c.site == "ncsa").values(state=state.value))

    def looked_at(keys):
        seen = look(keys)
        say(JobState.KILLED)
        return seen

    say(JobState.SUBMITTED)
    pool.poll = looked_at  # it runs by now
    world.campaigns.advance("c1")
    assert states() == {JobState.KILLED}


def test_work_of_a_site_that_is_taken_out_of_the_settings_goes_on_elsewhere(two_sites, caplog):
    world = two_sites
    world.start({"subset": "pair", "chunk": {"target_s": 1, "max_quanta": 2}})
    world.campaigns.advance("c1")
    left = {r.id for r in world.rows(sa.select(t.job.c.id).where(t.job.c.site == "ncsa"))}
    assert left
    with world.ledger.begin() as connection:  # one of them was not sent yet
        connection.execute(t.job.update().where(t.job.c.id == min(left)).values(state=JobState.PREPARED.value))
    here = world.settings.model_copy(update={"sites": tuple(s for s in world.settings.sites if s.name == "ccin2p3")})
    pool = FakePool(slots=4, name="ccin2p3", run=world.do)
    pool._jobs = world.pools["ccin2p3"]._jobs
    campaigns = Campaigns(here, context=Context(here, ledger=world.ledger, clock=world.clock, pools={"ccin2p3": pool}))
    for key in world.pools["ccin2p3"].submissions:
        pool.end(key, 0)
    for _ in range(12):
        campaigns.advance("c1")
        world.clock.sleep(30)
    assert campaigns.status("c1").state == "SUCCEEDED"
    states = {r.id: r.state for r in world.rows(sa.select(t.job.c.id, t.job.c.state).where(t.job.c.id.in_(left)))}
    assert set(states.values()) <= {JobState.LOST, JobState.KILLED}
    assert "broke off" not in caplog.text


def test_jobs_that_cannot_be_sent_keep_nothing_else_waiting(two_sites, caplog):
    world = two_sites
    world.start({"subset": "pair", "chunk": {"target_s": 1, "max_quanta": 2}})

    def refuse(requests):
        raise SettingsError("'a b' is no host name")

    world.pools["ncsa"].submit_many = refuse
    for _ in range(2):
        world.campaigns.advance("c1")
    assert world.pools["ccin2p3"].submissions
    assert "not submitted to ncsa yet: 'a b' is no host name" in caplog.text
    with pytest.raises(ConflictError, match="'a b' is no host name"):
        world.campaigns.say_sites("c1", Word(never_machines=("a b",)), actor="op")

"""Several sites with endpoints of their own: where groups go, what is moved for them, and what is published when."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from backbone import transfers
from backbone.files import NewFile
from backbone.settings import BackboneSettings
from tests.workflow.conftest import World, forked_runner
from workflow import window, words
from workflow.broker import Word
from workflow.errors import ConflictError, UnknownCampaign
from workflow.ledger import tables as t
from workflow.pools.fake import FakePool
from workflow.settings import BrokerSettings, LocalPool, Settings, Site
from workflow.states import CampaignState, QuantumState

SHARE = {"ncsa": 0.5, "ccin2p3": 0.5}
BY_DETECTOR = {"subset": "pair", "group_by": ["detector"]}


class Sites(World):
    """Raw data at base, which is the archive; jobs at two sites. Files move when a test says so: `move()`."""

    def installation(self, home, **more):
        sites = tuple(Site(name=name, pool=LocalPool(slots=2), endpoint=name) for name in SHARE)
        endpoints = {"base": {"uri": "repo"}, **{name: {"uri": f"at-{name}"} for name in SHARE}}
        backbone = BackboneSettings.model_validate({"endpoints": endpoints})
        return Settings(home=home, sites=sites, backbone=backbone, archive="base", **more)

    def pools(self):
        self.by_site = {name: FakePool(slots=1, name=name, run=forked_runner) for name in SHARE}
        return self.by_site

    @property
    def backbone(self):
        return self.context.backbone

    def move(self, limit=1000):
        """What a mover does, at once; returns how many files."""
        catalog, moved = self.backbone.catalog, 0
        for link in self.backbone.settings.all_links():
            ends = [catalog.endpoint_id(end) for end in (link.source, link.target)]
            taken = transfers.take(catalog, *ends, limit=limit, worker="test", lease_s=60, now=self.clock.now())
            for one in taken:
                content = self.backbone.endpoint(one.source).get(one.file.key)
                self.backbone.endpoint(one.target).put(one.file.key, content)
            moved += transfers.done(catalog, taken, now=self.clock.now())
        return moved

    def finish(self, name="c1", rounds=60):
        for _ in range(rounds):
            status = self.campaigns.advance(name)
            self.move()
            if status.ended and name not in self.campaigns.live():
                return status
            self.clock.sleep(1)
        raise AssertionError(f"not ended: {status}\n{self.campaigns.report(name)}")

    def placed(self):
        """Group → sites, in the order of the decisions."""
        found = {}
        for row in self.rows(sa.select(t.placement).order_by(t.placement.c.ordinal)):
            found.setdefault(row.group_, []).append(row.site)
        return found

    def results(self, run="c1/pair/1"):
        butler = self.context.butler
        butler.registry.refresh()
        refs = butler.query_datasets("tiny_out", run, find_first=False, explain=False)
        return {ref.dataId["detector"]: butler.get(ref)["value"] for ref in refs}


@pytest.fixture
def sites(make_world):
    return make_world(kind=Sites, exposures=1, detectors=4)


def test_half_of_the_groups_run_at_each_site_from_its_own_endpoint_and_are_read_at_the_archive(sites):
    sites.start(BY_DETECTOR, share=SHARE)
    assert sites.finish().state is CampaignState.SUCCEEDED
    assert sorted(site for (site,) in sites.placed().values()) == ["ccin2p3", "ccin2p3", "ncsa", "ncsa"]
    ran = {(r.group_, r.site) for r in sites.rows(sa.select(t.job))}
    assert ran == {(group, site) for group, (site,) in sites.placed().items()}
    assert sites.results() == {d: d + 1001 for d in range(4)}
    for name in SHARE:
        written = {key for key in sites.backbone.endpoint(name).list("_a/") if "tiny_out" in key}
        assert len(written) == 2, "each site holds what its own jobs wrote, and no other's"
        assert sites.backbone.present(written, "base") == written


def test_a_group_waits_for_its_inputs_and_says_so(sites):
    sites.start(BY_DETECTOR, share=SHARE)
    rounds = 0
    while len(sites.placed()) < 4:  # a round plans for some time, and leaves the rest to the next
        assert (rounds := rounds + 1) < 10
        sites.campaigns.advance("c1")
    status = sites.campaigns.advance("c1")
    assert not sites.rows(sa.select(t.job)), "no job before its inputs are at its site"
    assert "staging: 0 of " in status.step("pair").reason
    states = {r.state for r in sites.rows(sa.select(t.quantum.c.state).where(t.quantum.c.label == "first"))}
    assert states == {QuantumState.READY}
    sites.move()
    assert not any(sites.campaigns.advance("c1").step("pair").reason for _ in range(2))
    assert sites.rows(sa.select(t.job))


def test_a_group_whose_inputs_are_stuck_keeps_no_other_from_its_own(make_world):
    sites = make_world(kind=Sites, exposures=1, detectors=4)
    object.__setattr__(sites.settings, "broker", BrokerSettings(groups_ahead=1))
    sites.start(BY_DETECTOR, share=SHARE)
    sites.campaigns.advance("c1")
    (first,) = sites.placed()
    catalog = sites.backbone.catalog
    for link in sites.backbone.settings.all_links():
        ends = [catalog.endpoint_id(end) for end in (link.source, link.target)]
        for one in transfers.take(catalog, *ends, limit=1000, worker="test", lease_s=60, now=sites.clock.now()):
            transfers.failed(catalog, one, reason="no copy is whole", delay_s=0, now=sites.clock.now(), stuck=True)
    for _ in range(4):
        sites.campaigns.advance("c1")
        sites.move()
    ran = {r.group_ for r in sites.rows(sa.select(t.job.c.group_))}
    assert ran
    assert first not in ran
    assert "stuck" in sites.campaigns.status("c1").step("pair").reason


def test_groups_that_wait_are_not_all_looked_at_in_every_round(make_world, monkeypatch):
    sites = make_world(kind=Sites, exposures=1, detectors=4)
    object.__setattr__(sites.settings, "broker", BrokerSettings(groups_ahead=1))
    sites.start(BY_DETECTOR, share=SHARE)
    sites.campaigns.advance("c1")
    drawn, groups = [], window.open_groups
    monkeypatch.setattr(window, "open_groups", lambda *a: (drawn.append(g.name) or g for g in groups(*a)))
    sites.campaigns.advance("c1")
    assert len(drawn) == 1


def test_what_is_accepted_is_published_only_when_it_is_whole_at_the_archive(sites):
    sites.start(BY_DETECTOR, share=SHARE)
    for _ in range(3):
        sites.campaigns.advance("c1")
    sites.move()
    for _ in range(30):
        status = sites.campaigns.advance("c1")  # and nothing moves
    step = status.step("pair")
    assert (step.accepted, step.published) == (8, 0)
    assert "on their way to base: 0 of " in step.reason
    assert sites.results() == {}
    sites.move()
    step = sites.campaigns.advance("c1").step("pair")
    assert step.published == 8
    assert sites.results() == {d: d + 1001 for d in range(4)}


def test_killed_between_the_backbones_registration_and_the_ledgers_note_nothing_is_lost_or_doubled(sites, monkeypatch):
    sites.start(BY_DETECTOR, share=SHARE)
    for _ in range(3):
        sites.campaigns.advance("c1")
    sites.move()
    require = sites.backbone.require

    def die(*args, **kwargs):
        require(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(sites.backbone, "require", die)
    died = 0
    for _ in range(6):
        try:
            sites.campaigns.advance("c1")
        except KeyboardInterrupt:
            died += 1
    assert died
    monkeypatch.undo()
    assert sites.finish().state is CampaignState.SUCCEEDED
    assert sites.results() == {d: d + 1001 for d in range(4)}
    assert not sites.rows(sa.select(t.outbox).where(t.outbox.c.published.is_(None)))


def test_a_forbidden_site_loses_its_groups_and_what_they_made_there_follows_them(sites):
    sites.start({**BY_DETECTOR, "chunk": {"max_quanta": 1}}, share=SHARE)
    while not sites.rows(sa.select(t.job.c.id).where(t.job.c.site == "ncsa", t.job.c.ended.is_(None))):
        sites.campaigns.advance("c1")
        sites.move()
    before = {r.id for r in sites.rows(sa.select(t.job.c.id))}
    words.say(sites.context, "c1", Word(never=("ncsa",)), actor="tester", why="power is out")
    assert sites.finish().state is CampaignState.SUCCEEDED
    placed = sites.placed()
    after = {r.site for r in sites.rows(sa.select(t.job.c.id, t.job.c.site)) if r.id not in before}
    assert after == {"ccin2p3"}
    moved = [group for group, path in placed.items() if path == ["ncsa", "ccin2p3"]]
    assert moved
    ran = {r.site for r in sites.rows(sa.select(t.job.c.site).where(t.job.c.group_.in_(moved)))}
    assert ran == {"ncsa", "ccin2p3"}, "parents ran at one site, children read them at the other"
    assert sites.results() == {d: d + 1001 for d in range(4)}


def test_words_about_machines_reach_the_pool_as_what_a_job_asks_for(world):
    world.start({"subset": "pair"}, never_machines=["node1"])
    world.campaigns.say_sites("c1", Word(never_machines=("node2",), only_machines=("node3",)), actor="tester", step="pair")
    world.finish()
    asked = set(world.pool.resources.values())
    assert {(r.never_machines, r.only_machines) for r in asked} == {(("node1", "node2"), ("node3",))}


def test_why_answers_from_the_broker_the_backbone_the_pool_and_the_attempts(make_world):
    sites = make_world(kind=Sites, values={(1, 3): {"do": "raise"}})
    sites.start(BY_DETECTOR, share=SHARE)
    for _ in range(3):
        sites.campaigns.advance("c1")
    answers = {(f.subject, f.question): f.answer for f in sites.campaigns.why("c1").findings}
    assert "staging: 0 of " in answers["group pair/TinyCam-0", "not running"]
    assert "share 50%" in answers["group pair/TinyCam-0", "here"]
    assert answers["pool ncsa", "state"] == "it would take 1 more now"
    sites.campaigns.pause("c1", "op", reason="cooling")
    answers = {(f.subject, f.question): f.answer for f in sites.campaigns.why("c1").findings}
    assert answers["c1", "state"] == "PAUSED cooling; last: pause (drain) by op", "and the reason once"
    assert "pachon campaign resume c1" in answers["c1", "not running"]
    sites.campaigns.resume("c1", "op")
    sites.finish()
    assert "pachon campaign retry c1" in next(f.answer for f in sites.campaigns.why("c1").findings if f.question == "not running")
    (failed,) = [f for f in sites.campaigns.why("c1", "pair/TinyCam-3").findings if f.question == "failed"]
    assert failed.subject == "pair/first"
    assert "1 × science, its budget is used up" in failed.answer
    assert not [f for f in sites.campaigns.why("c1", "pair/TinyCam-0").findings if f.question == "failed"]
    with pytest.raises(UnknownCampaign, match="STEP/GROUP"):
        sites.campaigns.why("c1", "pair/none")


def test_a_word_is_checked_before_it_is_noted(sites):
    sites.start(BY_DETECTOR)
    with pytest.raises(ConflictError, match="did you mean 'ncsa'"):
        sites.campaigns.say_sites("c1", Word(only=("nsca",)), actor="tester")
    with pytest.raises(ConflictError, match="no site would be left"):
        sites.campaigns.say_sites("c1", Word(never=tuple(SHARE)), actor="tester")
    with pytest.raises(UnknownCampaign, match="no step 'pear'; did you mean 'pair'"):
        sites.campaigns.say_sites("c1", Word(), actor="tester", step="pear")


def test_without_a_share_a_group_goes_where_most_of_its_inputs_are(sites):
    base, other = sites.backbone.endpoint("base"), sites.backbone.endpoint("ccin2p3")
    files = []
    for key in list(base.list("in/")):
        info = other.put(key, base.get(key))
        files.append(
            NewFile(
                key=key, size=info.size, sha256=info.sha256, dataset_type="tiny_in", collection="in", created=sites.clock.now()
            )
        )
    for place in ("base", "ccin2p3"):
        sites.backbone.register(place, files, "tester")
    sites.start({"subset": "pair"})
    for _ in range(3):
        sites.campaigns.advance("c1")
    (row,) = sites.rows(sa.select(t.placement))
    assert row.site == "ccin2p3"
    (ncsa,) = [one for one in row.reasons["sites"] if one["name"] == "ncsa"]
    assert ncsa["present_bytes"] == 0
    assert "of the input bytes are there" in row.reasons["reason"]


def test_decisions_and_reasons_are_in_the_ledger(sites):
    sites.start(BY_DETECTOR, share=SHARE)
    sites.finish()
    for row in sites.rows(sa.select(t.placement)):
        assert row.reasons["reason"].startswith(f"{row.site}: share 50%")
        assert {one["name"] for one in row.reasons["sites"]} == set(SHARE)
        assert row.staged is not None
        assert row.released is not None, "the step is over, so its copies may go"
        assert sites.backbone.progress(row.rules)[row.rules[0]].done


def test_with_one_endpoint_nothing_is_placed_and_nothing_is_told_to_a_backbone(world):
    world.start(BY_DETECTOR, share=SHARE)
    assert world.finish().state is CampaignState.SUCCEEDED
    assert not world.rows(sa.select(t.placement))
    assert not world.rows(sa.select(t.stage_out))
    assert {r.stage_out for r in world.rows(sa.select(t.outbox))} == {None}

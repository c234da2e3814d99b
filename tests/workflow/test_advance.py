"""A campaign from its start to its end, by the real planner, runner and Butler."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import pytest
import sqlalchemy as sa
from astropy.time import Time
from lsst.daf.butler import Butler, Timespan

from workflow.certification import UNVERIFIED
from workflow.job import from_json, infos, keys_in, keys_of, merged
from workflow.ledger import tables as t
from workflow.states import CampaignState, StepState

PAIR = {"subset": "pair"}


def accepted_records(world):
    return merged(r.records for r in world.rows(sa.select(t.outcome.c.records).join(t.accepted, t.accepted_outcome())))


def check_registry(world, n, run="c1/pair/1"):
    """The registry knows exactly what was accepted; every file is there with its checksum; values are right."""
    butler = Butler.from_config(str(world.home / "repo"))
    accepted = accepted_records(world)
    kinds = ("tiny_mid", "tiny_out", "first_metadata", "first_log", "second_metadata", "second_log")
    refs = [r for kind in kinds for r in butler.query_datasets(kind, collections=run, explain=False)]
    assert {r.id for r in refs} == set(accepted.records)
    assert len(refs) == n * 3
    assert {r.id: f.path for r in refs for f in butler._datastore.getStoredItemsInfo(r)} == {
        i: f.path for i, f in infos(accepted)
    }
    for _, info in infos(accepted):
        if "#" not in info.path:
            content = (world.home / "repo" / info.path).read_bytes()
            assert (info.checksum, info.file_size) == (hashlib.sha256(content).hexdigest(), len(content))
    for ref in refs:
        value = butler.get(ref)
        if ref.datasetType.name.startswith("tiny_"):
            assert value["value"] == ref.dataId["detector"] + (1 if ref.datasetType.name == "tiny_mid" else 1001)


def test_a_campaign_publishes_exactly_what_was_accepted_and_sweeps_the_rest(world):
    world.start(PAIR)
    status = world.finish()
    assert status.state is CampaignState.SUCCEEDED
    assert (status.step("pair").expected, status.step("pair").published) == (16, 16)
    check_registry(world, 16)
    repo = world.home / "repo"
    assert Butler.from_config(str(repo), collections="c1/pair/1").get("packages")["numpy"] == version("numpy")
    jobs = {r.id for r in world.rows(sa.select(t.job.c.id))}
    assert {Path(info.path).parts[:2] for _, info in infos(accepted_records(world))} <= {("_a", j) for j in jobs}
    left = {str(p.relative_to(repo)) for p in (repo / "_a").rglob("*") if p.is_file()}
    assert left == {info.path.split("#")[0] for _, info in infos(accepted_records(world))}
    for row in world.rows(sa.select(t.outcome.c.records)):
        assert keys_in(row.records) == keys_of(from_json(row.records))


def test_steps_hand_over_through_certified_calibrations_and_chains(world, tiny):
    calibrate = {
        "subset": "calibrate",
        "finish": [{"certify": {"dataset_types": ["tiny_calib"], "into": "calib", "begin": "{day}"}}],
    }
    apply = {"subset": "apply", "inputs": ["in", "calib"], "group_by": ["exposure"], "finish": [{"chain": "final"}]}
    production = world.production(calibrate, apply, parameters={"day": {"type": "integer"}})
    world.campaigns.start(production, name="c1", parameters={"day": "20270101"}, actor="tester")
    status = world.finish()
    assert [s.state for s in status.steps] == [StepState.SUCCEEDED] * 2
    butler = Butler.from_config(str(world.home / "repo"), instrument="TinyCam")
    assert butler.collections.get_info("calib").children == ("calib/c1/calibrate",)
    assert world.campaigns.certifications.find("calib/c1/calibrate").approved_by == UNVERIFIED
    used = butler.query_datasets("tiny_used", collections="final")
    assert len(used) == 8
    assert {butler.get(r)["value"] for r in used if r.dataId["detector"] == 3} == {3 - 2 * 1004}
    uses = world.rows(sa.select(t.calibration_use))
    assert {(u.dataset_type, u.collection) for u in uses} == {("tiny_calib", "calib/c1/calibrate")}
    assert len(uses) == 8
    found = butler.find_dataset("tiny_calib", detector=1, collections="calib", timespan=Timespan(Time("2027-01-02"), None))
    assert str(found.id) in {u.dataset for u in uses}
    assert world.rows(sa.select(sa.func.count()).select_from(t.group).where(t.group.c.step == "apply"))[0][0] == 2


def test_a_second_start_of_the_same_is_harmless_and_of_another_is_refused(world):
    first = world.start(PAIR)
    assert world.start(PAIR) == first
    from workflow.errors import ConflictError

    with pytest.raises(ConflictError, match=r"c1 exists since .* choose another name"):
        world.start({"subset": "pair", "where": "instrument='TinyCam' AND detector=1"})
    world.finish()
    assert world.start(PAIR).state is CampaignState.SUCCEEDED
    starts = sa.select(sa.func.count()).select_from(t.action).where(t.action.c.what == "start")
    assert world.rows(starts)[0][0] == 1


def test_an_unreleased_step_waits_and_says_so(world):
    world.campaigns.start(world.production(PAIR), name="c1", actor="airflow", release="none")
    assert world.campaigns.advance("c1").step("pair").reason == "not released"
    world.campaigns.release("c1", "pair", "airflow")
    assert world.finish().state is CampaignState.SUCCEEDED


def test_a_step_without_quanta_fails_with_the_reason_unless_that_is_allowed(world):
    nowhere = {"subset": "pair", "where": "instrument='TinyCam' AND detector=99"}
    world.start(nowhere)
    status = world.finish()
    assert status.state is CampaignState.FAILED
    assert "plans no quantum" in status.step("pair").reason
    assert "detector=99" in status.step("pair").reason
    assert "query returned no rows" in status.step("pair").reason
    assert "print(" not in status.step("pair").reason
    world.start({**nowhere, "allow_empty": True}, name="c2")
    status = world.finish("c2")
    assert (status.state, status.step("pair").expected) == (CampaignState.SUCCEEDED, 0)
    assert "nothing to do" in status.step("pair").reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"where": "instrument='TinyCam' AND detecter=1"}, "detecter"),
        ({"inputs": ["nowhere"]}, "no collection 'nowhere'"),
        ({"subset": "pear"}, "pear"),
    ],
)
def test_a_step_that_cannot_be_planned_fails_with_words_for_its_author(world, change, words):
    world.start({"subset": "pair", **change, "name": "s"})
    status = world.finish()
    assert status.state is CampaignState.FAILED
    assert words in status.step("s").reason


def test_a_group_too_large_for_one_graph_is_refused(make_world):
    world = make_world(engine={"max_group_quanta": 8})
    world.start(PAIR)
    assert "give the step `group_by`" in world.finish().step("pair").reason

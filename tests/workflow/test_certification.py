"""The life of a calibration in the engine: certified if it passed, approved, distributed, withdrawn with whom it touched."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from lsst.daf.butler import Butler

from backbone.errors import PermanentError
from backbone.qc.certifications import CertificationError, CertificationState, ProductState
from deploy.cli_calib import calib
from workflow.certification import BY_RULE, NothingVerified
from workflow.states import CampaignState, StepState
from workflow.withdrawal import Which

COLLECTION = "calib/c1/judge"
JUDGE = {
    "subset": "judge",
    "finish": [
        {"metrics": {"dataset_types": ["tiny_calib_verification"], "instrument": "TinyCam", "day_obs": "20270101"}},
        {
            "certify": {
                "dataset_types": ["tiny_calib"],
                "into": "calib",
                "begin": "20270101",
                "verified_by": "*_verification",
            }
        },
    ],
}
APPLY = {"subset": "apply", "inputs": ["in", "calib"]}


def judging(*, refused=0, approve="rule"):
    metrics, certify = JUDGE["finish"]
    certify = {"certify": {**certify["certify"], "approve": approve}}
    return {**JUDGE, "finish": [metrics, certify], "config": {"verdict": {"refused": refused}}}


def chain(world):
    collections = Butler.from_config(str(world.home / "repo")).collections
    return collections.get_info("calib").children if collections.query("calib") else ()


def made(world, **verdict):
    """Calibrations of four detectors, made and judged."""
    world.start({"subset": "calibrate"}, judging(**verdict))
    return world.finish()


def test_what_passed_is_certified_approved_by_rule_and_signed(world):
    status = made(world)
    assert status.state is CampaignState.SUCCEEDED, status
    assert chain(world) == (COLLECTION,)
    books = world.campaigns.certifications
    (signed,) = books.every("calib")
    assert (signed.state, signed.approved_by, signed.begin) == (CertificationState.APPROVED, BY_RULE, "2027-01-01T00:00:00.000")
    assert 0 < signed.approved_at <= world.clock.now()
    assert len(signed.digest) == 64
    assert [p.state for p in books.products(COLLECTION)] == [ProductState.CERTIFIED] * 4
    assert {p.why for p in books.products(COLLECTION)} == {"of tiny data"}, "what its verification says of it is in the books"


def test_what_failed_its_verification_is_refused_with_the_reason_and_raises_an_alarm(world):
    status = made(world, refused=1)
    assert status.state is CampaignState.SUCCEEDED
    butler = Butler.from_config(str(world.home / "repo"), instrument="TinyCam")
    held = [a.ref.dataId["detector"] for a in butler.registry.queryDatasetAssociations("tiny_calib", collections=[COLLECTION])]
    assert sorted(held) == [1, 2, 3]
    (refused,) = [p for p in world.campaigns.certifications.products(COLLECTION) if p.state is ProductState.REFUSED]
    assert (refused.data_id["detector"], refused.why) == (0, "it is tiny")
    (alarm,) = world.context.quality.alarms()
    assert (alarm.metric, alarm.subject, alarm.source) == ("tiny_verified", {"detector": "0"}, "c1")


def test_where_nothing_passed_the_step_fails_and_nothing_is_certified(world):
    status = made(world, refused=9)
    assert status.state is CampaignState.FAILED
    assert status.step("judge").state is StepState.FAILED
    assert NothingVerified.__name__ in status.step("judge").reason
    assert "detector=0: it is tiny" in status.step("judge").reason
    assert list(Butler.from_config(str(world.home / "repo")).collections.query("calib/*")) == []
    assert chain(world) == ()


def test_what_was_never_verified_is_not_certified(world):
    calibrate = {"subset": "calibrate", "finish": [JUDGE["finish"][1]]}
    world.start(calibrate)
    status = world.finish()
    assert status.state is CampaignState.FAILED
    assert "it was not verified" in status.step("calibrate").reason


class Backbone:
    """Takes down what it is asked for."""

    def __init__(self):
        self.rules, self.released = {}, []

    def require(self, name, keys, at, *, by, priority, actor):
        self.rules[name] = (tuple(keys), at)

    def release(self, name, actor):
        self.released.append(name)


def test_a_withdrawn_product_names_who_used_it_and_the_older_one_is_read_again(world):
    made(world)
    world.start(APPLY, name="c2")
    assert world.finish("c2").state is CampaignState.SUCCEEDED
    shown = CliRunner().invoke(
        calib, ["withdraw", COLLECTION, "--where", "detector=2", "--reason", "x", "--home", str(world.home)]
    )
    assert "would be withdrawn (--yes)" in shown.output
    which = Which(values={"detector": "2"})
    shown = world.campaigns.withdraw_calibrations(COLLECTION, which, actor="ana", why="hot", dry_run=True)
    assert not shown.done
    users = [(u.campaign, u.label, json.loads(u.data_id)["detector"]) for u in shown.users]
    assert users == [("c1", "verdict", 2), ("c2", "use", 2), ("c2", "use", 2)]
    for _ in range(2):
        done = world.campaigns.withdraw_calibrations(COLLECTION, which, actor="ana", why="hot")
        assert done.users == shown.users
    books = world.campaigns.certifications
    (gone,) = [p for p in books.products(COLLECTION) if p.state is ProductState.WITHDRAWN]
    assert (gone.data_id["detector"], gone.withdrawn_by, gone.why) == (2, "ana", "hot")
    assert books.find(COLLECTION).state is CertificationState.APPROVED
    said = []
    sa.event.listen(world.ledger._engine, "before_cursor_execute", lambda *a: said.append(a[2]))
    assert world.campaigns.withdrawn_inputs("c2") == [gone], "what it made should be made again"
    asked = len(said)
    others = [replace(gone, dataset=str(uuid.uuid4()), data_id={"detector": n}, state=ProductState.CERTIFIED) for n in range(9)]
    books.write(replace(books.find(COLLECTION), collection="calib/old"), others)
    books.withdraw("calib/old", [p.dataset for p in others], actor="ana", why="old")
    assert world.campaigns.withdrawn_inputs("c2") == [gone]
    assert len(said) == 2 * asked, "however many were withdrawn"
    world.start({**APPLY, "where": "instrument='TinyCam' AND detector IN (1, 2)"}, name="c3")
    assert "detector: 2" in world.finish("c3").step("apply").reason
    world.start({**APPLY, "where": "instrument='TinyCam' AND detector=1"}, name="c4")
    assert world.finish("c4").state is CampaignState.SUCCEEDED
    assert world.campaigns.withdrawn_inputs("c4") == []


def test_a_person_approves_what_they_looked_at_and_nobody_reads_it_before(world):
    assert made(world, refused=1, approve="person").state is CampaignState.SUCCEEDED
    assert chain(world) == ()
    run, home = CliRunner(), ["--home", str(world.home)]
    assert "CERTIFIED" in run.invoke(calib, ["list", *home]).output
    shown = json.loads(run.invoke(calib, ["show", COLLECTION, "--json", *home]).output)
    assert [p["why"] for p in shown["products"] if p["state"] == "REFUSED"] == ["it is tiny"]
    with pytest.raises(CertificationError, match="look at it again"):
        world.campaigns.approve_calibrations(COLLECTION, actor="ana", digest="0123")
    assert chain(world) == ()
    for _ in range(2):
        signed = run.invoke(calib, ["approve", COLLECTION, "--actor", "ana", "--digest", shown["digest"][:8], *home])
        assert "is APPROVED, signed by ana on 20" in signed.output
    assert chain(world) == (COLLECTION,)
    with pytest.raises(PermanentError, match="nothing was certified as 'calib/c1/other'"):
        world.campaigns.approve_calibrations("calib/c1/other", actor="ana")


def test_what_is_approved_goes_to_every_site_and_is_let_go_when_all_of_it_is_withdrawn(world, monkeypatch):
    made(world, approve="person")
    backbone = Backbone()
    monkeypatch.setattr(world.context, "backbone", backbone, raising=False)
    monkeypatch.setattr(type(world.settings), "archive_name", property(lambda self: "archive"))
    world.campaigns.approve_calibrations(COLLECTION, actor="ana")
    ((name, (keys, at)),) = backbone.rules.items()
    assert (name, at) == (f"calibrations/{COLLECTION}@local", "local")
    assert len(keys) >= 1
    assert all((world.home / "repo" / key).exists() for key in keys)
    world.campaigns.withdraw_calibrations(COLLECTION, Which(), actor="ana", why="light leak")
    assert backbone.released == [name]
    assert chain(world) == ()
    with pytest.raises(CertificationError, match=r"was withdrawn \(light leak\)"):
        world.campaigns.approve_calibrations(COLLECTION, actor="ana")
    with pytest.raises(PermanentError, match="certifies no such product; it has nothing"):
        world.campaigns.withdraw_calibrations(COLLECTION, Which(dataset_types=("flat",)), actor="ana", why="x")

"""The report of a campaign: what it says about costs, failures and versions, on both databases."""

from __future__ import annotations

import json

import pytest

from workflow.accounting import mixed
from workflow.selection import Selection


@pytest.fixture(params=["sqlite", "postgresql"])
def troubled(request, make_world, tmp_path):
    url = None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
    values = {(1, 0): {"do": "raise", "mark": str(tmp_path / "once")}, (1, 1): {"do": "slow", "s": 0.4}}
    return make_world(exposures=1, detectors=3, values=values, ledger_url=url)


def test_the_report_adds_up(troubled):
    world = troubled
    passive = {"failure": "science", "label": "first", "error": "no such error", "retries": 5, "passive": True}
    would = {"failure": "science", "label": "fir*", "error": "sky is falling", "retries": 0, "passive": True}
    world.start({"subset": "pair", "retries": {"science": 1}}, rules=[passive, would])
    assert world.finish().state == "SUCCEEDED"
    report = world.campaigns.report("c1")
    json.dumps(report.as_json())
    assert [(r.label, r.expected, r.states["SUCCEEDED"]) for r in report.labels] == [("first", 3, 3), ("second", 3, 3)]
    (error,) = report.errors
    assert (error["failure_class"], error["payload"], error["count"]) == ("science", True, 1)
    books = report.accounting
    (site,) = books["sites"]
    assert (site["accepted"], site["attempts"], site["hosts"]) == (6, 7, 1)
    assert 0 < books["badput_core_hours"] < books["core_hours"]
    assert books["core_hours"] * 3600 == pytest.approx(sum(r["wall_s"] for r in books["labels"]) + error["wall_s"], rel=1e-6)
    assert json.loads(books["slowest"][0]["data_id"])["detector"] == 1
    assert sum(sum(bins) for bins in books["wall_histogram"].values()) == 6
    assert sum(b["succeeded"] + b["failed"] for b in books["timeline"]["bins"]) == 7
    assert books["projection"] is None
    assert [(p["rule"], p["would"], p["instead_of"], p["count"]) for p in books["passive"]] == [(1, "fail", "retry", 1)]
    assert mixed(books["versions"]) == []
    assert {v["quanta"] for v in books["versions"]} == {3}
    select = Selection(label="second", where="detector = 2")
    world.campaigns.hotfix("c1", select, config={"second": {"add": 3}}, actor="me", reason="wrong")
    world.finish()
    found = world.campaigns.report("c1").accounting
    assert mixed(found["versions"]) == ["pair/second"]
    assert sorted(v["quanta"] for v in found["versions"] if v["label"] == "second") == [1, 2]
    assert [(h["actor"], h["why"]) for h in found["hotfixes"]] == [("me", "wrong")]


def test_the_finish_of_a_running_campaign_is_projected_from_its_speed_so_far(make_world):
    world = make_world(engine={"shortest_job_s": 0.1})
    world.start({"subset": "pair", "chunk": {"target_s": 1, "max_quanta": 4}})
    while world.campaigns.status("c1").step("pair").accepted < 4:
        world.campaigns.advance("c1")
        world.clock.sleep(1)
    books = world.campaigns.report("c1").accounting["projection"]
    assert books["left_core_hours"] > 0
    assert books["finish"] == pytest.approx(world.clock.now() + 3600 * books["left_core_hours"] / books["cores_busy"])

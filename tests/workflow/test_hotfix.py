"""A hot fix in the middle of a campaign: only what it concerns runs again, in a RUN of its own, and nothing else is touched."""

from __future__ import annotations

import json
import os
import re

import pytest
import sqlalchemy as sa
from lsst.daf.butler import Butler

from workflow import replan
from workflow.hotfix import HotfixError
from workflow.ledger import tables as t
from workflow.ledger.audit import binding, hotfix, task_config
from workflow.selection import Selection, SelectionError
from workflow.states import CampaignState, QuantumState, StepState

CALIBRATE = {
    "subset": "calibrate",
    "finish": [{"certify": {"dataset_types": ["tiny_calib"], "into": "calib", "begin": "20270101"}}, {"chain": "products"}],
}
APPLY = {"subset": "apply", "inputs": ["in", "calib"], "finish": [{"chain": "products"}]}
FIX = {"actor": "me", "reason": "add was wrong"}


def published(world, kind, collection="products"):
    """(exposure number, detector) → (value, generation of its RUN), of what a reader of the collection finds."""
    butler = Butler.from_config(str(world.home / "repo"))
    found = {}
    for ref in butler.query_datasets(kind, collections=collection, find_first=False, explain=False):
        key = (ref.dataId["exposure"] % 1000 if "exposure" in ref.dataId else 0, ref.dataId["detector"])
        assert key not in found, f"{kind} {key} is there twice"
        data = butler.get(ref)
        found[key] = (data.get("value", data.get("total")), int(ref.run.split("/")[2]))
    return found


def current(world, **more):
    where = [t.quantum.c.current, *(t.quantum.c[name] == value for name, value in more.items())]
    return {
        (r.label, r.data_id): (r.generation, r.state)
        for r in world.rows(
            sa.select(t.quantum.c.label, t.quantum.c.data_id, t.quantum.c.generation, t.quantum.c.state).where(*where)
        )
    }


def check_ledger(world):
    """What the database enforces anyway, and the coverage."""
    doubles = sa.select(t.accepted.c.quantum).group_by(t.accepted.c.quantum).having(sa.func.count() > 1)
    assert not world.rows(doubles)
    for row in world.rows(sa.select(t.step)):
        where = (t.quantum.c.step == row.name, t.quantum.c.current)
        assert world.rows(sa.select(sa.func.count()).select_from(t.quantum).where(*where))[0][0] == row.coverage


def test_a_hot_fix_of_a_finished_campaign_reaches_all_that_descends_and_nothing_else(world):
    world.start(CALIBRATE, APPLY)
    world.finish()
    before = published(world, "tiny_used")
    select = Selection(label="second", where="detector IN (1, 2..2) AND exposure > 0")
    shown = world.campaigns.hotfix("c1", select, config={"second": {"add": 5}}, dry_run=True, **FIX)
    assert shown.selected == {"calibrate/second": {"SUCCEEDED": 4}}
    assert shown.descendants == {"apply/use": {"SUCCEEDED": 4}, "calibrate/gather": {"SUCCEEDED": 2}}
    assert (shown.withdrawn, shown.quanta, shown.users_elsewhere) == (10, 10, {})
    assert shown.core_hours > 0
    assert not world.rows(sa.select(hotfix))  # shown, not done
    done = world.campaigns.hotfix("c1", select, config={"second": {"add": 5}}, **FIX)
    assert done.quanta == shown.quanta
    assert world.campaigns.status("c1").state is CampaignState.RUNNING
    status = world.finish()
    assert status.state is CampaignState.SUCCEEDED, status
    assert {(s.name, s.state, s.expected, s.published) for s in status.steps} == {
        ("calibrate", StepState.SUCCEEDED, 20, 20),
        ("apply", StepState.SUCCEEDED, 8, 8),
    }
    # The new value where it was asked for, in the new RUN; the old one elsewhere, in the old.
    second = published(world, "tiny_out")
    assert {k: v for k, v in second.items() if k[1] in (1, 2)} == {(e, d): (d + 1 + 5, 2) for e in (1, 2) for d in (1, 2)}
    assert {k: v for k, v in second.items() if k[1] in (0, 3)} == {(e, d): (d + 1 + 1000, 1) for e in (1, 2) for d in (0, 3)}
    assert {generation for _, generation in published(world, "tiny_mid").values()} == {1}
    used = published(world, "tiny_used")
    assert {k for k in used if used[k] != before[k]} == {(e, d) for e in (1, 2) for d in (1, 2)}
    assert used[1, 1] == (1 - 2 * (1 + 1 + 5), 2)
    check_ledger(world)
    # Old attempts stay in the ledger, and their files where they are.
    old = world.rows(
        sa.select(t.accepted.c.quantum).join(t.quantum, t.quantum.c.id == t.accepted.c.quantum).where(~t.quantum.c.current)
    )
    assert len(old) == 10
    (row,) = world.rows(sa.select(hotfix))
    assert (row.actor, row.why, row.config) == ("me", "add was wrong", {"second": {"add": 5}})
    assert [(r.step, r.generation) for r in world.rows(sa.select(binding).order_by(binding.c.step))] == [
        ("apply", 2),
        ("calibrate", 2),
    ]
    digests = {
        (r.generation, r.label): r.digest for r in world.rows(sa.select(task_config).where(task_config.c.step == "calibrate"))
    }
    assert digests[1, "second"] != digests[2, "second"]
    assert digests[1, "first"] == digests[2, "first"]
    assert any(r.actor == "me" and r.what.startswith("hot fix 1: 10 quanta") for r in world.rows(sa.select(t.action)))


def test_a_hot_fix_in_the_middle_binds_what_has_not_run_and_leaves_what_runs_alone(make_world, tmp_path):
    jobs = []

    def keep(message):
        jobs.append(tmp_path / f"job{len(jobs)}.json")
        jobs[-1].write_text(message.read_text())

    world = make_world(exposures=1, engine={"shortest_job_s": 0.1})
    world.pool._run = keep
    world.pool._slots = 2
    world.start({"subset": "pair", "chunk": {"target_s": 1, "max_quanta": 2}, "finish": [{"chain": "products"}]})
    world.campaigns.advance("c1")
    before = current(world)
    in_jobs = {k for k, (_, state) in before.items() if state in (QuantumState.PENDING, QuantumState.RUNNING)}
    assert 0 < len(in_jobs) < 8
    some = next(iter(sorted(k for k in in_jobs if k[0] == "first")))
    data_id = json.loads(some[1])
    select = Selection(label="first", where=f"detector = {data_id['detector']} AND exposure = {data_id['exposure']}")
    effect = world.campaigns.hotfix("c1", select, config={"first": {"add": 7}}, **FIX)
    assert effect.quanta == 2
    assert effect.bound["pair"] == len([k for k in set(before) - in_jobs if k[1] != some[1]]) > 0
    world.campaigns.advance("c1")
    assert "still in jobs" in world.campaigns.status("c1").step("pair").reason
    world.pool._run = world.do
    for key, message in zip(list(world.pool.submissions), jobs, strict=True):
        world.pool.end(key, world.do(message))
    status = world.finish()
    assert status.state is CampaignState.SUCCEEDED
    assert (status.step("pair").expected, status.step("pair").published) == (8, 8)
    ran = {k for k in in_jobs if k[1] != some[1]}
    for (label, data), (generation, _) in current(world).items():
        assert generation == (1 if (label, data) in ran else 2), (label, data)
    mid = published(world, "tiny_mid")
    old = {json.loads(d)["detector"] + 1000 * (json.loads(d)["exposure"] % 1000) for label, d in ran if label == "first"}
    assert {v[0] - k[1] for k, v in mid.items() if k[1] + 1000 * k[0] in old} == {1}
    assert {v[0] - k[1] for k, v in mid.items() if k[1] + 1000 * k[0] not in old} == {7}
    check_ledger(world)


def test_a_hot_fix_killed_at_any_point_is_resumed_without_using_a_run_twice(make_world, monkeypatch):
    """Kill -9 between any two of its writes: the engine that comes after makes the same end."""
    world = make_world()
    world.start(CALIBRATE, APPLY)
    world.finish()
    select = Selection(label="first", where="detector = 3", states=("SUCCEEDED",))
    world.campaigns.hotfix("c1", select, config={"first": {"add": 9}}, **FIX)
    points = ["waits", "begin", "_withdraw", "wanted", "narrowed", "settle"]
    for name in points:
        killed_at(world, name)
    status = world.finish()
    assert status.state is CampaignState.SUCCEEDED
    assert [s.expected for s in status.steps] == [20, 8]
    assert {k: v[1] for k, v in published(world, "tiny_used").items()} == {
        (e, d): 2 if d == 3 else 1 for e in (1, 2) for d in range(4)
    }
    runs = [r.run for r in world.rows(sa.select(t.group.c.run).order_by(t.group.c.run))]
    assert runs == ["c1/apply/1", "c1/apply/2", "c1/calibrate/1", "c1/calibrate/2"]
    check_ledger(world)


def killed_at(world, name):
    """An engine that is killed as soon as it has done this part of planning again."""
    pid = os.fork()
    if pid == 0:
        try:
            done = getattr(replan, name)

            def die(*args, **kwargs):
                done(*args, **kwargs)
                os.kill(os.getpid(), 9)

            setattr(replan, name, die)
            for _ in range(10):
                world.campaigns.advance("c1")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9, f"never came to {name}"


def test_what_cannot_be_planned_again_is_counted_and_not_lost(make_world, tmp_path):
    values = {(1, 0): {"do": "raise", "unless": str(tmp_path / "mended")}}
    world = make_world(exposures=1, detectors=2, values=values)
    world.start({"subset": "pair", "on_failure": "continue"})
    world.finish()
    assert current(world)["second", '{"detector": 0, "exposure": 2027010100001, "instrument": "TinyCam"}'][1] == "PRUNED"
    Butler.from_config(str(world.home / "repo"), writeable=True).pruneDatasets(
        list(
            Butler.from_config(str(world.home / "repo")).query_datasets(
                "tiny_in", collections="in", where="instrument='TinyCam' AND detector=1"
            )
        ),
        disassociate=True,
        unstore=True,
        purge=True,
    )
    world.campaigns.hotfix("c1", Selection(where="detector = 1"), config={"first": {"add": 2}}, **FIX)
    status = world.finish()
    assert (status.step("pair").expected, status.step("pair").failed) == (4, 4)
    shown = world.campaigns.retry("c1", "me", dry_run=True)
    assert (shown.failed, shown.pruned, shown.unplanned) == (1, 1, 2)
    check_ledger(world)


MISTAKES = [
    ({"label": "secnd"}, {}, SelectionError, "did you mean 'second'?"),
    ({"where": "detector = 77"}, {}, SelectionError, "means no quantum; one of its quanta is"),
    ({"where": "detector ~ 7"}, {}, SelectionError, "write DIMENSION = VALUE"),
    ({"where": "detector IN 7"}, {}, SelectionError, "write IN"),
    ({"where": "detector = (7)"}, {}, SelectionError, "neither a number nor a quoted text"),
    ({"version": "numpy"}, {}, SelectionError, "PACKAGE=VERSION"),
    ({}, {"config": {"frist": {"add": 1}}}, HotfixError, "no task 'frist'; did you mean 'first'?"),
    ({}, {"config": {}}, HotfixError, "say what is new"),
    ({}, {"reason": " "}, HotfixError, "needs a reason"),
    ({}, {"software": "w_1"}, Exception, "site local has no software 'w_1'"),
]


def test_a_mistaken_hot_fix_changes_nothing_and_is_answered_with_a_sentence(world):
    world.pool._run = lambda message: None
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    before = current(world)
    for selection, more, error, message in MISTAKES:
        with pytest.raises(error, match=re.escape(message)):
            world.campaigns.hotfix("c1", Selection(**selection), **{"config": {"first": {"add": 1}}, **FIX, **more})
    assert current(world) == before
    assert not world.rows(sa.select(hotfix))

"""Every class of failure, with its budget and remedy, in one campaign each of small quanta that misbehave."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from lsst.daf.butler import Butler

from workflow.ledger import tables as t
from workflow.states import CampaignState, QuantumState, StepState

CONTINUE = {"subset": "pair", "on_failure": "continue", "memory_mb": 2048, "time_limit_s": 10, "finish": [{"backlog": True}]}


def states(world, label):
    rows = world.rows(sa.select(t.quantum.c.data_id, t.quantum.c.state).where(t.quantum.c.label == label, t.quantum.c.current))
    return {(json.loads(r.data_id)["exposure"] % 1000, json.loads(r.data_id)["detector"]): r.state for r in rows}


def failures(world):
    rows = world.rows(
        sa.select(t.quantum.c.data_id, t.outcome.c.failure_class)
        .join(t.quantum, t.quantum.c.id == t.outcome.c.quantum)
        .where(t.outcome.c.state == "failed")
    )
    found = {}
    for r in rows:
        data_id = json.loads(r.data_id)
        found.setdefault((data_id["exposure"] % 1000, data_id["detector"]), []).append(r.failure_class)
    return found


@pytest.fixture
def troubled(make_world, tmp_path):
    """Eight quanta, of which one is well."""

    def once(deed, **more):
        return {"do": deed, "mark": str(tmp_path / f"{deed}-mark"), **more}

    values = {
        (1, 1): once("segfault"),
        (1, 2): {"do": "raise", "unless": str(tmp_path / "mended")},
        # Data is limited to twice the memory: too much for 2048 MB, and well within that of 4096 MB whatever pytest's own
        # process, of which these jobs are forks, has by then.
        (1, 3): {"do": "memory", "mb": 4000},
        (2, 0): once("hang"),
        (2, 1): {"do": "exit", "unless": str(tmp_path / "mended")},
        (2, 2): once("kill"),
        (2, 3): {"do": "nothing"},
    }
    return make_world(exposures=2, values=values, engine={"shortest_job_s": 1000})


@pytest.mark.kill
def test_each_failure_is_told_apart_and_costs_its_own_quantum_alone(troubled, tmp_path):
    world = troubled
    world.start(CONTINUE)
    status = world.finish()
    assert status.state is CampaignState.SUCCEEDED  # as its rules allow
    assert failures(world) == {
        (1, 1): ["signal"],
        (1, 2): ["science"],
        (1, 3): ["out_of_memory"],
        (2, 0): ["timeout"],
        (2, 1): ["science"],
        (2, 2): ["signal"],
    }
    lost = {(1, 2), (2, 1)}
    assert {q for q, state in states(world, "first").items() if state == QuantumState.FAILED} == lost
    assert {q for q, state in states(world, "second").items() if state == QuantumState.PRUNED} == lost
    step = status.step("pair")
    assert (step.expected, step.published, step.failed) == (16, 12, 4)
    assert "2 quanta failed" in step.reason
    # The memory that was needed is remembered; a segmentation fault asked for none.
    jobs = {r.memory_mb for r in world.rows(sa.select(t.job.c.memory_mb))}
    assert jobs == {2048, 4096}
    assert {r.label: r.memory_mb for r in world.rows(sa.select(t.label_stats))} == {"first": 4096, "second": None}
    # No work is a success without the output.
    butler = Butler.from_config(str(world.home / "repo"))
    made = {
        (r.dataId["exposure"] % 1000, r.dataId["detector"]) for r in butler.query_datasets("tiny_mid", collections="c1/pair/1")
    }
    assert made == {(1, 0), (1, 1), (1, 3), (2, 0), (2, 2)}
    backlog = world.campaigns.backlog("c1")
    assert {(b.label, b.visit % 1000, b.detector) for b in backlog} == {(n, *q) for n in ("first", "second") for q in lost}
    assert any("the sky is falling" in b.reason for b in backlog)
    report = world.campaigns.report("c1")
    assert {(row.label, row.states["SUCCEEDED"], row.states["FAILED"], row.states["PRUNED"]) for row in report.labels} == {
        ("first", 6, 2, 0),
        ("second", 6, 0, 2),
    }
    assert {(e["failure_class"], e["count"]) for e in report.errors} == {
        ("science", 2),
        ("signal", 2),
        ("out_of_memory", 1),
        ("timeout", 1),
    }
    check_retry(world, tmp_path)


def check_retry(world, tmp_path):
    before = {r.quantum for r in world.rows(sa.select(t.accepted.c.quantum))}
    shown = world.campaigns.retry("c1", "tester", dry_run=True)
    assert (shown.failed, shown.pruned, shown.steps) == (2, 2, ("pair",))
    assert world.campaigns.status("c1").state is CampaignState.SUCCEEDED
    (tmp_path / "mended").touch()
    done = world.campaigns.retry("c1", "tester")
    assert (done.failed, done.pruned) == (2, 2)
    status = world.finish()
    assert (status.step("pair").published, status.step("pair").failed) == (16, 0)
    after = {r.quantum for r in world.rows(sa.select(t.accepted.c.quantum))}
    assert before < after
    attempts = sa.select(sa.func.count()).select_from(t.attempt).where(t.attempt.c.quantum.in_(before))
    # In the first life four failed once, and took those that wait for them along; in the second none of these ran.
    assert world.rows(attempts)[0][0] == 12 + 8


def test_a_step_that_stops_at_failures_dispatches_no_more_and_can_be_retried(make_world, tmp_path):
    # Whichever the planner puts first fails: it promises no order.
    values = {(1, detector): {"do": "raise", "unless": str(tmp_path / "mended")} for detector in range(3)}
    world = make_world(exposures=1, detectors=3, values=values, engine={"shortest_job_s": 0.1})
    world.pool._slots = 1
    chunk = {"target_s": 1, "max_quanta": 2}
    world.start({"subset": "pair", "chunk": chunk}, {"subset": "apply", "inputs": ["in", "calib"]})
    status = world.finish()
    assert status.state is CampaignState.FAILED
    assert (status.step("pair").state, status.step("apply").state) == (StepState.FAILED, StepState.UNREADY)
    assert status.step("pair").expected > status.step("pair").accepted + status.step("pair").failed
    failed = states(world, "first").values()
    assert f"{len([s for s in failed if s == QuantumState.FAILED])} quanta failed" in status.reason
    (tmp_path / "mended").touch()
    assert world.campaigns.retry("c1", "tester").failed >= 1
    for _ in range(20):
        status = world.campaigns.advance("c1")
    assert (status.step("pair").state, status.step("pair").published) == (StepState.SUCCEEDED, 6)


def test_a_job_that_can_never_begin_comes_to_an_end(make_world):
    world = make_world(exposures=1, detectors=1, values={(1, 0): {}})
    world.pool._run = lambda message: 3
    world.start({"subset": "pair"})
    status = world.finish()
    assert status.state is CampaignState.FAILED
    assert len(world.pool.submissions) == 4  # the first try, and the budget of three
    (row,) = world.campaigns.report("c1").errors[:1]
    assert (row["failure_class"], "before its first quantum" in row["example"]) == ("infrastructure", True)


def test_pause_resume_and_cancel_do_what_they_say_and_are_in_the_audit(world):
    messages = []
    world.pool._run = lambda message: messages.append(message.read_text())
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    assert world.campaigns.pause("c1", "op", "hold", "look at it").state is CampaignState.PAUSED
    assert world.campaigns.pause("c1", "op", "hold", "look at it").state is CampaignState.PAUSED
    for _ in range(3):
        status = world.campaigns.advance("c1")
    assert len(world.pool.killed) == len(messages)
    assert set(states(world, "first").values()) <= {QuantumState.HELD, QuantumState.READY}
    assert (status.step("pair").state, status.step("pair").running) == (StepState.PAUSED, 0)
    assert world.campaigns.resume("c1", "op").state is CampaignState.RUNNING
    before = len(messages)
    world.campaigns.advance("c1")
    assert len(messages) > before
    world.campaigns.pause("c1", "op")
    world.campaigns.advance("c1")
    assert set(world.pool.killed) == set(world.pool.submissions[:before])  # drain kills nothing
    assert world.campaigns.cancel("c1", "op", "enough").state is CampaignState.CANCELLED
    status = world.finish()
    assert set(states(world, "first").values()) == {QuantumState.DELETED}
    assert status.step("pair").state is StepState.CANCELLED
    actions = [(r.actor, r.what, r.why) for r in world.rows(sa.select(t.action).order_by(t.action.c.seq)) if r.actor == "op"]
    assert [a[1] for a in actions] == ["pause (hold)", "pause (hold)", "resume", "pause (drain)", "cancel"]
    assert actions[-1][2] == "enough"

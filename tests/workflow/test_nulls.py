"""The null payload: the engine alone, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from workflow.errors import PlanError
from workflow.ledger import tables as t
from workflow.nulls import groups
from workflow.planner import StepPlan
from workflow.states import CampaignState


def production(count, **more):
    step = {"name": "null", "pipeline": f"null:{count}", "inputs": [], "chunk": {"max_quanta": 300}, **more}
    return {"production": "null", "kind": "drp", "steps": [step]}


@pytest.fixture
def null_world(make_world, ledger_url):
    return make_world(ledger_url=ledger_url, engine={"max_group_quanta": 400})


def count(world, table, *where):
    return world.rows(sa.select(sa.func.count()).select_from(table).where(*where))[0][0]


def test_every_null_quantum_is_accepted_exactly_once(null_world):
    null_world.campaigns.start(production(1000), name="c1", actor="tester")
    status = null_world.finish(rounds=200)
    assert status.state is CampaignState.SUCCEEDED
    assert (status.steps[0].expected, status.steps[0].accepted, status.steps[0].published) == (1000, 1000, 1000)
    assert count(null_world, t.group) == 3
    for table in (t.quantum, t.accepted, t.outbox, t.outcome, t.attempt):
        assert count(null_world, table) == 1000
    assert count(null_world, t.job, t.job.c.swept.is_(None)) == 0
    assert not list((null_world.home / "repo" / "_a").glob("*/segments/*"))


def test_the_counts_are_those_of_the_quanta_after_every_round(null_world):
    null_world.campaigns.start(production(1000), name="c1", actor="tester")
    for _ in range(12):
        null_world.campaigns.advance("c1")
        null_world.clock.sleep(1)
        counted = {
            r.state: r.n for r in null_world.rows(sa.select(t.quantum.c.state, sa.func.count().label("n")).group_by("state"))
        }
        n = sa.cast(sa.func.sum(t.tally.c.n), sa.Integer).label("n")
        summed = {r.state: r.n for r in null_world.rows(sa.select(t.tally.c.state, n).group_by(t.tally.c.state)) if r.n}
        assert summed == counted
    assert summed == {"SUCCEEDED": 1000}


@pytest.mark.parametrize("pipeline", ["null:many", "null:-1", "null:1:x", "null:1:inf"])
def test_a_null_step_that_says_nothing_sensible_is_refused(pipeline):
    plan = StepPlan(campaign="c", step="s", generation=1, pipeline=pipeline, inputs=(), where="", group_by=(), max_quanta=10)
    with pytest.raises(PlanError, match="null"):
        groups(plan)

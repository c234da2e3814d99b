"""What dispatch looks at: a bounded part, in which chains are whole."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import networkx as nx
import pytest
import sqlalchemy as sa

from workflow import window
from workflow.campaign import load
from workflow.ledger import Ledger
from workflow.ledger import tables as t
from workflow.lock import locked
from workflow.planner import in_order


def test_children_follow_right_after_their_last_parent():
    graph = nx.DiGraph([("a1", "b1"), ("a2", "b2"), ("a3", "b3"), ("b1", "c"), ("b2", "c"), ("b3", "d")])
    order = list(in_order(graph))
    assert sorted(order) == sorted(graph)
    assert all(order.index(parent) < order.index(child) for parent, child in graph.edges)
    assert order == ["a1", "b1", "a2", "b2", "c", "a3", "b3", "d"]


@pytest.fixture
def planned(make_world):
    """Eight chains of two, planned and with no job."""
    world = make_world(pool=_no_slots())
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    return world


def _no_slots():
    from workflow.pools.fake import FakePool

    return FakePool(slots=0, name="local")


def looked_at(world, limit):
    with locked(world.ledger, world.clock, "c1", 60) as lock:
        work = load(world.context, lock)
        (group,) = window.open_groups(work, work.step_rows()[0])
        return window.window(work, group, {}, limit)


def labels(world, waiting):
    by_id = {r.id: r.label for r in world.rows(sa.select(t.quantum.c.id, t.quantum.c.label))}
    return [by_id[one.id] for one in waiting]


def test_a_window_holds_whole_chains_and_says_whether_there_is_more(planned):
    waiting, parents, more = looked_at(planned, 3)
    assert labels(planned, waiting) == ["first", "second"] * 3
    assert [len(some) for some in parents.values()] == [1] * 3
    assert more
    waiting, _, more = looked_at(planned, 100)
    assert len(waiting) == 16
    assert not more


def test_a_quantum_whose_parent_is_in_a_job_is_not_looked_at(planned):
    with planned.ledger.begin() as connection:
        connection.execute(
            t.quantum.update().where(t.quantum.c.label == "first", t.quantum.c.ordinal > 1).values(state="PENDING")
        )
    waiting, _, more = looked_at(planned, 100)
    assert labels(planned, waiting) == ["first", "second"]
    assert not more


def test_what_was_given_back_with_its_parent_knows_its_parent(planned):
    with planned.ledger.begin() as connection:
        connection.execute(t.quantum.update().values(state="READY"))
    waiting, parents, _ = looked_at(planned, 100)
    assert labels(planned, waiting) == ["first", "second"] * 8
    assert len(parents) == 8


def test_groups_that_are_ready_are_found_by_jumps_through_the_index_in_a_few_questions(ledger_url):
    ledger, names = Ledger.open(ledger_url), [f"g{n:03}" for n in range(300)]
    about = {"campaign": "c", "step": "s", "run": "r", "graph_key": "", "config_key": "", "values_": {}, "init_records": []}
    one = {"campaign": "c", "step": "s", "label": "l", "current": True}
    state = {"g001": "SUCCEEDED", "g002": "RUNNING"}
    with ledger.begin() as connection:
        blank = dict.fromkeys(("name", "production", "kind", "digest", "owner", "access", "state"), "c")
        connection.execute(t.campaign.insert().values(**blank, definition={}, parameters={}, created=0))
        groups = [about | {"generation": 1, "name": n, "quanta": 20, "planned": 0.0} for n in names]
        ledger.insert_many(connection, t.group, [*groups, groups[7] | {"generation": 2}])
        its = [(n, 1, f"{n}-{k}", k) for n in names for k in range(20)] + [(names[7], 2, "again", 0)]
        quanta = [one | {"id": str(uuid.uuid4()), "generation": g, "group_": n, "data_id": d, "ordinal": k} for n, g, d, k in its]
        ledger.insert_many(connection, t.quantum, [q | {"state": state.get(q["group_"], "READY")} for q in quanta])
        if ledger.is_postgresql:
            connection.execute(sa.text("ANALYZE"))
    asked = []
    sa.event.listen(ledger._engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
    work, step = SimpleNamespace(context=SimpleNamespace(ledger=ledger), name="c"), SimpleNamespace(name="s")
    found = [(g.name, g.generation) for g in window.open_groups(work, step)]
    expected = sorted([*((n, 1) for n in names if n not in state), (names[7], 2)])
    assert found == expected
    questions = [(text, given) for text, given in asked if "quantum" in text]
    assert len(questions) <= 10
    explain = "EXPLAIN " if ledger.is_postgresql else "EXPLAIN QUERY PLAN "
    with ledger.read() as connection:
        rows = connection.exec_driver_sql(explain + questions[0][0], questions[0][1]).all()
    ledger.close()
    plan = "\n".join(str(row[-1]) for row in rows)
    reads = [line for line in plan.splitlines() if "quantum" in line]
    assert reads
    assert all("unfinished" in line for line in reads), plan

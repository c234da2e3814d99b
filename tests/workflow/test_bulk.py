"""Acceptance of many at once obeys the same rules as acceptance one by one."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from workflow.bulk import accept_plain
from workflow.job import Outcome
from workflow.ledger import Ledger
from workflow.ledger import tables as t


@pytest.fixture
def ledger(fresh_database):
    ledger = Ledger.open(fresh_database)
    yield ledger
    ledger.close()


def quanta(ledger, *states):
    same = {"campaign": "c", "step": "s", "label": "l", "generation": 1, "current": True, "group_": "all"}
    rows = [{**same, "id": str(uuid.uuid4()), "data_id": str(n), "ordinal": n, "state": state} for n, state in enumerate(states)]
    with ledger.begin() as c:
        ledger.insert_many(c, t.quantum, rows)
    return [row["id"] for row in rows]


def taken(ledger, job, ids, **more):
    outcomes = [Outcome(quantum=q, state="succeeded", wall_s=2, peak_mb=n, **more) for n, q in enumerate(ids)]
    with ledger.begin() as c:
        return accept_plain(ledger, c, campaign="c", job=job, outcomes=outcomes, now=5.0)


def states(ledger):
    return [r.state for r in ledger.all(sa.select(t.quantum.c.state).order_by(t.quantum.c.ordinal))]


def test_what_is_open_is_accepted_and_what_is_not_is_refused(ledger):
    ids = quanta(ledger, "PENDING", "RUNNING", "READY", "FAILED", "SUCCEEDED")
    job = str(uuid.uuid4())
    (sample,), refused = taken(ledger, job, ids)
    assert (sample.label, sample.n, sample.wall_s, sample.peak_mb) == ("l", 3, 6, 2)
    assert set(refused) == set(ids[3:])
    assert states(ledger) == ["SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED", "SUCCEEDED"]
    assert {(r.quantum, r.job) for r in ledger.all(sa.select(t.accepted))} == {(q, job) for q in ids[:3]}
    assert {r.published for r in ledger.all(sa.select(t.outbox))} == {5.0}  # they wrote nothing
    assert len(ledger.all(sa.select(t.outcome))) == 5


def test_a_second_job_and_a_second_report_change_nothing(ledger):
    ids = quanta(ledger, "RUNNING", "RUNNING")
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    taken(ledger, first, ids, records={"a": 1})
    assert taken(ledger, first, ids, records={"a": 2}) == ([], [])  # accepted already, from this very job
    assert taken(ledger, second, ids)[1] == ids
    assert {r.job for r in ledger.all(sa.select(t.accepted))} == {first}
    rows = ledger.all(sa.select(t.outcome.c.job, t.outcome.c.records))
    assert sorted((r.job == first, r.records is None) for r in rows) == [(False, True)] * 2 + [(True, False)] * 2
    assert {r.records["a"] for r in rows if r.records} == {1}
    assert {r.published for r in ledger.all(sa.select(t.outbox))} == {None}


def test_children_of_what_is_accepted_are_ready(ledger):
    parent, child = quanta(ledger, "RUNNING", "UNREADY")
    with ledger.begin() as c:
        ledger.insert_many(c, t.edge, [{"child": child, "parent": parent}])
    taken(ledger, str(uuid.uuid4()), [parent])
    assert states(ledger) == ["SUCCEEDED", "READY"]

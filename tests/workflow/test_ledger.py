"""The ledger's contract, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from backbone import database
from backbone.errors import TransientError
from workflow import stats
from workflow.accept import accept
from workflow.clock import FakeClock
from workflow.job import Outcome
from workflow.ledger import Ledger
from workflow.ledger import tables as t
from workflow.lock import LockLost, holder, locked

GIVES_UP = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "15min",
}


@pytest.fixture
def ledger(ledger_url):
    ledger = Ledger.open(ledger_url)
    with ledger.begin() as c:
        c.execute(t.campaign.insert().values(campaign()))
    yield ledger
    ledger.close()


def campaign(name="c"):
    blank = dict.fromkeys(("production", "kind", "digest", "owner", "access"), "x")
    return {"name": name, "definition": {}, "parameters": {}, "state": "RUNNING", "created": 0, **blank}


def quantum(data_id="d", **more):
    return {
        "id": str(uuid.uuid4()),
        "campaign": "c",
        "step": "s",
        "label": "l",
        "data_id": data_id,
        "generation": 1,
        "current": True,
        "group_": "all",
        "ordinal": 0,
        "state": "RUNNING",
        **more,
    }


def test_the_migrations_make_exactly_the_tables_of_the_program(ledger):
    with ledger.begin() as c:
        context = MigrationContext.configure(c, opts={"compare_type": True})
        assert compare_metadata(context, t.metadata) == []


def test_opening_at_the_same_time_migrates_once(ledger_url):
    errors = []

    def open_it():
        try:
            Ledger.open(ledger_url).close()
        except Exception as error:  # reported below
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_bulk_rows_come_back_as_they_were_written(ledger):
    rows = [quantum(f'{{"detector": {n}, "text": "a,\\"b\\n"}}', ordinal=n, job=None) for n in range(2000)]
    with ledger.begin() as c:
        ledger.insert_many(c, t.quantum, rows)
        ledger.insert_many(c, t.quantum, [])
    found = ledger.all(
        sa.select(t.quantum).where(ledger.among(t.quantum.c.id, [r["id"] for r in rows])).order_by(t.quantum.c.ordinal)
    )
    assert [(r.id, r.data_id, r.current, r.job) for r in found] == [(r["id"], r["data_id"], True, None) for r in rows]
    group = {
        **dict.fromkeys(("step", "name", "run", "graph_key", "config_key"), "x"),
        "campaign": "c",
        "generation": 1,
        "values_": {"a": ["é", None, 1.5]},
        "init_records": {},
        "quanta": 1,
        "planned": 1.5,
    }
    with ledger.begin() as c:
        ledger.insert_many(c, t.group, [group])
    assert ledger.all(sa.select(t.group.c.values_, t.group.c.planned))[0] == ({"a": ["é", None, 1.5]}, 1.5)


def test_the_database_allows_one_current_generation_of_a_quantum(ledger):
    with ledger.begin() as c:
        ledger.insert_many(c, t.quantum, [quantum(current=False), quantum(generation=2), quantum("other")])
    with pytest.raises(sa.exc.IntegrityError), ledger.begin() as c:
        ledger.insert_many(c, t.quantum, [quantum(generation=3)])
    with pytest.raises(sa.exc.IntegrityError), ledger.begin() as c:
        ledger.insert_many(c, t.quantum, [quantum(generation=2, current=False)])


def test_the_database_allows_one_accepted_attempt_and_one_outbox_row(ledger):
    row = {"quantum": str(uuid.uuid4()), "job": str(uuid.uuid4())}
    with ledger.begin() as c:
        ledger.insert_many(c, t.accepted, [row])
        c.execute(t.outbox.insert().values(campaign="c", **row))
    with pytest.raises(sa.exc.IntegrityError), ledger.begin() as c:
        ledger.insert_many(c, t.accepted, [{**row, "job": str(uuid.uuid4())}])
    with pytest.raises(sa.exc.IntegrityError), ledger.begin() as c:
        c.execute(t.outbox.insert().values(campaign="c", **row))


def test_a_transaction_that_breaks_off_leaves_nothing(ledger):
    def half():
        with ledger.begin() as c:
            ledger.insert_many(c, t.quantum, [quantum()])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert ledger.all(sa.select(t.quantum)) == []


def test_simultaneous_attempts_are_accepted_once_each_and_whole(ledger_url, ledger):
    """Eight jobs ran the same chain of two; whoever comes first, both come from one job."""
    first, second = quantum("a"), quantum("b")
    with ledger.begin() as c:
        ledger.insert_many(c, t.quantum, [first, second])
    jobs = [str(uuid.uuid4()) for _ in range(8)]
    gate = threading.Barrier(len(jobs))
    taken = {}

    def try_it(job):
        mine = Ledger.open(ledger_url)
        outcomes = [
            Outcome(quantum=first["id"], state="succeeded"),
            Outcome(quantum=second["id"], state="succeeded", reads=(first["id"],)),
        ]
        gate.wait()
        with mine.begin() as c:
            taken[job] = accept(mine, c, campaign="c", job=job, outcomes=outcomes)
        mine.close()

    threads = [threading.Thread(target=try_it, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, taken.values())) == [0] * 7 + [2]
    winner = next(job for job, some in taken.items() if some)
    assert {(r.quantum, r.job) for r in ledger.all(sa.select(t.accepted))} == {(first["id"], winner), (second["id"], winner)}
    assert len(ledger.all(sa.select(t.outbox))) == 2


def test_a_lock_is_one_engines_until_it_ends_or_falls_silent(ledger):
    clock = FakeClock()
    with locked(ledger, clock, "c", 60) as one:
        with locked(ledger, clock, "c", 60) as two:
            assert two is None
        clock.sleep(61)
        with locked(ledger, clock, "c", 60) as three:
            assert three.epoch == one.epoch + 1
            with pytest.raises(LockLost), one.begin():
                pass
            with three.begin():
                pass
    with locked(ledger, clock, "c", 60) as four:
        assert four.epoch == 3


def test_the_lock_of_a_process_of_this_host_that_is_dead_is_free(ledger):
    clock = FakeClock()
    with locked(ledger, clock, "c", 60):
        dead = t.campaign.c.lock_holder.op("||")("9")  # no process began at that time
        with ledger.begin() as c:
            c.execute(t.campaign.update().values(lock_holder=dead))
        with locked(ledger, clock, "c", 60) as other:
            assert other is not None


def test_a_lock_that_could_not_be_given_back_is_free_to_the_process_that_had_it(ledger):
    clock = FakeClock()
    with pytest.raises(TransientError, match="away"), locked(ledger, clock, "c", 60):
        ledger.begin = Mock(side_effect=TransientError("the database is away"))
    del ledger.begin
    assert [r.lock_holder for r in ledger.all(sa.select(t.campaign.c.lock_holder))] == [holder()]
    with locked(ledger, clock, "c", 60) as again:
        assert again is not None


def test_a_database_that_does_not_answer_is_not_known_rather_than_empty(tmp_path):
    with pytest.raises(TransientError, match="did not answer"):
        Ledger.open(f"postgresql+psycopg2://pachon@/none?host={tmp_path}")
    with pytest.raises(TransientError, match="did not answer"):
        Ledger.open(f"sqlite:///{tmp_path}/no/such/folder.sqlite3")


def test_a_row_whose_key_is_there_is_left_alone(ledger):
    with ledger.begin() as c:
        assert ledger.insert_first(c, t.campaign, campaign("new")) is True
        assert ledger.insert_first(c, t.campaign, {**campaign("new"), "state": "FAILED"}) is False
        ledger.insert_new(c, t.campaign, [{**campaign("new"), "state": "FAILED"}, campaign("newer")])
    assert {(r.name, r.state) for r in ledger.all(sa.select(t.campaign))} == {(n, "RUNNING") for n in ("c", "new", "newer")}


def test_a_child_is_ready_once_its_last_parent_is_accepted(ledger):
    a, b, child, other = (quantum(n, state=s) for n, s in zip("abcd", ("RUNNING", "RUNNING", "UNREADY", "UNREADY"), strict=True))
    with ledger.begin() as c:
        ledger.insert_many(c, t.quantum, [a, b, child, other])
        ledger.insert_many(c, t.edge, [{"child": child["id"], "parent": p["id"]} for p in (a, b)])

    def state_after(parent):
        with ledger.begin() as c:
            accept(ledger, c, campaign="c", job=str(uuid.uuid4()), outcomes=[Outcome(quantum=parent["id"], state="succeeded")])
        rows = {r.id: r.state for r in ledger.all(sa.select(t.quantum))}
        assert rows[other["id"]] == "UNREADY"
        return rows[child["id"]]

    assert [state_after(a), state_after(b)] == ["UNREADY", "READY"]


def test_a_database_server_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(database, "_CONNECT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes the connection, and never answers
        before = time.monotonic()
        with pytest.raises(TransientError, match="did not answer"):
            Ledger.open(f"postgresql+psycopg2://u:p@127.0.0.1:{deaf.getsockname()[1]}/ledger")
        assert time.monotonic() - before < 20


def test_a_database_server_gives_up_clients_that_are_gone_or_stand_still(fresh_database):
    ledger = Ledger.open(fresh_database)
    with ledger.read() as connection:
        said = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in GIVES_UP}
        socket_of = connection.connection.dbapi_connection.fileno()
        with socket.socket(fileno=os.dup(socket_of)) as ours:
            silent_ms = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    ledger.close()
    assert said == GIVES_UP
    assert silent_ms == 60_000


def test_two_campaigns_that_learn_of_one_label_at_once_lose_nothing(fresh_database):
    ledger, done = Ledger.open(fresh_database), []

    def learn(connection, grown_mb):
        stats.learn(ledger, connection, "p", [stats.Sample(label="isr", wall_s=2.0, peak_mb=1.0, grown_mb=grown_mb)])

    def other():
        with ledger.begin() as connection:
            learn(connection, None)
        done.append(True)

    with ledger.begin() as connection:
        learn(connection, 4096)
        thread = threading.Thread(target=other)
        thread.start()
        while not done and not ledger.all(sa.text("SELECT 1 FROM pg_locks WHERE NOT granted")):
            pass
    thread.join()
    with ledger.read() as connection:
        known = stats.read(connection, "p")
    ledger.close()
    assert done
    assert known == {"isr": stats.LabelStats(samples=2, wall_s=2.0, peak_mb=1.0, memory_mb=4096)}

"""The mover's side of the pending table: order, leases, sources, and what becomes of failures; rules of one's own."""

import threading

import pytest
import sqlalchemy as sa

from backbone import tables as t
from backbone import transfers
from backbone.errors import ConflictError, PermanentError, UnknownFile
from backbone.expiry import begin_deletions, deleted
from backbone.flow import link_states, rate_bytes_per_s
from backbone.history import history_of
from backbone.settings import BackboneEndpoint, BackboneSettings, Link

NCSA = {"name": "one", "copies": [{"at": "ncsa", "within": "1h"}]}


def require(place, name, keys, at="ncsa", within=600.0, priority=70):
    place.backbone.require(name, keys, at, by=place.time + within, priority=priority, actor="engine")


def keys(taken):
    return [transfer.file.key for transfer in taken]


def test_most_urgent_first_then_the_earliest_deadline(place):
    place.backbone.register("base", place.files(4), "tester")
    require(place, "late", ["k/00000"], within=900)
    require(place, "soon", ["k/00001"], within=60)
    require(place, "urgent", ["k/00002"], within=3600, priority=90)
    require(place, "again", ["k/00003"], within=900)
    assert keys(place.take("base", "ncsa", limit=2)) == ["k/00002", "k/00001"]
    assert keys(place.take("base", "ncsa", limit=9)) == ["k/00000", "k/00003"]
    assert place.take("base", "ncsa") == []


def test_newest_first_while_a_backlog_drains(place):
    place.apply(NCSA)
    for hour in range(3):
        place.time += 3600
        place.backbone.register("base", place.files(2, prefix=f"h{hour}"), "tester")
    require(place, "urgent", ["h0/00000"], priority=90)
    assert keys(place.take("base", "ncsa", limit=3, newest_first=True)) == ["h0/00000", "h2/00001", "h2/00000"]
    assert keys(place.take("base", "ncsa", limit=9, newest_first=True)) == ["h1/00001", "h1/00000", "h0/00001"]


def test_movers_at_the_same_time_never_take_the_same(make_place, postgresql_catalog):
    place = make_place(postgresql_catalog)
    place.apply(NCSA)
    place.backbone.register("base", place.files(400), "tester")
    taken, errors = [], []

    def work(name):
        try:
            while found := place.take("base", "ncsa", limit=7, worker=name):
                taken.extend(keys(found))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(taken) == [f.key for f in place.files(400)]


def test_transfer_of_a_dead_mover_is_taken_up_again_and_its_late_word_changes_nothing(place):
    place.apply(NCSA)
    place.backbone.register("base", place.files(1), "tester")
    (first,) = place.take("base", "ncsa", worker="dies")
    place.time += 30
    assert transfers.wake(place.catalog, now=place.time) == 0
    place.time += 31
    assert transfers.wake(place.catalog, now=place.time) == 1
    (second,) = place.take("base", "ncsa", worker="lives")
    assert (second.attempt, second.file) == (2, first.file)
    assert transfers.done(place.catalog, [first], now=place.time) == 0
    assert not transfers.failed(place.catalog, first, reason="late", delay_s=1, now=place.time)
    assert place.states("k/00000") == {"base": "AVAILABLE", "ncsa": "COPYING"}
    assert transfers.done(place.catalog, [second], now=place.time) == 1
    assert transfers.done(place.catalog, [second], now=place.time) == 0
    assert place.states("k/00000") == {"base": "AVAILABLE", "ncsa": "AVAILABLE"}
    assert [e.what for e in history_of(place.catalog, "k/00000")] == ["registered", "copied"]


def test_lease_of_a_long_transfer_is_renewed(place):
    place.apply(NCSA)
    place.backbone.register("base", place.files(1), "tester")
    taken = place.take("base", "ncsa")
    place.time += 50
    assert transfers.renew(place.catalog, taken, lease_s=60, now=place.time) == 1
    place.time += 50
    assert transfers.wake(place.catalog, now=place.time) == 0


def test_failure_waits_and_is_tried_again_from_the_next_source(place):
    place.backbone.register("base", place.files(1), "tester")
    place.backbone.register("ccin2p3", place.files(1), "tester")
    require(place, "r", ["k/00000"])
    (transfer,) = place.take("base", "ncsa")
    assert transfers.failed(place.catalog, transfer, reason="503 slow down", delay_s=30, now=place.time)
    (state,) = transfers.transfers(place.catalog)
    assert (state.state, state.source, state.attempts, state.reason) == ("WAITING", "ccin2p3", 1, "503 slow down")
    assert place.backbone.progress(["r"])["r"].first_reason == "503 slow down"
    assert transfers.wake(place.catalog, now=place.time + 29) == 0
    assert transfers.wake(place.catalog, now=place.time + 30) == 1
    place.time += 30
    (transfer,) = place.take("ccin2p3", "ncsa")
    assert transfers.done(place.catalog, [transfer], now=place.time) == 1


def test_stuck_transfer_has_its_reason_and_a_way_out(place):
    place.backbone.register("base", place.files(2), "tester")
    require(place, "r", ["k/00000", "k/00001"])
    first, second = place.take("base", "ncsa")
    transfers.failed(place.catalog, first, reason="403 at ncsa", delay_s=1, now=place.time, stuck=True)
    transfers.done(place.catalog, [second], now=place.time)
    progress = place.backbone.progress(["r"])["r"]
    assert (progress.ok, progress.stuck, progress.replicating, progress.first_reason) == (1, 1, 0, "403 at ncsa")
    place.time += 3600
    assert transfers.wake(place.catalog, now=place.time) == 0, "it waits for a person"
    assert transfers.retry(place.catalog, actor="anna", now=place.time, keys=[first.file.key]) == 1
    assert place.move() == 1
    assert place.backbone.progress(["r"])["r"].done
    assert [e.what for e in history_of(place.catalog, first.file.key)] == ["registered", "stuck", "copied"]


def test_source_that_turns_out_bad_is_left_for_another(place):
    files = place.files(1)
    place.backbone.register("base", files, "tester")
    place.backbone.register("ccin2p3", files, "tester")
    require(place, "r", ["k/00000"])
    assert place.backbone.mark(["k/00000"], "base", "BAD", actor="scrub", why="other bytes") == 1
    assert place.take("base", "ncsa") == []
    assert {(s.source, s.target, s.priority) for s in transfers.transfers(place.catalog)} == {
        ("ccin2p3", "ncsa", 70),
        ("ccin2p3", "base", 90),
    }
    assert place.move() == 2
    assert set(place.states("k/00000").values()) == {"AVAILABLE"}


def test_copies_go_over_the_links_there_are_the_cheapest_first(make_place, catalog_url):
    links = (
        Link(source="base", target="ncsa"),
        Link(source="ncsa", target="ccin2p3", cost=1),
        Link(source="dac", target="ccin2p3", cost=5),
        Link(source="ncsa", target="dac"),
    )
    place = make_place(catalog_url, places=("base", "ncsa", "ccin2p3", "dac"), links=links)
    place.backbone.register("base", place.files(1), "tester")
    require(place, "far", ["k/00000"], at="ccin2p3")
    assert place.move() == 0
    progress = place.backbone.progress(["far"])["far"]
    assert (progress.replicating, progress.stuck) == (1, 0)
    assert "link" in progress.first_reason
    require(place, "near", ["k/00000"], at="ncsa")
    assert keys(place.take("base", "ncsa")) == ["k/00000"]
    place.time += 61
    transfers.wake(place.catalog, now=place.time)
    assert transfers.done(place.catalog, place.take("base", "ncsa"), now=place.time) == 1
    assert keys(place.take("ncsa", "ccin2p3")) == ["k/00000"]


def test_rule_is_idempotent_and_its_progress_is_known(place):
    files = place.files(6)
    place.backbone.register("base", files, "tester")
    place.backbone.register("ncsa", files[:2], "tester")
    wanted = [f.key for f in files]
    for _ in range(2):
        require(place, "stage", wanted)
    progress = place.backbone.progress(["stage"])["stage"]
    assert (progress.total, progress.ok, progress.replicating, progress.bytes) == (6, 2, 4, 3 + 4 + 5 + 6)
    assert progress.eta_s is None
    transfers.done(place.catalog, place.take("base", "ncsa", limit=2), now=place.time)
    assert place.backbone.progress(["stage"])["stage"].eta_s > 0
    place.move()
    progress = place.backbone.progress(["stage"])["stage"]
    assert progress.done
    assert (progress.bytes, progress.eta_s) == (0, 0)
    with pytest.raises(ConflictError, match="stage"):
        require(place, "stage", wanted[:2])
    with pytest.raises(PermanentError, match="no rule 'stag'"):
        place.backbone.progress(["stag"])
    with pytest.raises(UnknownFile, match="nowhere"):
        require(place, "other", ["nowhere"])
    with pytest.raises(PermanentError, match="other"):
        place.backbone.progress(["other"])


def test_progress_of_many_rules_is_one_query_over_what_is_open(place):
    place.backbone.register("base", place.files(30), "tester")
    for number in range(10):
        require(place, f"r{number}", [f.key for f in place.files(30)[number * 3 : number * 3 + 3]])
    statements = []
    sa.event.listen(place.catalog._engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    found = place.backbone.progress([f"r{number}" for number in range(10)])
    assert {(p.total, p.replicating) for p in found.values()} == {(3, 3)}
    assert len([s for s in statements if s.lstrip().upper().startswith("SELECT")]) == 2, "one for rules, one for the rate"


def test_released_rule_calls_off_what_is_under_way_and_lets_its_copies_go(place):
    place.backbone.register("base", place.files(4), "tester")
    wanted = [f.key for f in place.files(4)]
    require(place, "a", wanted)
    require(place, "b", wanted[:1])
    transfers.done(place.catalog, place.take("base", "ncsa", limit=2), now=place.time)
    assert place.backbone.release("a", "engine")
    assert not place.backbone.release("a", "engine")
    assert place.count(t.transfer) == 0
    assert place.delete("ncsa") == [], "there is a day's grace"
    place.time += 86401
    assert place.delete("ncsa") == ["k/00001"], "the first is rule b's"
    assert place.delete("base") == []
    require(place, "a", wanted)
    assert place.backbone.progress(["a"])["a"].ok == 1


def test_copy_that_is_due_is_saved_by_whoever_asks_for_it_before_it_goes(place):
    place.backbone.register("base", place.files(1), "tester")
    require(place, "a", ["k/00000"])
    place.move()
    place.backbone.release("a", "engine")
    place.time += 86401
    require(place, "b", ["k/00000"])
    assert place.delete("ncsa") == []
    assert place.backbone.progress(["b"])["b"].done


def test_copy_asked_for_while_it_is_deleted_is_made_after_that(place):
    place.backbone.register("base", place.files(1), "tester")
    require(place, "a", ["k/00000"])
    place.move()
    place.backbone.release("a", "engine")
    place.time += 86401
    ncsa = place.catalog.endpoint_id("ncsa")
    begun = begin_deletions(place.catalog, ncsa, limit=10, worker="d", lease_s=60, now=place.time)
    require(place, "b", ["k/00000"])
    assert place.take("base", "ncsa") == [], "the deletion could hit the new copy"
    assert place.backbone.present(["k/00000"], "ncsa") == set()
    deleted(place.catalog, begun, now=place.time)
    assert place.move() == 1
    assert place.backbone.progress(["b"])["b"].done


def test_deletion_of_a_dead_worker_is_taken_up_again(place):
    place.backbone.register("base", place.files(1), "tester")
    require(place, "a", ["k/00000"])
    place.move()
    place.backbone.release("a", "engine")
    place.time += 86401
    ncsa = place.catalog.endpoint_id("ncsa")
    begun = begin_deletions(place.catalog, ncsa, limit=10, worker="dies", lease_s=60, now=place.time)
    assert len(begun) == 1
    assert place.delete("ncsa") == []
    place.time += 61
    assert place.delete("ncsa") == ["k/00000"]
    assert deleted(place.catalog, begun, now=place.time) == 0
    assert place.states("k/00000") == {"base": "AVAILABLE"}


def test_links_show_what_waits_moves_and_fails(place):
    place.apply(NCSA)
    place.backbone.register("base", place.files(5), "tester")
    taken = place.take("base", "ncsa", limit=3)
    transfers.done(place.catalog, taken[:1], now=place.time)
    transfers.failed(place.catalog, taken[1], reason="x", delay_s=9, now=place.time)
    (state,) = [s for s in link_states(place.catalog, now=place.time) if (s.source, s.target) == ("base", "ncsa")]
    assert (state.pending, state.running, state.waiting, state.failures) == (2, 1, 1, 1)
    assert state.bytes_per_s > 0


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ([{"source": "base", "target": "nsca"}], "did you mean 'ncsa'"),
        ([{"source": "base", "target": "base"}], "base→base"),
        ([{"source": "base", "target": "ncsa"}] * 2, "once"),
    ],
)
def test_links_that_cannot_be_are_named(links, said):
    endpoints = {name: BackboneEndpoint(uri=name) for name in ("base", "ncsa")}
    with pytest.raises(ValueError, match=said):
        BackboneSettings(endpoints=endpoints, links=tuple(Link(**link) for link in links))


def test_next_transfer_is_found_by_index_whatever_the_size_of_the_catalog(make_place, postgresql_catalog):
    place = make_place(postgresql_catalog)
    place.apply(NCSA)
    place.backbone.register("base", place.files(3000), "tester", manifest=False)
    statement = f"EXPLAIN {transfers._TAKE}"
    given = {"source": 1, "target": 2, "limit": 1, "worker": "w", "lease": 0.0}
    with place.catalog.begin() as connection:
        connection.execute(sa.text("ANALYZE bb_file, bb_transfer, bb_cohort"))
        plan = "\n".join(row[0] for row in connection.execute(sa.text(statement), given))
    assert "ix_bb_transfer_ready" in plan
    assert "Sort" not in plan.split("CTE n")[1].split("CTE x")[0], plan
    assert "Seq Scan on bb_transfer" not in plan
    assert "Seq Scan on bb_file" not in plan


def test_what_moved_of_late_is_found_by_index_however_long_links_have_moved_before(make_place, postgresql_catalog):
    place = make_place(postgresql_catalog)
    past = "SELECT 1, 2, g, 1, 1, 0 FROM generate_series(1, 20000) g"
    seen = []
    with place.catalog.begin() as connection:
        connection.execute(sa.text(f"INSERT INTO bb_flow (source, target, minute, files, bytes, failures) {past}"))
        connection.execute(sa.text("ANALYZE bb_flow"))
        sa.event.listen(connection, "before_cursor_execute", lambda *about: seen.append(about[2:4]))
        rate_bytes_per_s(connection, 2, now=20_000 * 60.0)
        statement, given = seen[-1]
        plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", given))
    assert "ix_bb_flow_minute" in plan, plan


def test_what_is_stuck_comes_first_and_what_has_no_copy_left_is_stuck(place):
    place.apply(NCSA)
    place.backbone.register("base", place.files(3), "tester")
    lost, waits = place.take("base", "ncsa", limit=2)
    assert transfers.failed(place.catalog, waits, reason="busy", delay_s=60, now=place.time)
    place.backbone.mark([lost.file.key], "base", "LOST", actor="mover", why="the source has it no more")
    assert transfers.failed(place.catalog, lost, reason="no such object", delay_s=0, now=place.time)
    shown = [(x.state, x.target, x.reason) for x in transfers.transfers(place.catalog)]
    nowhere = "no whole copy is left anywhere"
    assert sorted(shown[:2]) == [("STUCK", "base", nowhere), ("STUCK", "ncsa", nowhere)]
    assert [state for state, _, _ in shown[2:]] == ["WAITING", "PENDING"]
    # The object is put where it belongs: everything that waited for it goes on by itself.
    place.backbone.register("base", [lost.file], "tester")
    assert [x.state for x in transfers.transfers(place.catalog)] == ["WAITING", "PENDING", "PENDING"]

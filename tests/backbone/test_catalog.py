"""Registration and puts: everything or nothing, the same twice is the same once; on SQLite and on PostgreSQL."""

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import DBAPIError

from backbone import put as put_module
from backbone import tables as t
from backbone.catalog import Catalog
from backbone.endpoint import sha256_of
from backbone.errors import AccessRefused, ConflictError, PermanentError, TransientError, UnknownFile
from backbone.expiry import begin_deletions, deleted
from backbone.files import AVAILABLE, LOST, NewFile
from backbone.history import history_of
from backbone.identity import IDENTITY
from backbone.manifest import read_manifests
from backbone.sweep import orphans

TWO = {"name": "two", "copies": [{"at": "ncsa", "priority": 80}, {"at": "ccin2p3"}]}


def test_the_migrations_make_exactly_the_tables_of_the_program(postgresql_catalog):
    catalog = Catalog.open(postgresql_catalog)
    with catalog.begin() as connection:
        ours = {"compare_type": True, "version_table": "bb_version"}
        assert compare_metadata(MigrationContext.configure(connection, opts=ours), t.metadata) == []
    catalog.close()


def test_opening_at_the_same_time_migrates_once(fresh_database):
    errors = []

    def open_and_close():
        try:
            Catalog.open(fresh_database).close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_catalog_and_ledger_may_share_a_database(tmp_path):
    from workflow.ledger import Ledger

    url = f"sqlite:///{tmp_path}/shared.sqlite3"
    Catalog.open(url).close()
    Ledger.open(url).close()
    Catalog.open(url).close()


def test_registration_makes_file_replica_history_and_what_policies_ask_for(place):
    place.apply(TWO)
    files = place.files(50)
    assert place.backbone.register("base", files, "tester") == 50
    assert [place.count(table) for table in (t.file, t.replica, t.transfer)] == [50, 50, 100]
    assert place.states(files[7].key) == {"base": "AVAILABLE", "ncsa": "COPYING", "ccin2p3": "COPYING"}
    (event,) = history_of(place.catalog, files[7].key)
    assert (event.what, event.actor, event.endpoint) == ("registered", "tester", "base")


def test_registering_twice_is_registering_once_and_a_second_place_is_a_replica(place):
    place.apply(TWO)
    files = place.files(20)
    assert place.backbone.register("base", files, "tester") == 20
    assert place.backbone.register("base", [*files, *files[:3]], "tester") == 0
    assert [place.count(table) for table in (t.file, t.replica, t.transfer)] == [20, 20, 40]
    more = place.files(25)
    assert place.backbone.register("ncsa", more, "tester") == 5
    assert place.backbone.present([f.key for f in more], "ncsa") == {f.key for f in more}
    # The twenty need no copy at ncsa any more; the five new ones, there only, need one at ccin2p3 alone.
    assert place.count(t.transfer) == 25


def test_batch_with_a_key_twice_registers_it_once(place):
    files = place.files(3)
    assert place.backbone.register("base", [*files, files[0]], "tester") == 3


def test_other_content_under_a_known_key_is_refused_and_nothing_of_the_batch_is_registered(place):
    files = place.files(5)
    place.backbone.register("base", files[:1], "tester")
    with pytest.raises(ConflictError, match="k/00000"):
        place.backbone.register("base", [*files[1:], replace(files[0], sha256="f" * 64)], "tester")
    assert place.count(t.file) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "../up"}, "part"),
        ({"key": "a\x00b"}, "control"),
        ({"sha256": "ABC"}, "sha256"),
        ({"size": -1}, "negative"),
        ({"access": "group:"}, "access"),
    ],
)
def test_what_no_file_can_be_is_refused(place, change, said):
    with pytest.raises((PermanentError, AccessRefused), match=said):
        place.backbone.register("base", [replace(place.files(1)[0], **change)], "tester")
    assert place.count(t.file) == 0


def test_a_manifest_is_at_the_endpoint_before_the_rows_are_in_the_catalog(place, monkeypatch):
    files = place.files(5)
    monkeypatch.setattr("backbone.backbone.register_batch", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        place.backbone.register("base", files, "tester")
    assert place.count(t.file) == 0
    assert [found for _, batch in read_manifests(place.backbone.endpoint("base")) for found in batch] == files


def test_history_cannot_be_changed(place):
    place.backbone.register("base", place.files(1), "tester")
    for statement in (t.history.delete(), t.history.update().values(actor="somebody else")):
        with pytest.raises(DBAPIError, match="append-only"), place.catalog.begin() as connection:
            connection.execute(statement)
    assert place.count(t.history) == 1


def test_many_registrars_of_the_same_files_register_each_once(make_place, postgresql_catalog):
    first = make_place(postgresql_catalog)
    first.apply(TWO)
    files = first.files(300)
    counts, errors = [], []

    def register(order):
        place = make_place(postgresql_catalog)
        try:
            counts.append(place.backbone.register("base", order, "tester", manifest=False))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=register, args=(files[::step],)) for step in (1, -1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(counts) == 300
    assert [first.count(table) for table in (t.file, t.replica, t.transfer)] == [300, 300, 600]


class Crash(BaseException):
    """Stands for kill -9: nothing catches it."""


def crash(*_args, **_more):
    raise Crash


def test_put_registers_what_it_stores_and_the_same_again_is_a_success(place):
    info = place.put("a/1", b"hello")
    assert place.put("a/1", b"hello").sha256 == info.sha256
    assert place.backbone.endpoint("base").get("a/1") == b"hello"
    assert place.backbone.present(["a/1"], "base") == {"a/1"}
    assert place.count(t.intent) == 0
    with pytest.raises(ConflictError, match="a/1"):
        place.put("a/1", b"other")
    assert place.backbone.endpoint("base").get("a/1") == b"hello"


def test_put_that_dies_before_its_object_leaves_nothing(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(place.backbone.endpoint("base"), "put", crash)
        with pytest.raises(Crash):
            place.put("a/1")
    assert place.backbone.locate(["a/1"]) == {}
    place.time += 3601
    report = place.backbone.sweep("base")
    assert (report.finished_puts, report.undone_puts, place.count(t.intent)) == (0, 1, 0)
    assert place.backbone.locate(["a/1"]) == {}


def test_put_that_dies_after_its_object_is_finished_by_the_sweep(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(put_module, "register_batch", crash)
        with pytest.raises(Crash):
            place.put("a/1", b"hello", access="group:science")
    assert place.backbone.locate(["a/1"]) == {}, "visible before it was registered"
    assert place.backbone.sweep("base").finished_puts == 0, "its writer may still be at it"
    place.time += 3601
    assert place.backbone.sweep("base").finished_puts == 1
    assert place.states("a/1") == {"base": "AVAILABLE"}
    assert place.backbone.explain("a/1").access == "group:science"
    assert history_of(place.catalog, "a/1")[0].actor == "tester"


def test_put_that_died_is_repeated_by_its_writer(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(put_module, "register_batch", crash)
        with pytest.raises(Crash):
            place.put("a/1", b"hello")
    place.put("a/1", b"hello")
    assert place.states("a/1") == {"base": "AVAILABLE"}
    place.time += 3601
    place.backbone.sweep("base")
    assert place.count(t.intent) == 0
    assert place.count(t.file) == 1


def test_put_does_not_take_over_an_object_that_nobody_registered(place):
    place.backbone.endpoint("base").put("a/1", b"somebody's")
    with pytest.raises(ConflictError, match="not registered"):
        place.put("a/1", b"mine")
    assert place.backbone.endpoint("base").get("a/1") == b"somebody's"


def test_sweep_lists_an_object_without_a_row_and_registers_one_that_says_what_it_is(place):
    base = place.backbone.endpoint("base")
    base.put("stray/1", b"no name")
    (file,) = place.files(1, prefix="stray/known")
    file = replace(file, size=5, sha256=sha256_of(b"named"))
    base.put(file.key, b"named", about=file.about())
    assert place.backbone.sweep("base").orphans == 2
    place.time += 3601
    report = place.backbone.sweep("base")
    assert (report.registered, report.orphans) == (1, 1)
    assert place.states(file.key) == {"base": "AVAILABLE"}
    (left,) = orphans(place.catalog)
    assert (left.key, left.state) == ("stray/1", "QUARANTINED")
    assert base.get("stray/1") == b"no name"


def test_sweep_finds_rows_without_an_object_and_they_are_made_again(place):
    place.apply(TWO)
    for number in range(5):
        place.put(f"a/{number}", b"x" * number)
    place.move(real=True)
    place.backbone.endpoint("ncsa").delete("a/3")
    report = place.backbone.sweep("ncsa")
    assert (report.lost, report.objects) == (1, 4)
    assert place.backbone.present([f"a/{n}" for n in range(5)], "ncsa") == {"a/0", "a/1", "a/2", "a/4"}
    assert place.move(real=True) == 1
    assert place.backbone.endpoint("ncsa").get("a/3") == b"xxx"
    assert place.states("a/3") == dict.fromkeys(("base", "ncsa", "ccin2p3"), AVAILABLE)
    assert place.backbone.sweep("ncsa").lost == 0


def test_sweep_says_nothing_is_lost_while_the_endpoint_does_not_answer(place, monkeypatch):
    place.put("a/1")

    def silent(_key):
        raise TransientError("no answer")

    monkeypatch.setattr(place.backbone.endpoint("base"), "list", lambda _prefix: iter(()))
    monkeypatch.setattr(place.backbone.endpoint("base"), "info", silent)
    report = place.backbone.sweep("base")
    assert (report.lost, report.unknown) == (0, 1)
    assert place.states("a/1") == {"base": AVAILABLE}


def test_only_copy_that_is_lost_is_stuck_until_it_is_put_again(place):
    place.apply(TWO)
    place.put("a/1", b"hello")
    place.backbone.endpoint("base").delete("a/1")
    place.backbone.sweep("base")
    assert place.states("a/1") == {"base": LOST, "ncsa": "COPYING", "ccin2p3": "COPYING"}
    (reason,) = {r.reason for r in place.backbone.locate(["a/1"])["a/1"] if r.endpoint == "ncsa"}
    assert "no whole copy is left" in reason
    assert place.move() == 0
    place.put("a/1", b"hello")
    assert place.move(real=True) == 2
    assert place.states("a/1") == dict.fromkeys(("base", "ncsa", "ccin2p3"), AVAILABLE)


def test_unknown_endpoint_and_unknown_file_are_named_with_the_nearest(place):
    with pytest.raises(PermanentError, match="did you mean 'ncsa'"):
        place.backbone.register("nsca", [], "tester")
    with pytest.raises(UnknownFile, match="a/1"):
        place.backbone.explain("a/1")


def test_cohorts_are_few_however_many_files(place):
    place.backbone.register("base", place.files(100), "tester")
    place.backbone.register("base", place.files(100, prefix="z", dataset_type="bias"), "tester")
    assert place.catalog.all(sa.select(sa.func.count()).select_from(t.cohort))[0][0] == 2


def test_registration_takes_the_same_number_of_statements_however_many_files(place):
    place.apply(TWO)
    for prefix in ("first", "second"):  # the number of a new kind of files is remembered when it is seen again
        place.backbone.register("base", place.files(1, prefix=prefix), "tester", manifest=False)
    counts = []
    for number, prefix in ((10, "few"), (1000, "many")):
        statements = []
        listener = lambda *a, said=statements: said.append(a[2])  # noqa: E731
        sa.event.listen(place.catalog._engine, "before_cursor_execute", listener)
        place.backbone.register("base", place.files(number, prefix=prefix), "tester", manifest=False)
        sa.event.remove(place.catalog._engine, "before_cursor_execute", listener)
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_file_that_is_being_deleted_is_not_put_until_it_is_gone(place):
    place.apply(TWO)
    place.put("a/1", b"hello")
    place.move(real=True)
    place.apply()
    place.time += 86401
    ncsa = place.catalog.endpoint_id("ncsa")
    begun = begin_deletions(place.catalog, ncsa, limit=10, worker="d", lease_s=60, now=place.time)
    with pytest.raises(TransientError, match="being deleted"):
        place.put("a/1", b"hello", at="ncsa")
    place.backbone.endpoint("ncsa").delete("a/1")
    deleted(place.catalog, begun, now=place.time)
    place.put("a/1", b"hello", at="ncsa")
    assert place.backbone.endpoint("ncsa").get("a/1") == b"hello"
    assert place.states("a/1")["ncsa"] == "AVAILABLE"


def test_a_put_that_broke_off_and_lost_its_key_to_other_content_keeps_no_other_from_being_settled(place, monkeypatch):
    def dies(*_, **__):
        raise TransientError("the catalog is away")

    with monkeypatch.context() as patch:
        patch.setattr(put_module, "register_batch", dies)
        for key in ("k/1", "k/2"):
            with pytest.raises(TransientError):
                place.put(key, b"of the one that died", at="base")
    place.put("k/1", b"of another, elsewhere", at="ncsa")
    place.time += place.settings.intent_grace_s + 1
    report = place.backbone.sweep("base")
    assert (report.finished_puts, report.undone_puts) == (1, 1)
    assert place.states("k/2") == {"base": AVAILABLE}
    assert place.states("k/1") == {"ncsa": AVAILABLE}
    assert place.count(t.intent) == 0
    place.time += place.settings.intent_grace_s + 1
    place.backbone.sweep("base")
    assert [(o.key, o.state) for o in orphans(place.catalog)] == [("k/1", "QUARANTINED")], "its object is for a person"


@pytest.mark.parametrize(
    "wrong",
    [{"created": float("nan")}, {"created": float("inf")}, {"collection": "a\0b"}, {"owner": "\ud800"}, {"dataset_type": 5}],
)
def test_what_no_catalog_can_hold_is_refused_before_anything_is_stored(place, wrong):
    with pytest.raises(PermanentError, match=r"no text|no time"):
        place.put("k", **wrong)
    assert (place.count(t.intent), list(place.backbone.endpoint("base").list(""))) == (0, [IDENTITY])


def test_what_is_registered_again_while_its_deletion_begins_is_not_called_whole(make_place, postgresql_catalog):
    place = make_place(postgresql_catalog)
    place.put("k")
    number = place.catalog.endpoint_id("base")
    place.backbone.mark(["k"], "base", "BAD", actor="tester", why="rotten")
    answers = []

    def again():
        try:
            answers.append(place.backbone.register("base", [NewFile(**about)], "tester"))
        except TransientError as error:
            answers.append(str(error))

    with place.catalog.read() as connection:
        row = connection.execute(sa.select(t.file)).one()
    about = {"key": "k", "size": row.size, "sha256": row.sha256, "created": row.created}
    about |= {"dataset_type": "raw", "collection": "cam/raw/all"}
    with place.catalog.begin() as connection:  # a mover, in the middle of `begin_deletions`
        mine = t.replica.update().where(t.replica.c.endpoint == number)
        connection.execute(mine.values(state="DELETING", due=place.time + 60, reason="mover"))
        thread = threading.Thread(target=again)
        thread.start()
        waits = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
        with place.catalog.connect() as watching:
            while not watching.execute(waits).scalar_one():
                pass
    thread.join()
    assert "being deleted" in str(answers[0])
    assert place.states("k")["base"] == "DELETING", "else its row would say AVAILABLE and its object be gone"

"""What rots, vanishes or is lost as a whole is found and made again; the catalog itself is rebuilt from the objects."""

import os
import shutil

import pytest
import sqlalchemy as sa

from backbone import tables as t
from backbone import transfers
from backbone.backbone import Backbone
from backbone.catalog import Catalog
from backbone.errors import PermanentError, TransientError
from backbone.files import NewFile
from backbone.identity import IDENTITY
from backbone.quarantine import discard_quarantined, quarantined
from backbone.recover import recover_catalog, recover_endpoint, still_missing
from backbone.repair import Repair
from backbone.scrub import Scrub
from backbone.settings import BackboneSettings

NAMES = ("base", "ncsa", "dac")


class Clock:
    now = 2_000_000_000.0

    def __call__(self):
        self.now += 0.001
        return self.now

    def sleep(self, s):
        self.now += s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def empty_catalog(tmp_path_factory):
    """The file of a catalog with its tables made, which takes a while."""
    path = tmp_path_factory.mktemp("catalog") / "backbone.sqlite3"
    Catalog.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def home(tmp_path, empty_catalog):
    shutil.copy(empty_catalog, tmp_path)
    return tmp_path


@pytest.fixture
def backbone(home, clock):
    settings = BackboneSettings.model_validate({"endpoints": {name: {"uri": name} for name in NAMES}})
    found = Backbone.open(settings, home, now=clock)
    yield found
    found.close()


def content_of(key):
    return f"content of {key}".encode() * 10


def put(backbone, *keys, at="base"):
    for key in keys:
        about = {"dataset_type": "raw", "collection": "raw/all", "created": backbone.now(), "tags": ("b", "a"), "owner": "José"}
        backbone.put(at, key, content_of(key), about, "tester")


def replicate(backbone, *keys):
    """A rule for each other endpoint, and a mover's work."""
    for name in NAMES[1:]:
        backbone.require(f"{name} {keys[0]}", keys, name, by=backbone.now() + 60, actor="tester")
    move(backbone)


def move(backbone):
    """All pending transfers, as a mover does them; returns how many."""
    catalog, count = backbone.catalog, 0
    for source in NAMES:
        for target in set(NAMES) - {source}:
            ids = (catalog.endpoint_id(source), catalog.endpoint_id(target))
            taken = transfers.take(catalog, *ids, limit=1000, worker="m", lease_s=60, now=backbone.now())
            for transfer in taken:
                content = backbone.endpoint(source).get(transfer.file.key)
                backbone.endpoint(target).put(transfer.file.key, content, about=transfer.file.about())
            count += transfers.done(catalog, taken, now=backbone.now())
    return count


def states(backbone, key):
    return {r.endpoint: r.state for r in backbone.locate([key])[key]}


def scrub(backbone, name, clock, **options):
    return Scrub(backbone.catalog, backbone.endpoint(name), clock=clock, sleep=clock.sleep, **options)


def give(monkeypatch, endpoint, get):
    """Let the endpoint answer so of its objects, one by one and many at once."""
    as_it_was = endpoint.get

    def one(key):
        try:
            return get(key)
        except TransientError as error:
            return error

    monkeypatch.setattr(endpoint, "get", lambda key: as_it_was(key) if key == IDENTITY else get(key))
    monkeypatch.setattr(endpoint, "get_many", lambda keys: [one(key) for key in keys], raising=False)


@pytest.fixture
def three_places(backbone):
    keys = [f"a/k{n}" for n in range(7)]
    put(backbone, *keys)
    replicate(backbone, *keys)
    return keys


def test_scrubbing_sound_objects_finds_nothing_and_says_when_they_were_verified(backbone, three_places, clock):
    before = clock.now
    report = scrub(backbone, "ncsa", clock).run()
    assert (report.files, report.bad, report.lost, report.unknown, report.finished) == (7, 0, 0, 0, True)
    assert all(r.verified > before for key in three_places for r in backbone.locate([key])[key] if r.endpoint == "ncsa")


@pytest.mark.parametrize("damage", ["corrupted", "truncated", "deleted"])
def test_damage_behind_its_back_is_found_kept_aside_and_repaired(backbone, three_places, home, clock, damage):
    victim = home / "ncsa" / "a/k3"
    if damage == "deleted":
        victim.unlink()
    else:
        bad = victim.read_bytes()[: 5 if damage == "truncated" else None].replace(b"c", b"X")
        victim.write_bytes(bad)
    report = scrub(backbone, "ncsa", clock).run()
    assert (report.bad, report.lost) == ((0, 1) if damage == "deleted" else (1, 0))
    assert "a/k3" not in backbone.present(three_places, "ncsa")
    if damage != "deleted":
        (aside,) = quarantined(backbone.endpoint("ncsa"))
        assert (aside.key, backbone.endpoint("ncsa").get(aside.aside)) == ("a/k3", bad)
        assert discard_quarantined(backbone.endpoint("ncsa")) == 1
    assert move(backbone) == 1
    assert backbone.endpoint("ncsa").get("a/k3") == content_of("a/k3")
    assert states(backbone, "a/k3") == dict.fromkeys(NAMES, "AVAILABLE")
    assert scrub(backbone, "ncsa", clock).run().bad == 0


def test_a_bad_source_is_not_copied_from(backbone, home, clock):
    put(backbone, "a/k")
    replicate(backbone, "a/k")
    (home / "base" / "a/k").write_bytes(b"rotten")
    (home / "dac" / "a/k").unlink()
    for name in ("base", "dac"):
        scrub(backbone, name, clock).run()
    waiting = transfers.transfers(backbone.catalog)
    assert {(w.source, w.target) for w in waiting} == {("ncsa", "base"), ("ncsa", "dac")}


def test_the_last_copy_gone_is_stuck_with_its_reason_and_comes_back_with_the_object(backbone, home, clock):
    put(backbone, "a/k")
    kept = (home / "base" / "a/k").rename(home / "kept")
    scrub(backbone, "base", clock).run()
    (stuck,) = transfers.transfers(backbone.catalog)
    assert (stuck.state, stuck.reason) == ("STUCK", "no whole copy is left anywhere")
    repair = Repair(backbone.catalog, backbone.endpoint("base"), actor="tester", clock=clock)
    assert (repair.run().hopeless, repair.run().examples) == (1, ("a/k: the endpoint has no such object",))
    shutil.copy(kept, home / "base" / "a/k")
    assert repair.run().right == 1
    assert states(backbone, "a/k") == {"base": "AVAILABLE"}
    assert transfers.transfers(backbone.catalog) == []


def test_scrubbing_goes_on_where_it_was_stopped(backbone, three_places, clock, monkeypatch):
    class Killed(Exception):
        pass

    def stop(report):
        raise Killed

    with pytest.raises(Killed):
        scrub(backbone, "ncsa", clock, batch=3).run(say=stop)
    seen = []
    report = scrub(backbone, "ncsa", clock, batch=3).run(say=seen.append)
    assert (report.files, len(seen), report.finished) == (4, 2, True)
    assert scrub(backbone, "ncsa", clock).run(restart=True).files == 7
    with backbone.catalog.read() as connection:
        row = connection.execute(sa.select(t.scrub)).one()
    assert (row.position, row.rounds) == (0, 2)


def test_scrubbing_keeps_its_pace(backbone, three_places, clock):
    size = sum(len(content_of(key)) for key in three_places)
    begun = clock.now
    scrub(backbone, "ncsa", clock, bytes_per_s=10.0, batch=1).run()
    assert clock.now - begun == pytest.approx(size / 10.0, rel=0.05)


def test_scrubbing_stops_in_time_and_new_files_are_of_the_same_round(backbone, three_places, clock):
    first = scrub(backbone, "base", clock, bytes_per_s=10.0, batch=2).run(limit_s=5.0)
    assert (first.files, first.finished) == (2, False)
    put(backbone, "b/new")
    assert scrub(backbone, "base", clock).run().files == 6


def test_an_endpoint_that_does_not_answer_has_lost_nothing(backbone, three_places, clock, monkeypatch):
    def silent(key):
        raise TransientError("no route")

    give(monkeypatch, backbone.endpoint("ncsa"), silent)
    with pytest.raises(TransientError, match="none of 7 objects"):
        scrub(backbone, "ncsa", clock).run()
    assert backbone.present(three_places, "ncsa") == set(three_places)


def test_one_object_that_cannot_be_read_stops_nothing_and_is_not_called_bad(backbone, three_places, clock, monkeypatch):
    endpoint = backbone.endpoint("ncsa")
    get = endpoint.get

    def stuttering(key):
        if key == "a/k3":
            raise TransientError("a/k3: timed out")
        return get(key)

    give(monkeypatch, endpoint, stuttering)
    report = scrub(backbone, "ncsa", clock).run()
    assert (report.files, report.unknown, report.bad, report.lost, report.reason) == (7, 1, 0, 0, "a/k3: timed out")
    assert backbone.present(three_places, "ncsa") == set(three_places)


def test_large_objects_are_scrubbed_by_way_of_a_file(backbone, home, clock):
    content = os.urandom(9 << 20)
    backbone.put("base", "big", content, {"dataset_type": "d", "collection": "c", "created": 1.0}, "tester")
    assert scrub(backbone, "base", clock).run().bad == 0
    with (home / "base" / "big").open("r+b") as file:
        file.seek(5 << 20)
        file.write(bytes([content[5 << 20] ^ 1]))
    assert scrub(backbone, "base", clock).run().bad == 1


def test_a_lost_endpoint_is_filled_again_from_the_others(backbone, three_places, home, clock):
    put(backbone, "z/unarchived", at="dac")
    shutil.rmtree(home / "dac")
    (home / "dac").mkdir()
    report = recover_endpoint(backbone, "dac", actor="tester")
    assert (report.files, report.lost, report.lost_bytes > 0) == (8, 8, True)
    assert recover_endpoint(backbone, "dac", actor="tester").lost == 0, "twice is once"
    assert move(backbone) == 7
    assert backbone.present(three_places, "dac") == set(three_places)
    assert still_missing(backbone, "dac") == 1, "what was nowhere else"
    assert [x.reason for x in transfers.transfers(backbone.catalog)] == ["no whole copy is left anywhere"]


def test_a_part_of_an_endpoint_that_is_lost_costs_that_part(backbone, three_places, home):
    for n in (0, 3, 6):
        (home / "dac" / f"a/k{n}").unlink()
    assert recover_endpoint(backbone, "dac", actor="tester").lost == 3
    assert move(backbone) == 3


def test_what_arrives_while_an_endpoint_is_listed_is_not_called_lost(backbone, three_places, monkeypatch):
    endpoint = backbone.endpoint("dac")
    listing = endpoint.list

    def late(prefix):
        yield from list(listing(prefix))
        put(backbone, "zz", at="dac")

    monkeypatch.setattr(endpoint, "list", late)
    assert recover_endpoint(backbone, "dac", actor="tester").lost == 0


def register_in_place(backbone, *keys):
    """As a Butler's outputs come: the objects carry nothing of themselves."""
    files = []
    for key in keys:
        info = backbone.endpoint("base").put(key, content_of(key))
        files.append(NewFile(key=key, size=info.size, sha256=info.sha256, dataset_type="calexp", collection="u/r", created=5.5))
    backbone.register("base", files, "engine")
    return files


def rows_of(backbone):
    names = ("key", "size", "sha256", "created", "dataset_type", "collection", "tags", "owner", "retention", "access")
    with backbone.catalog.read() as connection:
        query = sa.select(t.file, t.cohort).join(t.cohort, t.cohort.c.id == t.file.c.cohort).order_by(t.file.c.key)
        return [tuple(getattr(row, name) for name in names) for row in connection.execute(query)]


def test_a_lost_catalog_is_rebuilt_from_the_objects(backbone, three_places, home, clock):
    register_in_place(backbone, "c/1", "c/2")
    replicate(backbone, "c/1", "c/2")
    before, where = rows_of(backbone), {key: states(backbone, key) for key in [*three_places, "c/1", "c/2"]}
    backbone.endpoint("ncsa").put("stray", b"who knows")
    backbone.close()
    for path in home.glob("backbone.sqlite3*"):
        path.unlink()
    again = Backbone.open(backbone.settings, home, now=clock)
    report = recover_catalog(again, actor="tester")
    assert (report.files, report.replicas, report.unknown, report.conflicts) == (9, {"base": 9, "ncsa": 9, "dac": 9}, 1, 0)
    assert "stray at ncsa" in report.examples[0]
    assert rows_of(again) == before
    assert {key: states(again, key) for key in where} == where
    assert recover_catalog(again, actor="tester").files == 0, "twice is once"
    again.close()


def test_a_recovered_catalog_knows_what_was_registered_not_what_rotted_since(backbone, three_places, home, clock):
    (home / "base" / "a/k3").write_bytes(b"rotten")
    backbone.close()
    for path in home.glob("backbone.sqlite3*"):
        path.unlink()
    again = Backbone.open(backbone.settings, home, now=clock)
    assert recover_catalog(again, actor="tester").conflicts == 0
    assert scrub(again, "base", clock).run().bad == 1
    assert move(again) == 1
    assert again.endpoint("base").get("a/k3") == content_of("a/k3")
    again.close()


def test_two_objects_of_one_key_that_differ_are_a_conflict_that_stops_nothing_else(backbone, three_places, home, clock):
    other = NewFile(key="a/k3", size=1, sha256="0" * 64, dataset_type="d", collection="c", created=1.0)
    backbone.endpoint("dac").put("a/k3", b"x", about=other.about())
    backbone.close()
    for path in home.glob("backbone.sqlite3*"):
        path.unlink()
    again = Backbone.open(backbone.settings, home, now=clock)
    report = recover_catalog(again, actor="tester")
    assert (report.files, report.conflicts, report.replicas["dac"]) == (7, 1, 6)
    assert "a/k3 at dac" in report.examples[0]
    again.close()


def test_a_damaged_manifest_is_named(backbone, home):
    register_in_place(backbone, "c/1")
    (path,) = (home / "base").glob("_pachon/manifests/*/*.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PermanentError, match=path.name):
        recover_catalog(backbone, actor="tester")


@pytest.mark.parametrize(
    "key", ["k/" * 483 + "kk/" + "k" * 40, "/".join(["ключ" * 25] * 5)], ids=["cut at a slash", "of two bytes a letter"]
)
def test_a_bad_copy_of_a_long_name_is_kept_aside_too(backbone, home, clock, key):
    put(backbone, key)
    (home / "base" / key).write_bytes(b"rotten")
    report = scrub(backbone, "base", clock).run()
    assert (report.bad, report.finished) == (1, True)
    assert [one.key for one in quarantined(backbone.endpoint("base"))] == [key]

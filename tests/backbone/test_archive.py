"""An archive is written once, keeps two copies that restore each other, and is slow: what is asked for joins a queue."""

import sqlite3
import threading

import pytest

from backbone.archive import ArchiveEndpoint, ArchiveSettings, RecallPending
from backbone.endpoint import sha256_of
from backbone.errors import AccessRefused, ObjectAbsent, ObjectExists, ObjectTooLarge
from backbone.folder import FolderEndpoint
from backbone.opened import open_endpoints
from backbone.reading import digest_of
from backbone.settings import BackboneSettings


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now

    def sleep(self, s):
        self.now += s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    def _make(**settings):
        places = [FolderEndpoint(tmp_path / name, name=name) for name in ("near", "off")]
        settings = ArchiveSettings(**{"mount_s": 100.0, "rate_mb_s": 1.0, "patience_s": 5.0, **settings})
        return ArchiveEndpoint(
            *places, name="tape", folder=tmp_path / "archive", settings=settings, clock=clock, sleep=clock.sleep
        )

    return _make


def test_an_object_has_two_copies_as_soon_as_it_is_there(make):
    archive = make()
    put = archive.put("a/k", b"x", about={"owner": "anna"})
    assert archive.near.get("a/k") == archive.off_site.get("a/k") == b"x"
    assert archive.info("a/k") == put
    assert [place.info("a/k").about["owner"] for place in (archive.near, archive.off_site)] == ["anna", "anna"]


def test_it_is_written_once(make):
    archive = make()
    archive.put("k", b"one")
    assert archive.put("k", b"one").size == 3, "the same again is welcome"
    with pytest.raises(ObjectExists, match="written once"):
        archive.put("k", b"two")
    with pytest.raises(ObjectExists, match="taken"):
        archive.put("k", b"one", create_only=True)
    for action in (lambda: archive.delete("k"), lambda: archive.put("f/k", b"") and archive.discard("f/")):
        with pytest.raises(AccessRefused, match="archive"):
            action()
    archive.delete("absent")
    assert archive.discard("nothing/") == 0


def test_a_writer_killed_between_the_copies_has_shown_nothing_and_is_completed_by_the_next(make):
    archive = make()
    archive.off_site.put("k", b"one")
    with pytest.raises(ObjectAbsent):
        archive.info("k")
    archive.put("k", b"one")
    assert archive.near.get("k") == b"one"


def test_a_reading_waits_its_turn_says_when_and_comes_then(make, clock):
    archive = make()
    archive.put("k", b"x" * 1_000_000)
    with pytest.raises(RecallPending, match="101 s") as pending:
        archive.get("k")
    assert pending.value.delay_s == pytest.approx(101.0)
    assert [entry.key for entry in archive.queue()] == ["k"]
    clock.now += 101.0
    assert archive.get("k") == b"x" * 1_000_000
    assert archive.queue() == ()


def test_a_patient_reading_waits(make, clock):
    archive = make(patience_s=200.0)
    archive.put("k", b"x")
    begun = clock.now
    assert archive.get("k") == b"x"
    assert 100.0 <= clock.now - begun < 102.0
    assert archive.get("k") == b"x"
    assert clock.now - begun < 102.0, "it is at hand now"


def test_one_mount_serves_all_who_ask(make, clock):
    archive = make(batch=2)
    for key in ("a", "b", "c"):
        archive.put(key, b"x" * 1_000_000)
    archive.request(["a", "b", "c"])
    archive.recall()
    assert [entry.ready_at and entry.ready_at - clock.now for entry in archive.queue()] == [101.0, 102.0, None]
    clock.now += 102.0
    assert archive.recall() == 2
    assert [entry.ready_at - clock.now for entry in archive.queue()] == [101.0]


def test_the_queue_survives_its_process(make, clock):
    archive = make()
    archive.put("k", b"x")
    archive.request(["k"])
    archive.recall()
    clock.now += 101.0
    assert make().recall() == 1


def test_what_was_never_archived_is_absent(make):
    with pytest.raises(ObjectAbsent):
        make().get("k")


def test_a_rotten_copy_is_restored_from_off_site(make, clock, tmp_path):
    archive = make(patience_s=200.0)
    archive.put("k", b"good")
    (tmp_path / "near" / "k").write_bytes(b"evil")
    assert archive.get("k") == b"good"


def test_two_rotten_copies_are_an_error_with_a_reason_never_bytes(make, tmp_path):
    archive = make(patience_s=200.0)
    archive.put("k", b"good")
    for name in ("near", "off"):
        (tmp_path / name / "k").write_bytes(b"evil")
    with pytest.raises(RecallPending, match=r"near: .*off: "):
        archive.get("k")


def test_scrubbing_reads_both_copies_and_restores_either_from_the_other(make, tmp_path):
    archive = make()
    archive.put("k", b"good", about={"owner": "anna"})
    for rot in (lambda: (tmp_path / "near" / "k").write_bytes(b"evil"), lambda: (tmp_path / "off" / "k").unlink()):
        rot()
        assert digest_of(archive, "k", 4) == (4, sha256_of(b"good"))
        assert [place.get("k") for place in (archive.near, archive.off_site)] == [b"good", b"good"]
    assert archive.off_site.info("k").about["owner"] == "anna"
    assert archive.queue() == (), "a scrub is no recall"
    for name in ("near", "off"):
        (tmp_path / name / "k").write_bytes(b"evil")
    assert digest_of(archive, "k", 4) == (4, sha256_of(b"evil")), "two bad copies are a bad object"
    archive.put("k", b"good")
    assert digest_of(archive, "k", 4) == (4, sha256_of(b"good")), "and the same bytes put again mend it"


def test_settings_make_an_endpoint_an_archive(tmp_path):
    said = {"uri": "tape", "archive": {"off_site": "vault", "mount_s": 90, "patience_s": 0}}
    opened = open_endpoints(BackboneSettings.model_validate({"endpoints": {"tape": said}}), tmp_path)["tape"]
    opened.put("k", b"x")
    assert (tmp_path / "tape" / "k").read_bytes() == (tmp_path / "vault" / "k").read_bytes() == b"x"
    with pytest.raises(RecallPending):
        opened.get("k")


def test_what_the_buffer_cannot_hold_is_refused_and_keeps_no_other_waiting(make, clock):
    archive = make(buffer_bytes=100)
    archive.put("large", b"x" * 101)
    archive.put("small", b"y" * 10)
    with pytest.raises(ObjectTooLarge, match="buffer_bytes"):
        archive.request(["large"])
    archive.request(["small"])
    archive.recall()
    clock.now += 200
    assert archive.recall() == 1
    assert archive.get("small") == b"y" * 10


def test_an_object_that_cannot_be_had_keeps_no_other_from_being_brought(make, clock, monkeypatch):
    archive = make()
    for key in ("a", "b"):
        archive.put(key, key.encode())
    archive.request(["a", "b"])
    archive.recall()
    clock.now += 200
    real = FolderEndpoint.fetch

    def fetch(endpoint, key, path):
        if key == "a":
            raise AccessRefused("a: refused (403)")
        return real(endpoint, key, path)

    monkeypatch.setattr(FolderEndpoint, "fetch", fetch)
    assert archive.recall() == 1
    assert archive.get("b") == b"b"
    (left,) = archive.queue()
    assert (left.key, "refused (403)" in left.reason) == ("a", True)


def test_whoever_asks_for_more_does_not_wait_for_the_robot(make, clock, monkeypatch):
    archive, other = make(), make()
    for key in ("a", "b"):
        archive.put(key, key.encode())
    archive.request(["a"])
    archive.recall()
    clock.now += 200
    begun, go, real = threading.Event(), threading.Event(), FolderEndpoint.fetch

    def slow(endpoint, key, path):
        begun.set()
        assert go.wait(60)
        return real(endpoint, key, path)

    monkeypatch.setattr(FolderEndpoint, "fetch", slow)
    robot = threading.Thread(target=archive.recall)
    robot.start()
    try:
        assert begun.wait(60)
        monkeypatch.setattr(other, "_connect", lambda: sqlite3.connect(other._folder / "recall.sqlite3", timeout=0.5))
        other.request(["b"])
        assert [one.key for one in other.queue()] == ["a", "b"]
        assert other.recall() == 0, "there is one robot"
    finally:
        go.set()
        robot.join()
    assert [one.key for one in archive.queue()] == ["b"]

"""Who may read what: owner, list, group, public, and public by age; every refusal is in the history."""

import pytest

from backbone.access import Principal
from backbone.errors import AccessRefused, PermanentError, TransientError
from backbone.history import history_of, recent

ANNA, BO = Principal(name="anna"), Principal(name="bo", groups=frozenset({"science"}))
STAFF = Principal(name="staff", operator=True)


@pytest.mark.parametrize(
    ("access", "readers"),
    [
        ("owner", {"anna", "staff"}),
        ("group:science", {"anna", "bo", "staff"}),
        ("group:staff", {"anna", "staff"}),
        ("list:bo,cleo", {"anna", "bo", "staff"}),
        ("list:boris", {"anna", "staff"}),
        ("public", {"anna", "bo", "staff"}),
    ],
)
def test_file_is_read_by_whom_its_access_rule_names_and_nobody_else(place, tmp_path, access, readers):
    place.put("a/1", b"secret", owner="anna", access=access)
    found = set()
    for who in (ANNA, BO, STAFF):
        path = tmp_path / who.name
        try:
            place.backbone.fetch("a/1", path, who=who)
            assert path.read_bytes() == b"secret"
            found.add(who.name)
        except AccessRefused:
            assert not path.exists()
    assert found == readers


def test_refusal_is_logged_and_does_not_say_whether_the_file_exists(place):
    place.put("a/1", owner="anna")
    with pytest.raises(AccessRefused) as hidden:
        place.backbone.locate(["a/1"], BO)
    with pytest.raises(AccessRefused) as absent:
        place.backbone.locate(["a/2"], BO)
    assert str(hidden.value).replace("a/1", "a/2") == str(absent.value)
    assert [(e.what, e.actor, e.why) for e in recent(place.catalog, what="refused")] == [
        ("refused", "bo", "read a/2"),
        ("refused", "bo", "read a/1"),
    ]
    assert history_of(place.catalog, "a/1")[-1].what == "refused"


def test_one_forbidden_file_refuses_the_whole_question(place):
    place.put("a/1", owner="bo")
    place.put("a/2", owner="anna")
    assert set(place.backbone.locate(["a/1"], BO)) == {"a/1"}
    with pytest.raises(AccessRefused, match="a/2"):
        place.backbone.locate(["a/1", "a/2"], BO)


def test_files_become_public_between_a_minimum_and_a_maximum_age(place):
    place.apply({"name": "l1", "match": {"dataset_types": ["dia_source"]}, "public": {"after": "6h", "latest": "24h"}})
    for number in (1, 2):
        place.put(f"a/{number}", dataset_type="dia_source", owner="anna")
    begin = place.time

    def readable(key):
        try:
            return bool(place.backbone.locate([key], BO))
        except AccessRefused:
            return False

    assert place.backbone.publish(["a/1"], "qa") == 1
    assert place.backbone.publish(["a/1"], "qa") == 0
    place.time = begin + 6 * 3600 - 1
    assert not readable("a/1"), "an act of publication does not undercut the minimum"
    place.time = begin + 6 * 3600
    assert readable("a/1")
    assert not readable("a/2")
    place.time = begin + 24 * 3600
    assert readable("a/2"), "at the maximum age it is public by itself"
    assert [e.what for e in history_of(place.catalog, "a/1")][:2] == ["registered", "published"]


def test_fetch_checks_what_it_reads_and_takes_the_next_copy(place, tmp_path):
    place.apply({"name": "one", "copies": [{"at": "ncsa"}]})
    place.put("a/1", b"right")
    place.move(real=True)
    (place.backbone.home / "base" / "a" / "1").write_bytes(b"wrong")
    place.backbone.fetch("a/1", tmp_path / "out", near="base")
    assert (tmp_path / "out").read_bytes() == b"right"
    assert place.states("a/1") == {"ncsa": "AVAILABLE", "base": "BAD"}
    assert history_of(place.catalog, "a/1")[-1].what == "bad"


def test_fetch_of_what_is_not_here_says_where_it_is_to_be(place, tmp_path):
    place.backbone.register("base", place.files(1), "tester")
    with pytest.raises(FileNotFoundError, match="LOST"):
        place.backbone.fetch("k/00000", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="not registered"):
        place.backbone.fetch("a/1", tmp_path / "out")


def test_fetch_marks_nothing_where_an_endpoint_does_not_answer(place, tmp_path, monkeypatch):
    place.apply({"name": "one", "copies": [{"at": "ncsa"}]})
    place.put("a/1", b"right")

    def silent(_key, _path):
        raise TransientError("503")

    monkeypatch.setattr(place.backbone.endpoint("base"), "fetch", silent)
    with pytest.raises(TransientError, match="503"):
        place.backbone.fetch("a/1", tmp_path / "out")
    place.move(real=True)
    place.backbone.fetch("a/1", tmp_path / "out", near="base")
    assert place.states("a/1") == {"base": "AVAILABLE", "ncsa": "AVAILABLE"}
    assert [p.name for p in tmp_path.iterdir() if p.is_file() and p.name.startswith(".")] == []


def test_fetch_takes_another_copy_where_an_endpoint_lets_nobody_in(place, tmp_path, monkeypatch):
    place.put("a/1", b"hello")
    place.apply({"name": "two", "copies": [{"at": "ncsa"}]})
    place.move(real=True)

    def refuses(key, path):
        raise AccessRefused("base: the credentials have expired")

    monkeypatch.setattr(place.backbone.endpoint("base"), "fetch", refuses)
    place.backbone.fetch("a/1", tmp_path / "out", near="base")
    assert (tmp_path / "out").read_bytes() == b"hello"
    assert place.states("a/1") == {"base": "AVAILABLE", "ncsa": "AVAILABLE"}, "a refusal says nothing of the copy"
    monkeypatch.setattr(place.backbone.endpoint("ncsa"), "fetch", refuses)
    with pytest.raises(AccessRefused, match="expired"):
        place.backbone.fetch("a/1", tmp_path / "out")


def test_a_reader_without_a_folder_to_write_to_loses_no_copy(place, tmp_path):
    place.put("a/1", b"hello")
    with pytest.raises(PermanentError, match="is no folder"):
        place.backbone.fetch("a/1", tmp_path / "typo" / "out")
    assert place.states("a/1") == {"base": "AVAILABLE"}

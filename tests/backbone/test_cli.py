"""The commands people use, end to end on folders."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

from backbone import transfers
from backbone.catalog import Catalog
from backbone.cli import backbone as command
from backbone.errors import AccessRefused, PermanentError, UnknownFile, WrongPlace
from backbone.home import NoBackbone, open_backbone

POLICY = {
    "policies": [{"name": "raw", "match": {"dataset_types": ["raw"]}, "copies": [{"at": "base"}, {"at": "ncsa"}], "floor": 2}]
}


@pytest.fixture(scope="module")
def empty_catalog(tmp_path_factory):
    """The file of a catalog with its tables made, which takes a while."""
    path = tmp_path_factory.mktemp("catalog") / "backbone.sqlite3"
    Catalog.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def home(tmp_path, empty_catalog):
    shutil.copy(empty_catalog, tmp_path)
    (tmp_path / "policies.yaml").write_text(yaml.safe_dump(POLICY))
    endpoints = {"base": {"uri": "base"}, "ncsa": {"uri": "ncsa"}, "tape": {"uri": "tape", "archive": {"off_site": "vault"}}}
    said = {"endpoints": endpoints, "policies": ["policies.yaml"]}
    (tmp_path / "pachon.yaml").write_text(yaml.safe_dump({"backbone": said}))
    return tmp_path


@pytest.fixture
def run(home):
    def _run(*arguments, code=0, as_json=True):
        options = ["--home", str(home), *(["--json"] if as_json else [])]
        answer = CliRunner().invoke(command, [*arguments, *options], catch_exceptions=False)
        assert answer.exit_code == code, answer.output
        return json.loads(answer.stdout) if as_json else answer.stdout

    return _run


@pytest.fixture
def frame(home, run):
    path = home / "frame.fits"
    path.write_bytes(b"SIMPLE" * 100)
    run("put", str(path), "--at", "base", "--prefix", "raw/1/", "--type", "raw", "--actor", "anna")
    return path


def work(home):
    """What a mover does with the pending table."""
    opened = open_backbone(home)
    ids = [opened.catalog.endpoint_id(name) for name in ("base", "ncsa")]
    taken = transfers.take(opened.catalog, *ids, limit=10, worker="m", lease_s=60, now=opened.now())
    for transfer in taken:
        opened.endpoint("ncsa").put(
            transfer.file.key, opened.endpoint("base").get(transfer.file.key), about=transfer.file.about()
        )
    transfers.done(opened.catalog, taken, now=opened.now())
    opened.close()
    return len(taken)


def test_a_file_is_put_found_copied_and_read_back(home, run, frame):
    assert [r["state"] for r in run("replicas", "raw/1/frame.fits")] == ["AVAILABLE", "COPYING"]
    assert [x["target"] for x in run("transfers")] == ["ncsa"]
    assert work(home) == 1
    assert {r["endpoint"] for r in run("locate", "raw/1/frame.fits")["raw/1/frame.fits"]} == {"base", "ncsa"}
    got = run("get", "raw/1/frame.fits", str(home / "out"), "--near", "ncsa")
    assert (home / "out").read_bytes() == frame.read_bytes()
    assert got["size"] == 600


def test_put_again_is_a_success_and_other_content_is_not(home, run, frame):
    arguments = ("put", str(frame), "--at", "base", "--prefix", "raw/1/", "--type", "raw", "--actor", "anna")
    run(*arguments)
    frame.write_bytes(b"other")
    with pytest.raises(PermanentError, match="another key"):
        run(*arguments)


def test_a_key_that_is_none_is_refused(home, run, frame):
    with pytest.raises(AccessRefused, match="refused"):
        run("put", str(frame), "--at", "base", "--key", "../x", "--type", "raw")


def test_a_user_reads_what_the_access_rule_allows_and_refusals_are_in_the_history(home, run, frame):
    run("get", "raw/1/frame.fits", str(home / "out"), "--as", "anna")
    with pytest.raises(AccessRefused, match="bo may not read"):
        run("get", "raw/1/frame.fits", str(home / "out2"), "--as", "bo")
    assert not (home / "out2").exists()
    assert [(e["actor"], e["what"]) for e in run("history", "raw/1/frame.fits")][-1] == ("bo", "refused")


def test_policies_are_explained_and_a_change_shows_its_effect_before_it_is_made(home, run, frame):
    asks = {ask["endpoint"]: ask for ask in run("policy", "check", "raw/1/frame.fits")["asks"]}
    assert asks["ncsa"]["by"] == ["policy raw"]
    assert asks["ncsa"]["lacking"]
    new = {**POLICY["policies"][0], "copies": [*POLICY["policies"][0]["copies"], {"at": "tape"}]}
    (home / "policies.yaml").write_text(yaml.safe_dump({"policies": [new]}))
    dry = run("policy", "check")
    assert [(e["endpoint"], e["copies"]) for e in dry["endpoints"] if e["copies"]] == [("tape", 1)]
    assert {x["target"] for x in run("transfers")} == {"ncsa"}
    assert run("policy", "apply", "--yes")["applied"] is True
    assert {x["target"] for x in run("transfers")} == {"ncsa", "tape"}
    assert run("policy", "show")[0]["copies"][2]["at"] == "tape"


def test_damage_is_found_by_scrub_repaired_and_the_exit_code_says_so(home, run, frame):
    work(home)
    assert [r["bad"] for r in run("scrub")] == [0, 0, 0]
    (home / "ncsa" / "raw/1/frame.fits").write_bytes(b"rotten")
    (found,) = run("scrub", "--endpoint", "ncsa", code=2)
    assert found["bad"] == 1
    assert [q["key"] for q in run("quarantine")] == ["raw/1/frame.fits"]
    assert [r["damaged"] for r in run("repair")] == [0, 1, 0]
    assert work(home) == 1
    assert [r["damaged"] for r in run("repair")] == [0, 0, 0]
    assert run("quarantine", "--discard") == {"discarded": 1}


def test_a_place_that_is_not_mounted_keeps_no_other_from_its_care(home, run, frame):
    work(home)
    (home / "base").rename(home / "elsewhere")
    (home / "base").mkdir()
    (home / "ncsa" / "raw/1/frame.fits").write_bytes(b"rotten")
    for command_ in ("scrub", "repair"):
        with pytest.raises(WrongPlace, match="Mount the disk"):
            run(command_)
    assert [q["key"] for q in run("quarantine")] == ["raw/1/frame.fits"]


def test_an_endpoint_and_the_catalog_are_recovered(home, run, frame):
    work(home)
    (home / "ncsa" / "raw/1/frame.fits").unlink()
    assert run("recover", "--endpoint", "ncsa")["lost"] == 1
    work(home)
    assert run("recover", "--endpoint", "ncsa", "--wait")["still_missing"] == 0
    for path in home.glob("backbone.sqlite3*"):
        path.unlink()
    assert run("recover", "--catalog")["replicas"] == {"base": 1, "ncsa": 1}
    with pytest.raises(PermanentError, match="say which"):
        run("recover")


def test_an_archive_shows_its_queue_and_works_it_off(home, run, frame):
    open_backbone(home).endpoint("tape").put("k", b"x")
    assert [x["key"] for x in run("archive", "--endpoint", "tape", "--recall", "k")] == ["k"]
    assert run("archive", "--endpoint", "tape", "--work") == []
    with pytest.raises(PermanentError, match="no archive"):
        run("archive", "--endpoint", "base")


def test_page_usage_and_tables_are_for_people_too(home, run, frame):
    out = CliRunner().invoke(command, ["page", str(home / "page.html"), "--home", str(home)], catch_exceptions=False)
    assert out.exit_code == 0
    assert "Data backbone" in (home / "page.html").read_text()
    assert run("usage")["places"][0]["replicas"] == {"AVAILABLE": 1}
    key = "raw/1/frame.fits"
    shown = [
        ["usage"],
        ["locate", key],
        ["replicas", key],
        ["transfers"],
        ["policy", "check", key],
        ["policy", "check"],
        ["history"],
    ]
    for arguments in (*shown, ["policy", "show"], ["repair"], ["quarantine"], ["scrub"], ["archive", "--endpoint", "tape"]):
        assert run(*arguments, as_json=False).strip()


def test_a_home_without_a_backbone_says_what_to_do(tmp_path, home, run):
    with pytest.raises(UnknownFile, match="usage"):
        run("locate", "nothing")
    (home / "pachon.yaml").write_text("{}")
    with pytest.raises(NoBackbone, match="no key `backbone:`"):
        run("usage")
    (home / "pachon.yaml").write_text("backbone: {endpoint: {}}")
    with pytest.raises(PermanentError, match="did you mean 'endpoints'"):
        run("usage")


def test_a_cache_keeps_what_a_night_needs_until_it_is_let_go(home, run, frame):
    folder = str(home / "cache")
    keep = ["--from", "base", "--keep", "raw/1/frame.fits", "--holder", "night"]
    used = run("cache", folder, "--max-gb", "1", *keep)
    assert (used["objects"], used["size_bytes"], used["pinned_objects"]) == (1, 600, 1)
    tight = ["--max-gb", "0.0000001"]
    assert run("cache", folder, *tight)["objects"] == 1, "it is pinned, whatever the bound"
    assert run("cache", folder, *tight, "--let-go", "night")["objects"] == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("get", "a/1", "/no/folder/out"), "/no/folder is no folder"),
        (("page", "/no/folder/page.html"), "/no/folder is no folder"),
        (("mover", "--once", "--link", "base:nsca"), "no link base:nsca; did you mean 'base:ncsa'"),
    ],
)
def test_mistakes_are_told_in_words(home, run, frame, argv, words):
    run("put", str(frame), "--at", "base", "--type", "raw", "--key", "a/1")
    with pytest.raises(PermanentError, match=words):
        run(*argv, as_json=False)
    assert [r["state"] for r in run("replicas", "a/1") if r["endpoint"] == "base"] == ["AVAILABLE"]


def test_a_word_that_yaml_reads_as_false_is_said_to_be_one(home, run):
    settings = home / "pachon.yaml"
    settings.write_text(settings.read_text().replace("off_site: vault", "off_site: off"))
    with pytest.raises(PermanentError, match="this is false: put it in quotes"):
        run("usage")

"""The commands, as people type them, with the database as transport."""

import json
import sqlite3
from contextlib import closing

import fastavro
import pytest
from click.testing import CliRunner

from deploy.cli import cli
from services.alerts.outbox import AlertOutbox
from services.telemetry.reports import DetectorQuality
from services.telemetry.telemetry import Telemetry


@pytest.fixture
def run(make_home):
    home = make_home()

    def call(*argv, ok=True):
        done = CliRunner().invoke(cli, [*argv, "--home", str(home)] if argv[-1] != "!" else argv[:-1])
        assert (done.exit_code == 0) is ok, done.output + repr(done.exception)
        return done.output if ok else str(done.exception)

    call.home = home
    return call


def test_alert_is_found_again_and_given_to_other_readers(run, packet, tmp_path):
    with AlertOutbox.open(run.home) as outbox:
        outbox.add(7, 3, [packet(n, obj=70) for n in (1, 2)])
    assert json.loads(run("alerts", "get", "2"))["cutoutScience"] == "5 bytes"
    run("alerts", "get", "2", "--avro", str(tmp_path / "one.avro"))
    with (tmp_path / "one.avro").open("rb") as stream:
        assert [a["diaSourceId"] for a in fastavro.reader(stream)] == [2]
    assert run("alerts", "visit", "7") == "3\t1\n3\t2\n"
    assert run("alerts", "object", "70") == "1\n2\n"
    assert "alert 9" in run("alerts", "get", "9", ok=False)
    assert json.loads(run("alerts", "schema", "!"))["name"] == "pachon.v1.alert"


def test_subscriber_is_made_replays_and_goes_on_where_it_was(run, packet, tmp_path):
    secret = str(run.home / "secrets" / "alerts-one")
    assert secret in run("alerts", "subscriber", "add", "one")
    replay = ("alerts", "replay", "--as", "one", "--secret", secret, "--into", str(tmp_path / "inbox"))
    for last in (3, 5):
        with AlertOutbox.open(run.home) as outbox:
            outbox.add(7, last, [packet(n) for n in range(1, last + 1)])
        assert f"{last} alerts" in run(*replay, "--until", str(last))
    with closing(sqlite3.connect(tmp_path / "inbox")) as inbox:
        assert inbox.execute("SELECT position, alert FROM received").fetchall() == [(n, n) for n in range(1, 6)]
    assert run("alerts", "status") == "alerts\t5 promised\t5 published\tone\n"
    run("alerts", "subscriber", "renew", "one")
    assert "one\talerts\tmade" in run("alerts", "subscriber", "list")
    run("alerts", "subscriber", "remove", "one")
    assert "no subscriber 'one'" in run("alerts", "subscriber", "remove", "one", ok=False)


def test_filter_is_checked_put_in_force_run_and_read_by_its_user(run, packet, tmp_path):
    assert "did you mean 'snr'" in run("filter", "check", "diaSource.snrr > 1", "!", ok=False)
    assert run("filter", "check", "diaSource.snr > 1", "!") == "can be used\n"
    run("filter", "add", "bright", "diaSource.snr > 2", "--user", "ana")
    run("filter", "add", "new", "--predefined", "new-source", "--user", "ana")
    with AlertOutbox.open(run.home) as outbox:
        outbox.add(7, 3, [packet(n, snr=float(n)) for n in range(1, 5)])
    run("filter", "run", "--until", "4")
    secret = str(run.home / "secrets" / "alerts-ana")
    assert "2 alerts" in run(
        "alerts", "replay", "--as", "ana", "--secret", secret, "--into", str(tmp_path / "ana"), "--until", "2"
    )
    listed = run("filter", "list", "--user", "ana")
    assert "bright\tdiaSource.snr > 2" in listed
    assert "visit 7\t2 sent\t0 more passed" in listed
    run("filter", "remove", "bright", "--user", "ana")
    assert "new-source" in run("filter", "predefined", "!")


def test_packets_damaged_in_the_archive_stop_neither_filters_nor_replay(run, packet, tmp_path):
    run("filter", "add", "bright", "diaSource.snr > 0", "--user", "ana")
    secret = str(run.home / "secrets" / "alerts-one")
    run("alerts", "subscriber", "add", "one")
    with AlertOutbox.open(run.home) as outbox:
        outbox.add(7, 3, [packet(n) for n in range(1, 4)])
        place = outbox.archive.find([2])[2]
        outbox.add(7, 4, [packet(n) for n in range(4, 7)])
        cut = outbox.archive.find([5])[5]
    for where, size in ((place, None), (cut, cut.start + 9)):
        (path,) = run.home.rglob(where.key.rsplit("/", 1)[-1])
        content = bytearray(path.read_bytes())
        content[where.start + 20 : where.start + 60] = b"\xff" * 40
        path.chmod(0o644)
        path.write_bytes(content[:size])
    run("filter", "run", "--until", "6")
    assert run("alerts", "status").splitlines()[0].endswith("filters, one\t3 damaged")
    listed = [line.split("\t") for line in run("alerts", "damaged").splitlines()]
    assert [line[:3] for line in listed] == [["alerts", n, n] for n in "256"]
    assert all("not Avro of" in line[4] for line in listed)
    assert "visit 7\t3 sent" in run("filter", "list", "--user", "ana")
    said = run("alerts", "replay", "--as", "one", "--secret", secret, "--into", str(tmp_path / "inbox"), "--until", "6")
    assert "3 alerts, the last at position 6" in said
    assert "3 packets are damaged (table `damaged`), the first at position 2" in said


def test_filter_is_tried_on_a_file_of_any_schema(run, packet, tmp_path):
    schema = fastavro.parse_schema({"type": "record", "name": "alert", "fields": [{"name": "mag", "type": "float"}]})
    with (tmp_path / "other.avro").open("wb") as stream:
        fastavro.writer(stream, schema, [{"mag": 17.0}, {"mag": 19.0}])
    assert run("filter", "check", "mag < 18", "--on", str(tmp_path / "other.avro"), "!") == "1 of 2 pass\n"


def test_what_the_ocs_is_told_can_be_read(run):
    with Telemetry.open(run.home) as telemetry:
        telemetry.send(DetectorQuality(instrument="cam", visit=7, detector=3, depth_mag=24.1))
    assert json.loads(run("telemetry", "read"))["values"]["depth_mag"] == 24.1
    assert run("telemetry", "status") == "1 reports, 0 sent; the OCS reads the database\n"


def test_a_name_that_is_another_subscribers_has_no_filters_and_the_filter_service_keeps_its_own(run):
    run("alerts", "subscriber", "add", "ana")
    for user, stream in (("ana", "alerts"), ("filters", "alerts")):
        said = run("filter", "add", "f", "diaSource.snr > 3", "--user", user, ok=False)
        assert f"{user} is a subscriber of {stream}" in said
    assert run("filter", "list") == ""
    run("filter", "run", "--until", "0")
    run("filter", "add", "f", "diaSource.snr > 3", "--user", "bo")
    run("filter", "add", "g", "diaSource.snr > 4", "--user", "bo")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("alerts", "subscriber", "add", "one", "--stream", "alrets"), "did you mean 'alerts'"),
        (("alerts", "replay", "--as", "one", "--secret", __file__, "--into", "/no/folder/inbox"), "/no/folder is no folder"),
        (("filter", "check", "diaSource.snr > 3", "--on", __file__, "!"), "not a whole Avro file"),
    ],
)
def test_mistakes_are_told_in_words(run, argv, words):
    assert words in run(*argv, ok=False)


def test_numbers_that_no_alert_can_have_are_refused_by_their_option(run):
    for argv in (("alerts", "visit", str(2**64)), ("alerts", "get", str(2**64)), ("telemetry", "read", "--limit", "-1")):
        run(*argv, ok=False)

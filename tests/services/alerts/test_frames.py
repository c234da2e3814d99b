"""A frame is told once, whichever way it was processed first, and nothing of what another brings is lost."""

import os
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from click.testing import CliRunner

from deploy.cli import cli
from services.alerts import tables as t
from services.alerts.archive import AlertUnknown
from services.alerts.book import AlertBook
from services.alerts.frames import alerts_of, withheld
from services.alerts.outbox import Added, AlertOutbox

NIGHT, BATCH, FIXED = "prompt/n1", "n1_late/package/0", "n1_late/package/1"
VISIT = 2026010100007


@pytest.fixture(params=["sqlite", "postgresql"])
def outbox(request, make_home):
    """An outbox in each kind of database."""
    url = request.getfixturevalue("fresh_database") if request.param == "postgresql" else None
    with AlertOutbox.open(make_home(alerts={"database": url} if url else {})) as made:
        yield made


def promised(outbox):
    return [row.alert for row in outbox.book.all(sa.select(t.outbox.c.alert).order_by(t.outbox.c.position))]


def held(outbox):
    return [(one.origin, one.told_by, alerts_of(outbox.book, one)) for one in withheld(outbox.book, "", 0, 2**62)]


@pytest.mark.parametrize(("first", "second"), [(NIGHT, BATCH), (BATCH, NIGHT), (BATCH, FIXED)])
def test_what_one_told_of_a_frame_nobody_tells_again_under_other_ids(outbox, packet, first, second):
    """The second found one source less: id 2 is another source now, and id 4 one that had another id."""
    assert outbox.add(VISIT, 1, [packet(n, snr=float(n)) for n in (1, 2, 3)], origin=first) == Added(3, 0, 1, 3)
    again = [packet(n, snr=10.0 * n) for n in (2, 4)]
    assert outbox.add(VISIT, 1, again, origin=second) == Added(0, 0, withheld=2, told_by=first)
    assert promised(outbox) == [1, 2, 3]
    assert held(outbox) == [(second, first, [2, 4])]
    assert outbox.archive.of_visit(VISIT) == [(1, 1), (1, 2), (1, 3)]
    assert outbox.archive.get(2)["diaSource"]["snr"] == 2.0
    assert outbox.archive.get(2, withheld_from=second)["diaSource"]["snr"] == 20.0
    with pytest.raises(AlertUnknown, match="alerts withheld"):
        outbox.archive.get(2, withheld_from=first)
    assert not list(outbox.archive.orphans([VISIT]))


def test_the_same_call_again_changes_nothing_on_either_side(outbox, packet):
    calls = [(NIGHT, [packet(1), packet(2)]), (BATCH, [packet(2, snr=3.0), packet(5)])]
    once = [outbox.add(VISIT, 1, packets, origin=origin) for origin, packets in calls]
    again = [outbox.add(VISIT, 1, packets, origin=origin) for origin, packets in calls]
    assert once == [Added(2, 0, 1, 2), Added(0, 0, withheld=2, told_by=NIGHT)]
    assert again == [Added(0, 2), once[1]]
    assert held(outbox) == [(BATCH, NIGHT, [2, 5])]
    assert outbox.book.all(sa.select(sa.func.count()).select_from(t.batch))[0][0] == 2


def test_a_worker_that_does_a_visit_anew_tells_no_source_under_a_second_id(outbox, packet):
    outbox.add(VISIT, 1, [packet(1), packet(2)], origin=NIGHT)
    assert outbox.add(VISIT, 1, [packet(1), packet(3)], origin=NIGHT) == Added(0, 1, withheld=1, told_by=NIGHT)
    assert promised(outbox) == [1, 2]


def test_other_detectors_and_visits_are_told_by_whoever_did_them(outbox, packet):
    outbox.add(VISIT, 1, [packet(1)], origin=NIGHT)
    assert outbox.add(VISIT, 2, [packet(11)], origin=BATCH).new == 1
    assert outbox.add(VISIT + 1, 1, [packet(21)], origin=BATCH).new == 1
    assert promised(outbox) == [1, 11, 21]


def test_another_camera_has_frames_of_its_own(outbox, packet):
    outbox.add(VISIT, 1, [packet(1)], origin=NIGHT, instrument="one")
    assert outbox.add(VISIT, 1, [packet(2)], origin="prompt/n2", instrument="two").new == 1
    assert outbox.add(VISIT, 1, [packet(3)], origin=BATCH, instrument="two") == Added(0, 0, withheld=1, told_by="prompt/n2")
    assert [len(withheld(outbox.book, name, VISIT, VISIT)) for name in ("one", "two")] == [0, 1]


def test_a_frame_of_which_there_was_nothing_to_tell_is_open_to_the_next(outbox, packet):
    assert outbox.add(VISIT, 1, [], origin=BATCH, dataset="d0") == Added(0, 0)
    assert outbox.collected(["d0", "d1"]) == {"d0": 0}
    assert outbox.add(VISIT, 1, [packet(1)], origin=FIXED, dataset="d1") == Added(1, 0, 1, 1)
    assert outbox.collected(["d0", "d1"]) == {"d0": 0, "d1": 1}


def test_the_same_bytes_from_another_are_no_other_packets(outbox, packet):
    outbox.add(VISIT, 1, [packet(1)], origin=NIGHT)
    assert outbox.add(VISIT, 1, [packet(1)], origin="prompt/n2") == Added(0, 1)
    assert held(outbox) == []
    for origin in (BATCH, FIXED):
        assert outbox.add(VISIT, 1, [packet(2)], origin=origin) == Added(0, 0, withheld=1, told_by=NIGHT)
    assert held(outbox) == [(BATCH, NIGHT, [2])]


def test_who_comes_between_a_look_and_the_transaction_is_seen(outbox, packet, monkeypatch):
    """Batch has looked, and archived its packets; then the worker, given up for lost, tells after all."""
    put = outbox.archive.put

    def overtaken(*what):
        monkeypatch.undo()
        outbox.add(VISIT, 1, [packet(1), packet(2)], origin=NIGHT)
        return put(*what)

    monkeypatch.setattr(outbox.archive, "put", overtaken)
    assert outbox.add(VISIT, 1, [packet(2, snr=9.0), packet(3)], origin=BATCH) == Added(0, 0, withheld=2, told_by=NIGHT)
    assert promised(outbox) == [1, 2]
    assert held(outbox) == [(BATCH, NIGHT, [2, 3])]


RACER = """
import sys
from services.alerts.outbox import AlertOutbox
home, origin, base = sys.argv[1], sys.argv[2], int(sys.argv[3])
TEMPLATE = {template!r}

def packet(n):
    return TEMPLATE | {{"diaSourceId": n, "diaSource": TEMPLATE["diaSource"] | {{"diaSourceId": n}}}}

with AlertOutbox.open(home) as outbox:
    for visit in range(1, 26):
        outbox.add(visit, 1, [packet(base + 3 * visit + k) for k in range(3)], origin=origin, dataset=f"{{origin}}{{visit}}")
        print(visit, flush=True)
"""


@pytest.mark.kill
def test_killed_on_both_ways_each_frame_is_told_whole_by_one_and_held_whole_from_the_other(make_home, packet, tmp_path):
    home, script = make_home(), tmp_path / "racer.py"
    script.write_text(RACER.format(template=packet(0)))
    for life in range(2):
        racers = [
            subprocess.Popen([sys.executable, script, home, origin, base], stdout=subprocess.PIPE, text=True)
            for origin, base in ((NIGHT, "1000"), (BATCH, "2000"))
        ]
        for racer in racers:
            for line in racer.stdout:
                if not life and int(line) >= 8:
                    os.kill(racer.pid, signal.SIGKILL)
                    break
            racer.wait()
            racer.stdout.close()
    with AlertOutbox.open(home) as outbox:
        told, of = promised(outbox), {NIGHT: 1000, BATCH: 2000}
        calls = {one.visit: one for one in withheld(outbox.book, "", 0, 2**62)}
        assert sorted(calls) == list(range(1, 26))
        for visit, call in calls.items():
            mine, others = ([of[o] + 3 * visit + k for k in range(3)] for o in (call.told_by, call.origin))
            assert {call.origin, call.told_by} == {NIGHT, BATCH}
            assert [alert for alert in told if alert in mine] == mine
            assert alerts_of(outbox.book, call) == others
        assert len(told) == len(set(told)) == 3 * 25
        counts = outbox.collected(f"{origin}{visit}" for origin in of for visit in calls)
        assert sorted(counts.values()) == [0] * 25 + [3] * 25


def test_frames_told_before_the_tables_knew_frames_are_told(make_home, packet):
    """Nobody had said who told them: what they told is known whoever brings it, the rest is withheld."""
    home = make_home()
    with AlertOutbox.open(home) as outbox:
        outbox.add(VISIT, 1, [packet(1)])
        url = outbox.book._engine.url
    config = Config()
    config.set_main_option("script_location", str(AlertBook.migrations))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    engine.dispose()
    with AlertOutbox.open(home) as outbox:
        assert outbox.add(VISIT, 1, [packet(1, snr=3.0), packet(2)], origin=BATCH) == Added(0, 1, withheld=1)
        assert promised(outbox) == [1]


def test_withheld_alerts_are_listed_with_who_told_instead_and_printed(make_home, packet):
    home = make_home()
    with AlertOutbox.open(home) as outbox:
        outbox.add(VISIT, 1, [packet(1)], origin=NIGHT)
        outbox.add(VISIT, 1, [packet(2, snr=7.0)], origin=BATCH)

    def run(*words):
        return CliRunner().invoke(cli, ["alerts", *words, "--home", str(home)]).output

    def listed(day):
        return run("withheld", "--instrument", "SimCam", "--day-obs", day)

    assert listed("20260101").startswith(f"{VISIT}\t1\t2\t{BATCH}\ttold by {NIGHT} at 20")
    assert listed("20260102") == ""
    assert '"snr": 7.0' in run("get", "2", "--of", BATCH)

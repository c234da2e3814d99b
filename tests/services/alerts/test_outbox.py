"""The way in for alerts: once each, all or nothing, found again."""

import io
import os
import signal
import subprocess
import sys
import threading

import fastavro
import pytest
import sqlalchemy as sa

from services.alerts import tables as t
from services.alerts.archive import AlertArchive, AlertUnknown
from services.alerts.book import AlertBook
from services.alerts.outbox import Added, AlertOutbox
from services.alerts.packets import MAX_PACKET_BYTES, PacketRefused
from services.alerts.settings import AlertSettings


@pytest.fixture(params=["sqlite", "postgresql"])
def outbox(request, make_home):
    """An outbox in each kind of database."""
    url = request.getfixturevalue("fresh_database") if request.param == "postgresql" else None
    with AlertOutbox.open(make_home(alerts={"database": url} if url else {})) as made:
        yield made


def rows(outbox, table):
    return outbox.book.all(sa.select(table))


def test_alerts_are_archived_promised_in_order_and_found_again_by_id(outbox, packet):
    assert outbox.add(7, 1, [packet(n, obj=70 + n, snr=float(n)) for n in (3, 1, 2)]) == Added(3, 0, 1, 3)
    assert [(r.position, r.alert) for r in rows(outbox, t.outbox)] == [(1, 3), (2, 1), (3, 2)]
    assert outbox.archive.get(2)["diaSource"]["snr"] == 2.0
    assert outbox.archive.get(3)["cutoutScience"] == b"stamp"
    assert outbox.archive.of_visit(7) == [(1, 1), (1, 2), (1, 3)]
    assert outbox.archive.of_object(72) == [2]
    with pytest.raises(AlertUnknown, match="alert 9"):
        outbox.archive.get(9)


def test_alert_given_again_in_whatever_company_changes_nothing(outbox, packet):
    outbox.add(7, 1, [packet(1, snr=1.0), packet(2)])
    assert outbox.add(7, 1, [packet(1, snr=99.0), packet(2)]) == Added(0, 2)
    assert outbox.add(8, 1, [packet(2), packet(3)]) == Added(1, 1, 3, 3)
    assert outbox.archive.get(1)["diaSource"]["snr"] == 1.0
    assert sorted(r.alert for r in rows(outbox, t.outbox)) == [1, 2, 3]
    assert outbox.known([1, 3, 4]) == {1, 3}


def test_many_workers_at_once_leave_no_gap_and_no_double(outbox, packet):
    """Eight workers bring alerts of their own and some of everybody's."""

    def work(worker):
        for call in range(5):
            outbox.add(call, worker, [packet(1000 * worker + call), packet(90_000 + call)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = rows(outbox, t.outbox)
    assert sorted(r.position for r in found) == list(range(1, 46))
    assert len({r.alert for r in found}) == 45
    assert all(outbox.archive.get(r.alert)["diaSourceId"] == r.alert for r in found)
    assert outbox.published() == 45


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"diaSourceId": "seven"}, "diaSourceId"),
        ({"diaSource": None}, "diaSource"),
        ({"diaSourceId": 8}, "its own source"),
        ({"cutoutScience": b"x" * MAX_PACKET_BYTES}, "at most"),
        ({"prvDiaSources": [{"ra": 1.0}]}, "prvDiaSources"),
    ],
)
def test_what_is_no_packet_is_refused_with_its_reason_and_nothing_of_the_call_happens(make_home, packet, wrong, reason):
    with AlertOutbox.open(make_home()) as outbox:
        with pytest.raises(PacketRefused, match=reason):
            outbox.add(7, 1, [packet(1), packet(2) | wrong])
        assert outbox.known([1, 2]) == set()
        assert not list(outbox.archive._endpoint.list(""))


def test_one_alert_twice_in_a_call_is_refused(make_home, packet):
    with AlertOutbox.open(make_home()) as outbox, pytest.raises(PacketRefused, match="each alert once"):
        outbox.add(7, 1, [packet(1), packet(1)])


def test_archive_is_an_avro_file_for_anybody(make_home, packet):
    with AlertOutbox.open(make_home()) as outbox:
        outbox.add(7, 1, [packet(n) for n in (-5, 2**62)])
        (key,) = outbox.archive._endpoint.list("")
        assert [a["diaSourceId"] for a in fastavro.reader(io.BytesIO(outbox.archive._endpoint.get(key)))] == [-5, 2**62]
        assert outbox.archive.get(-5)["diaSourceId"] == -5


def test_call_without_alerts_leaves_nothing(make_home):
    with AlertOutbox.open(make_home()) as outbox:
        assert outbox.add(7, 1, []) == Added(0, 0)
        assert not list(outbox.archive._endpoint.list(""))


def test_orphan_of_a_call_that_broke_off_is_named(make_home, packet):
    with AlertOutbox.open(make_home()) as outbox:
        outbox.add(7, 1, [packet(1)])
        outbox.archive._endpoint.put("alerts/7/001/lost.avro", b"")
        assert list(outbox.archive.orphans([7, 8])) == ["alerts/7/001/lost.avro"]


def test_with_a_backbone_the_catalog_knows_every_object(make_home, packet, tmp_path):
    home = make_home(alerts={"archive": "store"})
    settings = home / "pachon.yaml"
    settings.write_text(settings.read_text() + f"backbone: {{endpoints: {{store: {{uri: {tmp_path / 'store'}}}}}}}\n")
    with AlertOutbox.open(home) as outbox:
        outbox.add(7, 1, [packet(1)])
        (key,) = outbox.archive._endpoint.list("alerts/")
        assert outbox.archive._backbone.present([key], "store") == {key}
        assert outbox.archive.get(1)["diaSourceId"] == 1


WORKER = """
import sys
from services.alerts.outbox import AlertOutbox
home, base = sys.argv[1], int(sys.argv[2])
TEMPLATE = {template!r}

def packet(n):
    return TEMPLATE | {{"diaSourceId": n, "diaSource": TEMPLATE["diaSource"] | {{"diaSourceId": n}}}}

with AlertOutbox.open(home) as outbox:
    for call in range(10_000):
        outbox.add(base + call, 1, [packet(base + 3 * call + k) for k in range(3)])
        print(call, flush=True)
"""


@pytest.mark.kill
def test_killed_worker_leaves_each_call_whole_or_nothing(make_home, packet, tmp_path):
    """Killed in the middle of a call, again and again; what it was told is there, the rest is there whole or not at all."""
    home = make_home()
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(template=packet(0)))
    told = {}
    for life in range(3):
        base = 1_000_000 * (life + 1)
        with subprocess.Popen([sys.executable, str(script), str(home), str(base)], stdout=subprocess.PIPE, text=True) as worker:
            for line in worker.stdout:
                told[base] = int(line)
                if int(line) == 5 + life:
                    os.kill(worker.pid, signal.SIGKILL)
                    break
    with AlertOutbox.open(home) as outbox:
        found = rows(outbox, t.outbox)
        assert [r.position for r in sorted(found, key=lambda r: r.position)] == list(range(1, len(found) + 1))
        there = {r.alert for r in found}
        for base, last in told.items():
            calls = [[base + 3 * call + k for k in range(3)] for call in range(last + 3)]
            assert all(set(call) <= there for call in calls[: last + 1])
            assert all(set(call) <= there or not set(call) & there for call in calls)
        assert all(outbox.archive.get(alert)["diaSourceId"] == alert for alert in there)


def test_tables_are_those_of_the_migrations(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    book = AlertBook.open(f"sqlite:///{tmp_path}/book.sqlite3")
    with book.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "al_version"})
        assert compare_metadata(context, t.metadata) == []
    AlertArchive.open(book, AlertSettings(), tmp_path).close()

"""Real S3 servers, PostgreSQL and movers: nothing acknowledged is lost under kills; a place and the catalog are recovered.

`make soak-backbone` runs the same for as long as one likes.
"""

import time

import pytest

from backbone.recover import recover_catalog, recover_endpoint
from deploy.soak import run
from deploy.soak.killer import Killer
from deploy.soak.record import Record
from deploy.soak.rounds import Round, SoakFailed
from deploy.soak.stand import PLACES, Stand, can_be_real

pytestmark = [pytest.mark.slow, pytest.mark.kill, pytest.mark.timeout(600)]
OBJECTS = 60


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    if not can_be_real():
        pytest.skip("no S3 server or no PostgreSQL is installed here")
    stand = Stand(tmp_path_factory.mktemp("soak") / "home")
    try:
        yield stand
    finally:
        stand.down()


@pytest.fixture
def backbone(stand):
    found = stand.up()
    yield found
    found.close()


def soaked(backbone, seed, **more):
    return Round(backbone, seed=seed, first=0, count=OBJECTS, damage=0.05, say=print, **more)


def test_nothing_acknowledged_is_lost_while_each_kind_of_process_is_killed(stand, backbone):
    with Killer(stand, every_s=(0.2, 1.0), seed=7, most=3) as killer:
        report = soaked(backbone, 1, check=killer.check).run()
        for kind in stand.victims():
            if not killer.kills[kind]:
                killer.strike(kind)
    assert (report.objects, report.lost, report.damaged, report.repaired) == (OBJECTS, 0, 3, 3)
    assert set(killer.kills) == {"server", "mover", "database"}


def test_a_lost_server_and_then_the_lost_catalog_are_recovered(stand, backbone, record_property):
    one = soaked(backbone, 2)
    one.run()
    stand.lose_place("ncsa")
    begun = time.monotonic()
    report = recover_endpoint(backbone, "ncsa", actor="tester")
    one._settled()
    record_property("endpoint_back_s", time.monotonic() - begun)
    assert report.lost >= OBJECTS
    assert one._read_back() == 0
    before = contents(backbone)
    assert {len(places) for places in before.values()} == {len(PLACES)}

    backbone.close()
    stand.lose_catalog()
    again = stand.open()
    assert contents(again) == {}
    recovered = recover_catalog(again, actor="tester")
    record_property("catalog_back_s", recovered.took_s)
    assert (recovered.unknown, recovered.conflicts) == (0, 0)
    assert contents(again) == before
    again.close()


def contents(backbone):
    """Checksum and places of every file."""
    with backbone.catalog.read() as connection:
        keys = [row[0] for row in connection.exec_driver_sql("SELECT key FROM bb_file")]
    return {key: {(r.endpoint, r.sha256) for r in replicas} for key, replicas in backbone.locate(keys).items()}


def test_counts_of_runs_add_up_and_a_loss_is_the_end(tmp_path, monkeypatch):
    lines = []
    quick = {"real": False, "movers": 1, "kill_every_s": (600, 601), "say": lines.append}
    Record(objects=10, damaged=1, repaired=1, rounds=1, kills={"mover": 2}).write(tmp_path / "soak.json")
    record = run.soak(tmp_path, objects=8, per_round=4, **quick)
    assert (record.objects, record.lost, record.damaged, record.repaired, record.rounds) == (18, 0, 7, 7, 3)
    assert record == Record.load(tmp_path / "soak.json")
    assert (record.loss_bound, record.kills) == (3 / 18, {"mover": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["soak.json"]

    monkeypatch.setattr(Round, "_read_back", lambda self: 1)
    with pytest.raises(SoakFailed, match="1 objects lost"):
        run.soak(tmp_path, objects=4, **quick)
    assert Record.load(tmp_path / "soak.json").lost == 1
    assert Record.load(tmp_path / "soak.json").loss_bound is None

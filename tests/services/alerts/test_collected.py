"""Alerts of batch productions: from datasets of the repository to subscribers, each once, each dataset read once."""

import json
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from lsst.daf.butler import CollectionType, DatasetType

from deploy.cli import cli
from payloads.alerts import write_alerts
from payloads.camera import Camera
from payloads.instrument import register_camera
from payloads.repository import init_repository, open_repository
from services.alerts import collected, tables
from services.alerts.collected import Collected, WithheldOf, collect
from services.alerts.outbox import AlertOutbox

CAMERA, DAY = "lowell42", 20260101
FIRST, HOTFIX = "nightly_1/package/0", "nightly_1/package/1"
VISITS = [DAY * 100_000 + n for n in (1, 2)]


TYPE, DIMENSIONS = "alerts", ("instrument", "visit", "detector")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Knows a camera and two visits, and has no alerts; it names no absolute path, so that a copy will do."""
    root = tmp_path_factory.mktemp("collected") / "repo"
    camera = Camera.load(CAMERA)
    with init_repository(root) as butler:
        register_camera(butler, camera)
        insert = butler.registry.insertDimensionData
        insert("day_obs", {"instrument": CAMERA, "id": DAY})
        for n in VISITS:
            name = camera.filters[0].name
            insert("visit", {"instrument": CAMERA, "id": n, "name": str(n), "physical_filter": name, "day_obs": DAY})
    return root


class Batch:
    """Alerts in a home, as campaigns make them."""

    def __init__(self, home, packet):
        self.home, self.packet = home, packet
        self.butler = open_repository(home / "repo", writeable=True)
        self.butler.registry.registerDatasetType(DatasetType(TYPE, DIMENSIONS, "AlertPackets", universe=self.butler.dimensions))
        self.butler.collections.register(f"{CAMERA}/prompt", CollectionType.CHAINED)

    def made(self, run, visit, ids, **source):
        """`run` is in front from now on."""
        self.butler.collections.register(run, CollectionType.RUN)
        content = write_alerts([self.packet(n, visit=visit, **source) for n in ids])
        self.butler.put(content, TYPE, instrument=CAMERA, visit=visit, detector=0, run=run)
        self.butler.collections.prepend_chain(f"{CAMERA}/prompt", run)

    def collect(self):
        return collect(self.home, CAMERA, DAY)

    def promised(self):
        with AlertOutbox.open(self.home) as outbox:
            return [row.alert for row in outbox.book.all(sa.select(tables.outbox).order_by(tables.outbox.c.position))]


@pytest.fixture
def batch(make_home, repository, packet):
    home = make_home()
    shutil.copytree(repository, home / "repo")
    made = Batch(home, packet)
    yield made
    made.butler.close()


@pytest.fixture
def reads(monkeypatch):
    """Counts the packets that are read."""
    counted = []

    def read(content):
        found = read_alerts(content)
        counted.append(len(found))
        return found

    read_alerts = collected.read_alerts
    monkeypatch.setattr(collected, "read_alerts", read)
    return counted


def test_each_dataset_is_read_once_and_what_it_told_is_still_counted(batch, reads):
    batch.made(FIRST, VISITS[0], [1, 2])
    assert batch.collect() == Collected(frames=1, read=1, new=2, known=0, withheld=())
    batch.made(FIRST, VISITS[1], [])
    assert batch.collect() == Collected(frames=2, read=1, new=0, known=2, withheld=())
    assert batch.collect() == Collected(frames=2, read=0, new=0, known=2, withheld=())
    assert reads == [2, 0]


@pytest.mark.parametrize("damage", ["cut", "no Avro"])
def test_damaged_dataset_is_left_out_and_the_others_are_told(batch, damage):
    for visit, ids in zip(VISITS[:2], ([1, 2], [3, 4]), strict=True):
        batch.made(FIRST, visit, ids)
    (ref,) = batch.butler.query_datasets(TYPE, FIRST, where=f"visit = {VISITS[0]}", instrument=CAMERA)
    path, whole = Path(batch.butler.getURI(ref).ospath), batch.butler.get(ref)
    at = len(whole) - 60  # inside the packets
    path.write_bytes(whole[:at] if damage == "cut" else whole[:at] + b"\xff" * 30 + whole[at + 30 :])
    found = batch.collect()
    assert (found.frames, found.read, found.new) == (2, 1, 2)
    assert len(found.damaged) == 1
    assert f"visit {VISITS[0]} detector 0 of {FIRST}" in found.damaged[0]
    assert batch.promised() == [3, 4]
    path.write_bytes(whole)
    assert batch.collect() == Collected(frames=2, read=1, new=2, known=2, withheld=())
    assert batch.promised() == [3, 4, 1, 2]


def test_dataset_of_packets_that_no_subscriber_could_use_is_left_out(batch):
    batch.made(FIRST, VISITS[0], [1, 2])
    wrong = write_alerts([batch.packet(3) | {"diaSourceId": 9}])
    batch.butler.put(wrong, TYPE, instrument=CAMERA, visit=VISITS[1], detector=0, run=FIRST)
    found = batch.collect()
    assert (found.read, found.new, len(found.damaged)) == (1, 2, 1)
    assert "alert 9: diaSource.diaSourceId is 3" in found.damaged[0]


def test_what_prompt_workers_told_batch_does_not_tell_again(batch, packet):
    """Their part failed when its alerts were out: batch has done it again, with one source less in front of the others."""
    with AlertOutbox.open(batch.home) as outbox:
        outbox.add(VISITS[0], 0, [packet(n, visit=VISITS[0]) for n in (1, 2, 3)], origin="prompt/n1", instrument=CAMERA)
    batch.made("n1_late/package/0", VISITS[0], [1, 2, 4])
    batch.made("n1_late/package/0", VISITS[1], [11])
    found = [batch.collect() for _ in range(2)]
    held = (WithheldOf(origin="n1_late/package/0", told_by="prompt/n1", frames=1, alerts=3),)
    assert found[0] == Collected(frames=2, read=2, new=1, known=0, withheld=held)
    assert found[1] == Collected(frames=2, read=0, new=0, known=1, withheld=held)
    assert batch.promised() == [1, 2, 3, 11]


def test_a_night_done_again_after_a_hot_fix_tells_what_it_had_not(batch):
    """The second generation of the package step: visit 1 had been told, visit 2 had failed."""
    batch.made(FIRST, VISITS[0], [1, 2])
    batch.collect()
    batch.made(HOTFIX, VISITS[0], [1, 2, 3])
    batch.made(HOTFIX, VISITS[1], [11])
    assert batch.collect().withheld == (WithheldOf(origin=HOTFIX, told_by=FIRST, frames=1, alerts=3),)
    assert batch.promised() == [1, 2, 11]


def test_a_night_done_again_before_it_was_collected_is_told_as_it_is_now(batch):
    batch.made(FIRST, VISITS[0], [1, 2])
    batch.made(HOTFIX, VISITS[0], [1, 3])
    assert batch.collect() == Collected(frames=1, read=1, new=2, known=0, withheld=())
    assert batch.promised() == [1, 3]


def test_the_command_says_what_is_withheld_and_why(batch, packet):
    with AlertOutbox.open(batch.home) as outbox:
        outbox.add(VISITS[0], 0, [packet(1)], origin="prompt/n1", instrument=CAMERA)
    batch.made("n1_late/package/0", VISITS[0], [2, 3])

    def run(*more):
        words = ("alerts", "collect", "--instrument", CAMERA, "--day-obs", str(DAY), "--home", str(batch.home), *more)
        return CliRunner().invoke(cli, words).output

    said = (
        "2 alerts of 1 frames of n1_late/package/0 are withheld: prompt/n1 told these frames; `pachon alerts withheld` lists them"
    )
    assert said in run()
    assert json.loads(run("--json"))["withheld"][0]["told_by"] == "prompt/n1"


def test_a_day_without_alerts_has_none(batch):
    assert batch.collect() == Collected(frames=0, read=0, new=0, known=0, withheld=())

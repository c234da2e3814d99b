import pytest

from backbone.database import Database
from backbone.qc import Metric, Quality
from backbone.qc.certifications import Certification, Certifications, Product, ProductState
from operators import door
from workflow.settings import Settings


@pytest.fixture
def home(tmp_path):
    Settings(home=tmp_path).write()
    return str(tmp_path)


def command(**changes):
    told = {"command": "ocs-7", "run": "nightly/r1", "campaign": "n1", "actor": "airflow", "payload": {"day_obs": 20260101}}
    return door.Command(**(told | changes))


def test_command_given_twice_is_written_once(home):
    assert door.record(home, command()) == door.record(home, command(actor="airflow again")) == command()


def test_second_campaign_of_a_run_keeps_the_first_entry(home):
    door.record(home, command())
    assert door.record(home, command(campaign="n2")).campaign == "n1"


@pytest.mark.parametrize("other", [{"run": "nightly/r2"}, {"payload": {"day_obs": 20260102}}])
def test_command_id_used_for_something_else_is_refused(home, other):
    door.record(home, command())
    with pytest.raises(door.CommandConflict, match=r"ocs-7 was already given, as run nightly/r1"):
        door.record(home, command(**other))


def test_summary_of_a_command_is_its_campaign_step_by_step_and_what_became_of_its_products(home):
    from workflow.campaigns import Campaigns

    step = {"name": "frames", "pipeline": "resource://payloads/pipelines/frames.yaml"}
    Campaigns.open(home).start({"production": "p", "kind": "cpp", "steps": [step]}, name="n1", actor="test")
    product = Product(dataset="id1", dataset_type="bias", data_id={"detector": 1}, run="r", state=ProductState.REFUSED, why="lit")
    certification = Certification(collection="X/calib/n1/v", chain="X/calib", campaign="n1", begin="2026-01-01", digest="d")
    Certifications.open(home).write(certification, [product])
    metric = Metric(name="bias_verified", value=0, instrument="X", day_obs=20260101, source="n1", subject={"detector": 1})
    Quality.open(home).record([metric], actor="n1")
    door.record(home, command())
    found = door.summary(home, "ocs-7")
    assert (found["run"], found["campaign"], found["state"]) == ("nightly/r1", "n1", "READY")
    assert [s["name"] for s in found["steps"]] == ["frames"]
    assert [(p["state"], p["why"]) for p in found["products"]] == [("REFUSED", "lit")]
    assert [a["subject"] for a in found["alarms"]] == [{"detector": "1"}]
    with pytest.raises(LookupError, match="no command 'ocs-8'"):
        door.summary(home, "ocs-8")


def test_summaries_open_the_books_once_however_often_they_are_asked_for(home, monkeypatch):
    door.record(home, command())
    opened, upgrade = [], Database.upgrade
    monkeypatch.setattr(Database, "upgrade", lambda database: opened.append(upgrade(database)))
    for _ in range(3):
        with pytest.raises(LookupError, match="no campaign 'n1'"):
            door.summary(home, "ocs-7")
    assert len(opened) == 3, "one for each of the books"

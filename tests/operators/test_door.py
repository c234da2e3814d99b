import pytest

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

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from deploy import cli_stack
from deploy.processes import ProcessDied, Program
from deploy.stack import Stack, StackNotReady, _healthy

BEAT = datetime(2026, 3, 5, 12, tzinfo=UTC)
HEALTH = {
    "metadatabase": {"status": "healthy"},
    "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": BEAT.isoformat()},
    "triggerer": {"status": "unhealthy", "latest_triggerer_heartbeat": BEAT.isoformat()},
    "dag_processor": {"status": None, "latest_dag_processor_heartbeat": None},
}


def test_heartbeat_of_an_earlier_life_is_not_health():
    assert _healthy("airflow-scheduler", HEALTH, since=BEAT.timestamp() - 1)
    assert _healthy("airflow-scheduler", HEALTH, since=BEAT.timestamp() + 1) is False


@pytest.mark.parametrize(
    ("name", "expected"), [("airflow-triggerer", False), ("airflow-dag-processor", False), ("airflow-api-server", True)]
)
def test_component_is_as_the_page_says(name, expected):
    assert _healthy(name, HEALTH) is expected


def test_what_cannot_be_read_is_unknown_not_down():
    assert _healthy("airflow-scheduler", None) is None
    assert _healthy("engine", HEALTH) is None


def stack(home, **kwargs):
    return Stack(home, home / "dags", "sqlite", with_engine=False, **kwargs)


def test_component_that_dies_at_the_start_is_reported_with_its_log(tmp_path):
    dying = Program("airflow-scheduler", ("/bin/sh", "-c", "echo database is locked; exit 1"), {}, tmp_path)
    dying.start()
    while dying.leader() is not None:
        pass
    with pytest.raises(ProcessDied, match=r"airflow-scheduler is not running.*\n.*database is locked"):
        stack(tmp_path)._wait([dying], print)


def test_component_that_never_gets_healthy_is_named_with_its_log(tmp_path):
    times = iter(range(0, 10**6, 100))
    silent = Program("airflow-scheduler", ("/bin/sh", "-c", "echo waiting for migrations; sleep 60"), {}, tmp_path)
    silent.start()
    try:
        with pytest.raises(StackNotReady, match=r"airflow-scheduler\n(.*\n)*.*waiting for migrations"):
            stack(tmp_path, clock=lambda: next(times), sleep=lambda _: None)._wait([silent], print)
    finally:
        silent.stop(grace_s=1)


def test_server_that_dies_while_programs_start_is_named_and_not_waited_for(tmp_path, monkeypatch):
    class Dead:
        name = "postgres"

        def running(self):
            return False

    monkeypatch.setattr(Stack, "servers", lambda self: [Dead()])
    silent = Program("airflow-scheduler", ("/bin/sleep", "60"), {}, tmp_path)
    silent.start()
    try:
        with pytest.raises(ProcessDied, match="postgres ended while the programs were starting"):
            stack(tmp_path)._wait([silent], print)
    finally:
        silent.stop(grace_s=1)


def test_stack_that_was_never_started_is_all_down(tmp_path):
    assert {s.healthy for s in stack(tmp_path).status()} == {False}
    assert stack(tmp_path).down() == 0


def test_status_command_says_what_is_down(tmp_path):
    done = CliRunner().invoke(cli_stack.status, ["--home", str(tmp_path)])
    assert done.exit_code == 1
    assert "airflow-scheduler" in done.output
    assert "DOWN" in done.output

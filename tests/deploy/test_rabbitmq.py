"""The broker's own files; a real one runs in tests/integration/test_celery.py."""

import base64
import hashlib
import stat

import pytest

from deploy import rabbitmq
from deploy.airflow import AirflowSettings, AirflowUnusable
from deploy.keys import secret
from deploy.rabbitmq import BrokerPrograms, RabbitServer, definitions, speaks_amqp
from deploy.servers import servers
from deploy.stack import Stack
from workflow.settings import SchedulerSettings, Settings


def test_one_user_with_the_homes_password_and_no_rights_of_administration():
    made = definitions("pass word")
    (user,) = made["users"]
    raw = base64.b64decode(user["password_hash"])
    assert raw[4:] == hashlib.sha256(raw[:4] + b"pass word").digest()
    assert (user["name"], user["tags"]) == ("pachon", "")
    assert [v["name"] for v in made["vhosts"]] == [made["permissions"][0]["vhost"]] == ["airflow"]


@pytest.fixture
def made(tmp_path):
    erlang = tmp_path / "erlang"
    (erlang / "erts-1" / "bin").mkdir(parents=True)
    server = RabbitServer(tmp_path / "home")
    found = BrokerPrograms(tmp_path / "rabbitmq-server", erlang)
    server.folder.parent.mkdir(parents=True)
    server._make(found, 12345)
    return server, found


def test_everything_listens_on_loopback(made):
    server, found = made
    assert "listeners.tcp.1 = 127.0.0.1:12345" in (server.folder / "rabbitmq.conf").read_text()
    environment = server._environment(found)
    assert environment["ERL_EPMD_ADDRESS"] == "127.0.0.1"
    assert "inet_dist_use_interface {127,0,0,1}" in environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]


def test_secrets_are_read_by_their_owner_alone_and_are_in_no_environment(made):
    server, found = made
    for name in (".erlang.cookie", "definitions.json"):
        assert stat.S_IMODE((server.folder / name).stat().st_mode) & 0o077 == 0
    for name in ("rabbitmq", "erlang-cookie"):
        assert secret(server.home, name) not in str(server._environment(found))
    server._make(found, 12345)  # again: what cannot be written to is replaced


def test_port_where_nobody_listens_does_not_speak_amqp():
    assert not speaks_amqp(1)


def test_system_programs_are_those_that_are_there_both(monkeypatch, tmp_path):
    monkeypatch.setattr(rabbitmq, "Path", lambda path: tmp_path / str(path).lstrip("/"))
    assert rabbitmq.system_programs() is None
    for version in ("4.0.5", "3.9.1"):
        (tmp_path / f"usr/lib/rabbitmq/lib/rabbitmq_server-{version}/sbin").mkdir(parents=True)
        (tmp_path / f"usr/lib/rabbitmq/lib/rabbitmq_server-{version}/sbin/rabbitmq-server").touch()
    assert rabbitmq.system_programs() is None
    (tmp_path / "usr/lib/erlang").mkdir()
    assert "4.0.5" in str(rabbitmq.system_programs().server)


def test_home_that_says_nothing_has_no_broker_and_no_workers(tmp_path):
    Settings(home=tmp_path).write()
    names = {program.name for program in Stack(tmp_path, tmp_path, "sqlite").programs({})}
    assert not any(name.startswith("celery") for name in names)
    assert "rabbitmq" not in {server.name for server in servers(tmp_path, with_postgres=True)}


def test_home_that_says_celery_has_its_workers_broker_and_postgres(tmp_path):
    Settings(home=tmp_path, airflow=SchedulerSettings(executor="celery", workers=3)).write()
    stack = Stack(tmp_path, tmp_path)
    assert {p.name for p in stack.programs({})} >= {"celery-1", "celery-2", "celery-3"}
    assert {"postgres", "rabbitmq"} <= {server.name for server in stack.servers()}


def test_workers_share_the_tasks_that_may_run_at_once_and_serve_no_logs(tmp_path):
    workers = [argv for name, argv in AirflowSettings(tmp_path, tmp_path, workers=2).components().items() if "celery" in name]
    assert [argv[argv.index("--concurrency") + 1] for argv in workers] == ["4", "4"]
    assert all("--skip-serve-logs" in argv for argv in workers)
    assert len({argv[argv.index("--pid") + 1] for argv in workers}) == 2


def test_environment_of_celery_names_broker_and_results_with_their_passwords(tmp_path):
    made = AirflowSettings(tmp_path, tmp_path, workers=2).environment({})
    assert made["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert made["AIRFLOW__CELERY__BROKER_URL"] == RabbitServer(tmp_path).url
    assert made["AIRFLOW__CELERY__RESULT_BACKEND"].startswith("db+postgresql+psycopg2://pachon:")
    assert "AIRFLOW__CELERY__BROKER_URL" not in AirflowSettings(tmp_path, tmp_path, "sqlite").environment({})


def test_celery_without_postgresql_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(AirflowUnusable, match="local executor"):
        AirflowSettings(tmp_path, tmp_path, "sqlite", workers=2).environment({})

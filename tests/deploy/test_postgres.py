import os
from pathlib import Path

import psycopg2
import pytest

from deploy import postgres
from deploy.debian import MirrorSilent, NoDebianMirror
from deploy.postgres import BUNDLE, DatabaseServerFailed, PostgresServer


@pytest.fixture
def server(postgresql_programs, tmp_path):
    made = PostgresServer(tmp_path)
    yield made
    made.down()


def test_server_keeps_its_data_over_a_restart_and_lets_nobody_in_without_password(server):
    server.up()
    server.up()
    url = server.database("books")
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
    connection.close()
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(url.replace(url.split(":")[2].split("@")[0], "wrong"))
    assert server.down()
    assert not server.running()
    assert not server.down()
    server.up()
    with psycopg2.connect(server.database("books")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT n FROM t")
        assert cursor.fetchall() == [(7,)]
    connection.close()


def test_server_that_cannot_start_says_what_its_log_says(server):
    server.up()
    server.down()
    (server.data / "postgresql.conf").write_text("nonsense = 1\n")
    with pytest.raises(DatabaseServerFailed, match="nonsense"):
        server.up()


@pytest.mark.kill
def test_server_that_was_killed_under_its_clients_is_started_again_with_all_that_was_committed(server):
    server.up()
    client = psycopg2.connect(server.database("books"))
    client.cursor().execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
    client.commit()
    url = server.url("books")
    server.leader.kill()
    while server.running():
        pass  # until the signal has come to it; its children notice later still
    server.up()
    assert server.url("books") == url
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT n FROM t")
        assert cursor.fetchall() == [(7,)]
    connection.close()
    client.close()


@pytest.mark.slow  # the first time on a machine, while packages are unpacked
def test_server_of_debians_packages_serves_where_the_system_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(postgres, "system_programs", lambda: None)
    said = []
    if not postgres.obtained(said.append):
        pytest.skip(said[-1])
    assert postgres.available()
    server = PostgresServer(tmp_path, durable=False)
    try:
        server.up()
        assert Path(server.leader.exe()).is_relative_to(BUNDLE.prefix)
        with psycopg2.connect(server.database("books")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_timezone_names WHERE name = 'UTC'")
            assert cursor.fetchall() == [(1,)]
        connection.close()
    finally:
        server.down()


@pytest.mark.parametrize("reason", [NoDebianMirror("no apt"), MirrorSilent("mirror is silent")])
def test_postgresql_that_cannot_be_had_is_no_error_and_says_why(monkeypatch, reason):
    def fail(_bundle, _say):
        raise reason

    monkeypatch.setattr(postgres, "system_programs", lambda: None)
    monkeypatch.setattr(postgres.Bundle, "install", fail)
    monkeypatch.setattr(postgres.Bundle, "installed", False)
    said = []
    assert not postgres.obtained(said.append)
    assert not postgres.available()
    assert str(reason) in said[-1]


def test_programs_are_the_systems_only_if_all_of_them_are_in_one_folder(monkeypatch, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    for folder, names in ((whole, ("initdb", "pg_ctl", "postgres")), (half, ("initdb", "pg_ctl"))):
        folder.mkdir()
        for name in names:
            (folder / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{half}{os.pathsep}{whole}")
    assert postgres.system_programs() == whole


def test_root_without_a_way_to_be_another_user_has_no_postgresql(monkeypatch):
    monkeypatch.setattr(postgres.os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    said = []
    assert not postgres.obtained(said.append)
    assert "unshare" in said[-1]

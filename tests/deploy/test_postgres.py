import psycopg2
import pytest

from deploy import postgres
from deploy.postgres import DatabaseServerFailed, PostgresServer

needs_postgres = pytest.mark.skipif(not postgres.available(), reason="PostgreSQL's server is not installed")


@pytest.fixture
def server(tmp_path):
    made = PostgresServer(tmp_path)
    yield made
    made.down()


@needs_postgres
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


@needs_postgres
def test_server_that_cannot_start_says_what_its_log_says(server):
    server.up()
    server.down()
    (server.data / "postgresql.conf").write_text("nonsense = 1\n")
    with pytest.raises(DatabaseServerFailed, match="nonsense"):
        server.up()


def test_missing_program_is_named(monkeypatch, server):
    monkeypatch.setattr(postgres, "search_path", lambda: "/nonexistent")
    assert not postgres.available()
    with pytest.raises(DatabaseServerFailed, match="initdb is not installed"):
        server.up()

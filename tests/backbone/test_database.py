"""A database that goes away: said as what may be tried again, and in bounded time."""

import os
import socket

import pytest
import sqlalchemy as sa

from backbone import database
from backbone import tables as t
from backbone.catalog import Catalog
from backbone.errors import TransientError


def end_of(url, pid):
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        gone = connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid}).scalar()
    assert gone


WALK = {"cohort": 1, "created": 0.0, "file": 1, "last": 2}


@pytest.mark.parametrize(
    "act",
    [
        lambda _catalog, connection: connection.execute(sa.text("SELECT 1")),
        lambda catalog, connection: catalog.insert_many(connection, t.walk, [WALK]),
        lambda _catalog, _connection: None,
    ],
    ids=["in a statement", "in a COPY", "at the commit"],
)
def test_database_that_goes_away_may_answer_later(postgresql_catalog, act):
    catalog = Catalog.open(postgresql_catalog)

    def write():
        with catalog.begin() as connection:
            end_of(postgresql_catalog, connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
            act(catalog, connection)

    with pytest.raises(TransientError, match="did not answer"):
        write()
    assert catalog.all(sa.select(t.walk)) == []
    catalog.close()


def test_server_that_takes_connections_and_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(database, "_CONNECT_S", 2)  # the least that libpq knows
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TransientError, match="did not answer"):
        Catalog.open(f"postgresql+psycopg2://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing")


def test_server_that_is_cut_off_is_noticed_by_the_connection_itself(postgresql_catalog):
    catalog = Catalog.open(postgresql_catalog)
    with catalog.connect() as connection:
        descriptor = os.dup(connection.connection.dbapi_connection.fileno())
    with socket.socket(fileno=descriptor) as wire:
        said = [wire.getsockopt(socket.IPPROTO_TCP, name) for name in (socket.TCP_KEEPIDLE, socket.TCP_USER_TIMEOUT)]
    assert said == [30, 60_000]
    catalog.close()

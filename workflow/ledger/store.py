"""Opens the ledger: transactions, bulk writes, lists of ids in queries, migrations. PostgreSQL, or SQLite for one machine."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from backbone.errors import TransientError
from workflow.ledger import tables

_MIGRATIONS = Path(__file__).parent.parent / "migrations"
_READ = {"pachon_read": True}
_UPGRADE_LOCK = 7_224_661  # of pg_advisory_xact_lock: one process migrates


class Ledger:
    """A ledger that is open. Connections are made when needed and never survive a fork in use."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_postgresql = engine.dialect.name == "postgresql"

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Connect, and bring the tables to this program's version. TransientError if the database does not answer."""
        if make_url(url).get_backend_name() == "sqlite":
            engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": 60})
            sa.event.listen(engine, "connect", _sqlite_connected)
            sa.event.listen(engine, "begin", _sqlite_begin)
        else:
            engine = sa.create_engine(url, pool_size=2, max_overflow=8, pool_pre_ping=True)
        ledger = cls(engine)
        ledger.upgrade()
        return ledger

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that writes; on SQLite it takes the write lock at once, so that it never fails half way."""
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, and waits for no writer."""
        with self._translated(), self._engine.connect().execution_options(**_READ) as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            where = self._engine.url.render_as_string(hide_password=True)
            raise TransientError(f"the ledger at {where} did not answer: {error.orig}; is the database up?") from error

    def all(self, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        """Every row of a query."""
        with self.read() as connection:
            return list(connection.execute(query))

    def among(self, column: sa.ColumnElement[Any], ids: Iterable[str]) -> sa.ColumnElement[bool]:
        """Condition that `column` is one of any number of ids, given as one parameter."""
        wanted = list(ids)
        if self.is_postgresql:
            return column == sa.func.any(sa.cast(sa.literal(wanted, postgresql.ARRAY(sa.Text)), postgresql.ARRAY(column.type)))
        values = sa.func.json_each(json.dumps(wanted)).table_valued("value")
        return column.in_(sa.select(values.c.value))

    def insert_many(self, connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows that all have the same keys: COPY on PostgreSQL, one prepared statement elsewhere."""
        if not rows:
            return
        if not self.is_postgresql:
            connection.execute(table.insert(), [dict(row) for row in rows])
            return
        names = list(rows[0])
        as_json = {c.name for c in table.columns if isinstance(c.type, sa.JSON)}
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerows([_copied(row[n], n in as_json) for n in names] for row in rows)
        buffer.seek(0)
        columns = ", ".join(f'"{n}"' for n in names)
        statement = f"COPY \"{table.name}\" ({columns}) FROM STDIN WITH (FORMAT csv, NULL '\\N')"
        errors = cast(Any, connection.dialect.loaded_dbapi)
        with contextlib.closing(cast(Any, connection.connection.cursor())) as cursor:
            try:
                cursor.copy_expert(statement, buffer)
            except errors.Error as error:  # as SQLAlchemy would have raised it: it does not see this statement
                raise DBAPIError.instance(statement, None, error, errors.Error, dialect=connection.dialect) from error

    def insert_new(self, connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, leaving alone those whose key is there already."""
        if rows:
            connection.execute(self._insert(table).on_conflict_do_nothing(), [dict(row) for row in rows])

    def insert_first(self, connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Insert one row unless its key is there already; whether it was inserted."""
        return bool(connection.execute(self._insert(table).on_conflict_do_nothing().values(row)).rowcount)

    def _insert(self, table: sa.Table) -> Any:
        return postgresql.insert(table) if self.is_postgresql else sqlite.insert(table)

    def upgrade(self) -> None:
        """Apply the migrations that are missing; many processes may try at the same time."""
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        head = ScriptDirectory.from_config(config).get_current_head()
        with self.read() as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                return
        with self.begin() as connection:
            if self.is_postgresql:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
            if MigrationContext.configure(connection).get_current_revision() != head:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")


def record(connection: Connection, *, at: float, actor: str, campaign: str, what: str, why: str = "") -> None:
    """One row of the audit, in the transaction of what it is about."""
    connection.execute(tables.action.insert().values(at=at, actor=actor, campaign=campaign, what=what, why=why))


def _copied(value: Any, as_json: bool) -> Any:
    if as_json:
        return json.dumps(value)
    return r"\N" if value is None else value


def _sqlite_connected(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # this module says BEGIN itself
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("pachon_read") else "BEGIN IMMEDIATE")

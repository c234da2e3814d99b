"""A database that is open: transactions, bulk writes, lists of ids in queries, migrations. PostgreSQL, or SQLite alone."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import NullPool

from backbone.errors import TransientError

_READ = {"pachon_read": True}
_CONNECT_S = 10
"""A server that says nothing for so long is not reached."""
_SILENT_S = 60
"""A connection on which nothing comes back for so long is given up, here and by the server, which lets go of its locks."""
_IDLE_S = 900
"""A transaction that asks for nothing for so long is ended by the server: its process stands still, others wait for its rows."""
_FEW = 20  # rows for which a temporary table is not worth its making


class Database:
    """Connections are made when needed and never survive a fork in use. Subclasses say what it holds."""

    noun: ClassVar[str]  # in messages
    migrations: ClassVar[Path]  # Alembic's scripts
    version_table: ClassVar[str]
    upgrade_lock: ClassVar[int]  # of pg_advisory_xact_lock: one process migrates

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_postgresql = engine.dialect.name == "postgresql"

    @classmethod
    def open(cls, url: str) -> Self:
        """Connect, and bring the tables to this program's version. TransientError if the database does not answer."""
        if make_url(url).get_backend_name() == "sqlite":
            engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": 60})
            sa.event.listen(engine, "connect", _sqlite_connected)
            sa.event.listen(engine, "begin", _sqlite_begin)
        else:
            engine = sa.create_engine(url, pool_size=2, max_overflow=8, pool_pre_ping=True, connect_args=_postgresql())
        database = cls(engine)
        database.upgrade()
        return database

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

    def connect(self) -> Connection:
        """A connection outside of transactions, the caller's to close: for locks that last as long as it does."""
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    @property
    def file(self) -> str | None:
        """The SQLite database's path; None where a server has it."""
        return None if self.is_postgresql else self._engine.url.database

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if not isinstance(error, OperationalError | InterfaceError) and not error.connection_invalidated:
                raise
            where = self._engine.url.render_as_string(hide_password=True)
            raise TransientError(f"the {self.noun} at {where} did not answer: {error.orig}; is the database up?") from error

    def all(self, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        """Every row of a query."""
        with self.read() as connection:
            return list(connection.execute(query))

    def among(self, column: sa.ColumnElement[Any], ids: Iterable[str] | Iterable[int]) -> sa.ColumnElement[bool]:
        """Condition that `column` is one of any number of ids, given as one parameter."""
        wanted: list[Any] = list(ids)
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
        as_json = {c.name: c.type.none_as_null for c in table.columns if isinstance(c.type, sa.JSON)}
        if as_json or len(names) < 2:
            self.copy(connection, table, names, ([_copied(row[n], as_json.get(n)) for n in names] for row in rows))
        else:
            values = map(operator.itemgetter(*names), rows)
            self.copy(connection, table, names, ([_copied(v, None) for v in row] if None in row else row for row in values))

    def copy(self, connection: Connection, table: sa.Table, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        r"""COPY rows of texts and numbers into a table of PostgreSQL; a null is `\N`."""
        buffer = io.StringIO()
        csv.writer(buffer).writerows(rows)
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
        """Insert rows that all have the same keys, leaving alone those whose key is there already."""
        if len(rows) > _FEW and self.is_postgresql:
            names = list(rows[0])
            staged = self._staged(connection, table, rows)
            chosen = sa.select(*(staged.c[n] for n in names))
            connection.execute(self.insert(table).from_select(names, chosen).on_conflict_do_nothing())
        elif rows:
            connection.execute(self.insert(table).on_conflict_do_nothing(), [dict(row) for row in rows])

    def _staged(self, connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> sa.Table:
        """Rows by COPY in a temporary table of PostgreSQL that is like `table` and empty again after the transaction.

        It is made once for a connection: one for each use would fill the system's own catalog. What earlier uses in the same
        transaction left in it is there by now, and is left alone.
        """
        staged = table.to_metadata(sa.MetaData(), name=f"staged_{table.name}")
        made = f'CREATE TEMPORARY TABLE IF NOT EXISTS "{staged.name}" ON COMMIT DELETE ROWS AS TABLE "{table.name}" WITH NO DATA'
        connection.exec_driver_sql(made)
        self.insert_many(connection, staged, rows)
        return staged

    def insert_first(self, connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
        """Insert one row unless its key is there already; whether it was inserted."""
        return bool(connection.execute(self.insert(table).on_conflict_do_nothing().values(row)).rowcount)

    def insert(self, table: sa.Table) -> Any:
        """An insert that can say `on_conflict_…`, in the database's own dialect."""
        return postgresql.insert(table) if self.is_postgresql else sqlite.insert(table)

    def upgrade(self) -> None:
        """Apply the migrations that are missing; many processes may try at the same time."""
        config = Config()
        config.set_main_option("script_location", str(self.migrations))
        head = ScriptDirectory.from_config(config).get_current_head()
        with self.read() as connection:
            if self._revision(connection) == head:
                return
        with self.begin() as connection:
            if self.is_postgresql:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(self.upgrade_lock)))
            if self._revision(connection) != head:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def _revision(self, connection: Connection) -> str | None:
        return MigrationContext.configure(connection, opts={"version_table": self.version_table}).get_current_revision()


def _postgresql() -> dict[str, Any]:
    """How libpq connects. Without this a network that swallows what is sent holds us, a dead machine its locks, for two hours."""
    # Statements are short and go by index: compiling them costs more than it saves.
    server: dict[str, Any] = {"jit": "off", "random_page_cost": 1.1, "idle_in_transaction_session_timeout": _IDLE_S * 1000}
    alive = {"keepalives_idle": _SILENT_S // 2, "keepalives_interval": _SILENT_S // 6, "keepalives_count": 3}
    server |= {f"tcp_{name}": value for name, value in alive.items()}
    return {
        "connect_timeout": _CONNECT_S,
        **alive,
        "tcp_user_timeout": _SILENT_S * 1000,
        "options": " ".join(f"-c {name}={value}" for name, value in server.items()),
    }


def _copied(value: Any, none_as_null: bool | None) -> Any:
    """As COPY reads it; `none_as_null` is None for what is no JSON column."""
    if value is None and none_as_null is not False:
        return r"\N"
    return value if none_as_null is None else json.dumps(value)


def _sqlite_connected(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # this module says BEGIN itself
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("pachon_read") else "BEGIN IMMEDIATE")

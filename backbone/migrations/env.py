"""Alembic's entry: the connection is handed in by `Database.upgrade`, or opened from `-x url=…` when a new revision is written.

The version table and the tables' names are the backbone's own, so that catalog and ledger may share a database.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from backbone.tables import metadata

VERSION_TABLE = "bb_version"


def _run(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with sa.create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as opened:
        _run(opened)

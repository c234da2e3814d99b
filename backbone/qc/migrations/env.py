"""Alembic's entry: the connection is handed in by `Database.upgrade`, or opened from `-x url=…` when a new revision is written.

Names of tables and version table are its own: quality control shares the ledger's database.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from backbone.qc.tables import VERSION_TABLE, metadata


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

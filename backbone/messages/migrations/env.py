"""Alembic's entry: the connection is handed in by `Database.upgrade`, or opened from `-x url=…` for a new revision."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from backbone.messages.stored import metadata

VERSION_TABLE = "message_version"


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

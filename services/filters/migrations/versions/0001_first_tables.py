"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "fl_filter",
        sa.Column("id", _BIG, sa.Identity(always=False), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("until", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fl_filter")),
    )
    in_force = sa.text("until IS NULL")
    op.create_index(
        "ix_fl_filter_in_force", "fl_filter", ["user", "name"], unique=True, sqlite_where=in_force, postgresql_where=in_force
    )
    op.create_table(
        "fl_count",
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("visit", _BIG, nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.Column("over", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("user", "visit", name=op.f("pk_fl_count")),
    )
    op.create_table(
        "fl_place",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_fl_place")),
    )


def downgrade() -> None:
    """Undo."""
    for table in ("fl_place", "fl_count", "fl_filter"):
        op.drop_table(table)

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
        "tm_report",
        sa.Column("position", _BIG, autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_tm_report")),
        sa.UniqueConstraint("key", name=op.f("uq_tm_report_key")),
    )
    op.create_table(
        "tm_gateway",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last", _BIG, nullable=False),
        sa.Column("sent", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tm_gateway")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("tm_gateway")
    op.drop_table("tm_report")

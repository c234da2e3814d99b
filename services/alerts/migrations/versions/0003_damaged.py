"""Packets that reached a subscriber damaged are set aside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "al_damaged",
        sa.Column("subscriber", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("position", _BIG, nullable=False),
        sa.Column("alert", _BIG, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("stream", "position", "subscriber", name=op.f("pk_al_damaged")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("al_damaged")

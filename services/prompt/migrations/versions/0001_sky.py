"""Difference sources by their place on the sky."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "sky_source",
        sa.Column("id", big, autoincrement=False, nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("trixel", sa.Integer(), nullable=False),
        sa.Column("object", big, nullable=False),
        sa.Column("mjd", sa.Double(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sky_source")),
    )
    op.create_index("ix_sky_source_instrument_trixel_mjd", "sky_source", ["instrument", "trixel", "mjd"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_table("sky_source")

"""Forced photometry at the places of known objects."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "sky_forced",
        sa.Column("id", big, autoincrement=False, nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("object", big, nullable=False),
        sa.Column("mjd", sa.Double(), nullable=False),
        sa.Column("processed", sa.Double(), nullable=False),
        sa.Column("visit", big, nullable=False),
        sa.Column("detector", sa.Integer(), nullable=False),
        sa.Column("band", sa.Text(), nullable=False),
        sa.Column("ra", sa.Double(), nullable=False),
        sa.Column("dec", sa.Double(), nullable=False),
        sa.Column("flux", sa.Double(), nullable=False),
        sa.Column("flux_err", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sky_forced")),
    )
    op.create_index("ix_sky_forced_instrument_object_mjd", "sky_forced", ["instrument", "object", "mjd"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_table("sky_forced")

"""Where scrubbing is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "bb_scrub",
        sa.Column("endpoint", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", big, nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("began", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("files", big, nullable=False),
        sa.Column("bytes", big, nullable=False),
        sa.Column("damaged", big, nullable=False),
        sa.PrimaryKeyConstraint("endpoint", name=op.f("pk_bb_scrub")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("bb_scrub")

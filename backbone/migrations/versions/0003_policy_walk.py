"""A change of policies is walked through in batches."""

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
        "bb_change",
        sa.Column("cohort", big, nullable=False),
        sa.Column("endpoint", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("within_s", sa.Double(), nullable=False),
        sa.Column("after_s", sa.Double(), nullable=False),
        sa.Column("keep_s", sa.Double(), nullable=True),
        sa.Column("fetch", sa.Boolean(), nullable=False),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.Column("first", sa.Double(), nullable=False),
        sa.Column("last", sa.Double(), nullable=False),
        sa.Column("until", sa.Double(), nullable=True),
        sa.Column("due", sa.Double(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("cohort", "endpoint", name=op.f("pk_bb_change")),
    )
    op.create_table(
        "bb_walk",
        sa.Column("cohort", big, autoincrement=False, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("file", big, nullable=False),
        sa.Column("last", big, nullable=False),
        sa.PrimaryKeyConstraint("cohort", name=op.f("pk_bb_walk")),
    )
    op.create_index("ix_bb_file_cohort_created_id", "bb_file", ["cohort", "created", "id"], unique=False)
    op.drop_index("ix_bb_file_cohort_created", table_name="bb_file")


def downgrade() -> None:
    """Undo."""
    op.create_index("ix_bb_file_cohort_created", "bb_file", ["cohort", "created"], unique=False)
    op.drop_index("ix_bb_file_cohort_created_id", table_name="bb_file")
    op.drop_table("bb_walk")
    op.drop_table("bb_change")

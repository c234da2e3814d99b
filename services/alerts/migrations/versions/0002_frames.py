"""Frames are told once: who told each, what was withheld; datasets that were collected.

Frames that were told before are theirs who told them first; who that was, and with which camera, nobody said.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.add_column("al_batch", sa.Column("instrument", sa.Text(), nullable=False, server_default=""))
    op.add_column("al_batch", sa.Column("origin", sa.Text(), nullable=False, server_default=""))
    op.add_column("al_batch", sa.Column("teller", _BIG, nullable=True))
    op.add_column("al_batch", sa.Column("withheld", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "al_frame",
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("visit", _BIG, nullable=False),
        sa.Column("detector", sa.Integer(), nullable=False),
        sa.Column("batch", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("visit", "detector", "instrument", name=op.f("pk_al_frame")),
    )
    op.execute(
        "INSERT INTO al_frame (instrument, visit, detector, batch) "
        "SELECT '', visit, detector, min(id) FROM al_batch GROUP BY visit, detector"
    )
    op.create_table(
        "al_withheld",
        sa.Column("batch", _BIG, nullable=False),
        sa.Column("id", _BIG, nullable=False),
        sa.Column("start", _BIG, nullable=False),
        sa.Column("size", _BIG, nullable=False),
        sa.Column("object", _BIG, nullable=True),
        sa.PrimaryKeyConstraint("batch", "id", name=op.f("pk_al_withheld")),
    )
    op.create_index("ix_al_withheld_id", "al_withheld", ["id"])
    op.create_table(
        "al_collected",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", name=op.f("pk_al_collected")),
    )


def downgrade() -> None:
    """Undo; what was withheld is forgotten, its objects stay."""
    op.execute("DELETE FROM al_batch WHERE withheld > 0")
    for table in ("al_collected", "al_withheld", "al_frame"):
        op.drop_table(table)
    for column in ("withheld", "teller", "origin", "instrument"):
        op.drop_column("al_batch", column)

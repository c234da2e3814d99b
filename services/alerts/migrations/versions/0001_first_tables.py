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
        "al_batch",
        sa.Column("id", _BIG, sa.Identity(always=False), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("visit", _BIG, nullable=False),
        sa.Column("detector", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_al_batch")),
        sa.UniqueConstraint("key", name=op.f("uq_al_batch_key")),
    )
    op.create_index("ix_al_batch_visit", "al_batch", ["visit"])
    op.create_table(
        "al_alert",
        sa.Column("id", _BIG, autoincrement=False, nullable=False),
        sa.Column("batch", _BIG, nullable=False),
        sa.Column("start", _BIG, nullable=False),
        sa.Column("size", _BIG, nullable=False),
        sa.Column("object", _BIG, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_al_alert")),
    )
    op.create_index("ix_al_alert_batch", "al_alert", ["batch"])
    op.create_index("ix_al_alert_object", "al_alert", ["object"])
    op.create_table(
        "al_stream",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last", _BIG, nullable=False),
        sa.Column("published", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_al_stream")),
    )
    op.create_table(
        "al_outbox",
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("position", _BIG, nullable=False),
        sa.Column("alert", _BIG, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("stream", "position", name=op.f("pk_al_outbox")),
        sa.UniqueConstraint("stream", "alert", name=op.f("uq_al_outbox_stream_alert")),
    )
    op.create_table(
        "al_subscriber",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("made", sa.Double(), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_al_subscriber")),
    )


def downgrade() -> None:
    """Undo."""
    for table in ("al_subscriber", "al_outbox", "al_stream", "al_alert", "al_batch"):
        op.drop_table(table)

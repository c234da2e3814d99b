"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OPEN = sa.text("state <> 'CLEARED'")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "qc_metric",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("day_obs", sa.Integer(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "instrument", "day_obs", "subject", "source", name=op.f("pk_qc_metric")),
    )
    op.create_table(
        "qc_threshold",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("escalate_after", sa.Double(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_qc_threshold")),
    )
    op.create_table(
        "qc_alarm",
        sa.Column("id", _BIG, sa.Identity(always=False), nullable=False),
        sa.Column("threshold", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("escalate_after", sa.Double(), nullable=False),
        sa.Column("day_obs", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.Column("escalated_at", sa.Double(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("cleared_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_qc_alarm")),
    )
    op.create_index(
        "one_open_alarm",
        "qc_alarm",
        ["threshold", "metric", "instrument", "subject"],
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_table(
        "qc_alarm_event",
        sa.Column("id", _BIG, sa.Identity(always=False), nullable=False),
        sa.Column("alarm", _BIG, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["alarm"], ["qc_alarm.id"], name=op.f("fk_qc_alarm_event_alarm")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_qc_alarm_event")),
    )
    op.create_index(op.f("ix_qc_alarm_event_alarm"), "qc_alarm_event", ["alarm"], unique=False)


def downgrade() -> None:
    """Undo."""
    for name in ("qc_alarm_event", "qc_alarm", "qc_threshold", "qc_metric"):
        op.drop_table(name)

"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "accepted",
        sa.Column("quantum", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("job", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("quantum", name=op.f("pk_accepted")),
    )
    op.create_index("ix_accepted_job", "accepted", ["job"], unique=False)
    op.create_table(
        "action",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_action")),
    )
    op.create_index("ix_action_campaign", "action", ["campaign"], unique=False)
    op.create_table(
        "attempt",
        sa.Column("quantum", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("job", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("quantum", "job", name=op.f("pk_attempt")),
    )
    op.create_index("ix_attempt_job", "attempt", ["job"], unique=False)
    op.create_table(
        "calibration_use",
        sa.Column("quantum", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("dataset", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("dataset_type", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("collection", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("quantum", "dataset", name=op.f("pk_calibration_use")),
    )
    op.create_index("ix_calibration_use_dataset", "calibration_use", ["dataset"], unique=False)
    op.create_table(
        "campaign",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("production", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("definition", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("parameters", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("access", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("hold", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("lock_holder", sa.Text(), nullable=True),
        sa.Column("lock_epoch", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), server_default="0", nullable=False),
        sa.Column("lock_expires", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_campaign")),
    )
    op.create_index("ix_campaign_state", "campaign", ["state"], unique=False)
    op.create_table(
        "command_run",
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("payload", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("command", name=op.f("pk_command_run")),
    )
    op.create_table(
        "edge",
        sa.Column("child", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("parent", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("child", "parent", name=op.f("pk_edge")),
    )
    op.create_index("ix_edge_parent", "edge", ["parent"], unique=False)
    op.create_table(
        "label_stats",
        sa.Column("production", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("samples", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("wall_s", sa.Double(), nullable=False),
        sa.Column("peak_mb", sa.Double(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("production", "label", name=op.f("pk_label_stats")),
    )
    op.create_table(
        "outcome",
        sa.Column("quantum", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("job", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("forgiven", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("wall_s", sa.Double(), nullable=False),
        sa.Column("cpu_s", sa.Double(), nullable=False),
        sa.Column("peak_mb", sa.Double(), nullable=False),
        sa.Column("reads", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("unwritten", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("records", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("collected", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("quantum", "job", "origin", name=op.f("pk_outcome")),
    )
    op.create_index("ix_outcome_job", "outcome", ["job"], unique=False)
    op.create_table(
        "segment_file",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_segment_file")),
    )
    op.create_table(
        "backlog",
        sa.Column("quantum", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("visit", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("detector", sa.Integer(), nullable=True),
        sa.Column("data_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_backlog_campaign")),
        sa.PrimaryKeyConstraint("quantum", name=op.f("pk_backlog")),
    )
    op.create_index("ix_backlog_campaign", "backlog", ["campaign"], unique=False)
    op.create_table(
        "group_",
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("graph_key", sa.Text(), nullable=False),
        sa.Column("config_key", sa.Text(), nullable=False),
        sa.Column("values_", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("init_records", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("quanta", sa.Integer(), nullable=False),
        sa.Column("planned", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_group__campaign")),
        sa.PrimaryKeyConstraint("campaign", "step", "generation", "name", name=op.f("pk_group_")),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("group_", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("pool_job", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("time_limit_s", sa.Double(), nullable=False),
        sa.Column("quanta", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("segments", sa.Integer(), server_default="0", nullable=False),
        sa.Column("heartbeat", sa.Text(), nullable=True),
        sa.Column("lease_expires", sa.Double(), nullable=False),
        sa.Column("swept", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_job_campaign")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index("ix_job_campaign_state", "job", ["campaign", "state"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("quantum", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("job", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("published", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_outbox_campaign")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
        sa.UniqueConstraint("quantum", name=op.f("uq_outbox_quantum")),
    )
    op.create_index(
        "unpublished",
        "outbox",
        ["campaign", "seq"],
        unique=False,
        sqlite_where=sa.text("published IS NULL"),
        postgresql_where=sa.text("published IS NULL"),
    )
    op.create_table(
        "quantum",
        sa.Column("id", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("data_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("group_", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("job", sa.String(length=36).with_variant(sa.UUID(as_uuid=False), "postgresql"), nullable=True),
        sa.Column("memory_mb", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_quantum_campaign")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quantum")),
        sa.UniqueConstraint("campaign", "step", "label", "data_id", "generation", name="uq_quantum_coverage"),
    )
    op.create_index("ix_quantum_job", "quantum", ["job"], unique=False)
    op.create_index("ix_quantum_state", "quantum", ["campaign", "step", "state"], unique=False)
    op.create_index(
        "one_current_generation",
        "quantum",
        ["campaign", "step", "label", "data_id"],
        unique=True,
        sqlite_where=sa.text("current"),
        postgresql_where=sa.text("current"),
    )
    op.create_table(
        "step",
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("finished", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_step_campaign")),
        sa.PrimaryKeyConstraint("campaign", "name", name=op.f("pk_step")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("step")
    op.drop_index(
        "one_current_generation", table_name="quantum", sqlite_where=sa.text("current"), postgresql_where=sa.text("current")
    )
    op.drop_index("ix_quantum_state", table_name="quantum")
    op.drop_index("ix_quantum_job", table_name="quantum")
    op.drop_table("quantum")
    op.drop_index(
        "unpublished",
        table_name="outbox",
        sqlite_where=sa.text("published IS NULL"),
        postgresql_where=sa.text("published IS NULL"),
    )
    op.drop_table("outbox")
    op.drop_index("ix_job_campaign_state", table_name="job")
    op.drop_table("job")
    op.drop_table("group_")
    op.drop_index("ix_backlog_campaign", table_name="backlog")
    op.drop_table("backlog")
    op.drop_table("segment_file")
    op.drop_index("ix_outcome_job", table_name="outcome")
    op.drop_table("outcome")
    op.drop_table("label_stats")
    op.drop_index("ix_edge_parent", table_name="edge")
    op.drop_table("edge")
    op.drop_table("command_run")
    op.drop_index("ix_campaign_state", table_name="campaign")
    op.drop_table("campaign")
    op.drop_index("ix_calibration_use_dataset", table_name="calibration_use")
    op.drop_table("calibration_use")
    op.drop_index("ix_attempt_job", table_name="attempt")
    op.drop_table("attempt")
    op.drop_index("ix_action_campaign", table_name="action")
    op.drop_table("action")
    op.drop_index("ix_accepted_job", table_name="accepted")
    op.drop_table("accepted")

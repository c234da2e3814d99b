"""First tables."""

from __future__ import annotations

from typing import Any

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
        "bb_cohort",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False),
        sa.Column("dataset_type", sa.Text(), nullable=False),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("retention", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("access", sa.Text(), nullable=False),
        sa.Column("public_after_s", sa.Double(), nullable=True),
        sa.Column("public_latest_s", sa.Double(), nullable=True),
        sa.Column("floor", sa.Integer(), nullable=False),
        sa.Column("drop_after_s", sa.Double(), nullable=True),
        sa.Column("grace_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bb_cohort")),
        sa.UniqueConstraint(
            "dataset_type", "collection", "instrument", "tags", "media_type", "retention", "owner", "access", name="uq_bb_cohort"
        ),
    )
    op.create_table(
        "bb_endpoint",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bb_endpoint")),
        sa.UniqueConstraint("name", name=op.f("uq_bb_endpoint_name")),
    )
    op.create_table(
        "bb_file",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False),
        sa.Column("key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("cohort", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("public_from", sa.Double(), nullable=True),
        sa.Column("dropped", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bb_file")),
        sa.UniqueConstraint("key", name=op.f("uq_bb_file_key")),
    )
    op.create_index("ix_bb_file_cohort_created", "bb_file", ["cohort", "created"], unique=False)
    op.create_table(
        "bb_flow",
        sa.Column("source", sa.Integer(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("minute", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("files", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("bytes", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("failures", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("source", "target", "minute", name=op.f("pk_bb_flow")),
    )
    op.create_table(
        "bb_history",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("file", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("endpoint", sa.Integer(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bb_history")),
    )
    op.create_index(
        "ix_bb_history_file",
        "bb_history",
        ["file"],
        unique=False,
        sqlite_where=sa.text("file IS NOT NULL"),
        postgresql_where=sa.text("file IS NOT NULL"),
    )
    op.create_table(
        "bb_intent",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False),
        sa.Column("endpoint", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("file", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bb_intent")),
    )
    op.create_index("ix_bb_intent_at", "bb_intent", ["at"], unique=False)
    op.create_table(
        "bb_link",
        sa.Column("source", sa.Integer(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("source", "target", name=op.f("pk_bb_link")),
    )
    op.create_table(
        "bb_orphan",
        sa.Column("endpoint", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "key", name=op.f("pk_bb_orphan")),
    )
    op.create_table(
        "bb_policy",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("definition", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("applied", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_bb_policy")),
    )
    op.create_table(
        "bb_replica",
        sa.Column("file", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("endpoint", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("origin", sa.Boolean(), nullable=False),
        sa.Column("verified", sa.Double(), nullable=True),
        sa.Column("due", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("file", "endpoint", name=op.f("pk_bb_replica")),
    )
    op.create_index(
        "ix_bb_replica_state",
        "bb_replica",
        ["endpoint", "state"],
        unique=False,
        sqlite_where=sa.text("state <> 'AVAILABLE'"),
        postgresql_where=sa.text("state <> 'AVAILABLE'"),
    )
    op.create_index(
        "ix_bb_replica_due",
        "bb_replica",
        ["endpoint", "due"],
        unique=False,
        sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )
    op.create_table(
        "bb_rule",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("released", sa.Double(), nullable=True),
        sa.Column("files", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bb_rule")),
        sa.UniqueConstraint("name", name=op.f("uq_bb_rule_name")),
    )
    op.create_table(
        "bb_rule_file",
        sa.Column("rule", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("file", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("rule", "file", name=op.f("pk_bb_rule_file")),
    )
    op.create_index("ix_bb_rule_file_file_target", "bb_rule_file", ["file", "target"], unique=False)
    op.create_index(
        "ix_bb_rule_file_open",
        "bb_rule_file",
        ["rule"],
        unique=False,
        sqlite_where=sa.text("NOT ok"),
        postgresql_where=sa.text("NOT ok"),
    )
    op.create_table(
        "bb_transfer",
        sa.Column("file", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("source", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due", sa.Double(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("file", "target", name=op.f("pk_bb_transfer")),
    )
    ready = sa.text("state = 'PENDING'")
    columns: list[Any] = ["source", "target", sa.text("priority DESC"), "deadline", "file"]
    op.create_index("ix_bb_transfer_ready", "bb_transfer", columns, unique=False, sqlite_where=ready, postgresql_where=ready)
    op.create_index(
        "ix_bb_transfer_due",
        "bb_transfer",
        ["due"],
        unique=False,
        sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )
    op.create_index(
        "ix_bb_transfer_state",
        "bb_transfer",
        ["state", "target"],
        unique=False,
        sqlite_where=sa.text("state <> 'PENDING'"),
        postgresql_where=sa.text("state <> 'PENDING'"),
    )
    op.create_table(
        "bb_want",
        sa.Column("cohort", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("endpoint", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("within_s", sa.Double(), nullable=False),
        sa.Column("after_s", sa.Double(), nullable=False),
        sa.Column("keep_s", sa.Double(), nullable=True),
        sa.Column("fetch", sa.Boolean(), nullable=False),
        sa.Column("policies", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("copied_to", sa.Double(), nullable=False),
        sa.Column("copy_at", sa.Double(), nullable=True),
        sa.Column("expired_to", sa.Double(), nullable=False),
        sa.Column("expire_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("cohort", "endpoint", name=op.f("pk_bb_want")),
    )
    op.create_index(
        "ix_bb_want_copy_at",
        "bb_want",
        ["copy_at"],
        unique=False,
        sqlite_where=sa.text("copy_at IS NOT NULL"),
        postgresql_where=sa.text("copy_at IS NOT NULL"),
    )
    op.create_index(
        "ix_bb_want_expire_at",
        "bb_want",
        ["expire_at"],
        unique=False,
        sqlite_where=sa.text("expire_at IS NOT NULL"),
        postgresql_where=sa.text("expire_at IS NOT NULL"),
    )
    _append_only()


def _append_only() -> None:
    """The database itself refuses to change history."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION bb_history_kept() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'bb_history is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER bb_history_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON bb_history "
            "FOR EACH STATEMENT EXECUTE FUNCTION bb_history_kept()"
        )
        return
    for action in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER bb_history_kept_{action.lower()} BEFORE {action} ON bb_history "
            "BEGIN SELECT RAISE(ABORT, 'bb_history is append-only'); END"
        )


def downgrade() -> None:
    """Undo."""
    op.drop_table("bb_want")
    op.drop_table("bb_transfer")
    op.drop_table("bb_rule_file")
    op.drop_table("bb_rule")
    op.drop_table("bb_replica")
    op.drop_table("bb_policy")
    op.drop_table("bb_orphan")
    op.drop_table("bb_link")
    op.drop_table("bb_intent")
    op.drop_table("bb_history")
    op.drop_table("bb_flow")
    op.drop_table("bb_file")
    op.drop_table("bb_endpoint")
    op.drop_table("bb_cohort")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION bb_history_kept()")

"""Where groups go and why, operators' words about sites, outputs on their way to the archive."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NOT_WHOLE = sa.text("whole IS NULL")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "placement",
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("group_", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("reasons", _JSON, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("rules", _JSON, nullable=False),
        sa.Column("staged", sa.Double(), nullable=True),
        sa.Column("waits", sa.Text(), server_default="", nullable=False),
        sa.Column("released", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_placement_campaign")),
        sa.PrimaryKeyConstraint("campaign", "step", "generation", "group_", "ordinal", name=op.f("pk_placement")),
    )
    op.create_table(
        "site_word",
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("group_", sa.Text(), nullable=False),
        sa.Column("only_sites", _JSON, nullable=False),
        sa.Column("never_sites", _JSON, nullable=False),
        sa.Column("only_machines", _JSON, nullable=False),
        sa.Column("never_machines", _JSON, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_site_word_campaign")),
        sa.PrimaryKeyConstraint("campaign", "step", "group_", name=op.f("pk_site_word")),
    )
    op.create_table(
        "stage_out",
        sa.Column("id", _BIG, sa.Identity(always=False), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("files", _BIG, nullable=False),
        sa.Column("bytes", _BIG, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("whole", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_stage_out_campaign")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stage_out")),
    )
    op.create_index("not_whole", "stage_out", ["campaign"], unique=False, sqlite_where=_NOT_WHOLE, postgresql_where=_NOT_WHOLE)
    op.add_column("outbox", sa.Column("stage_out", _BIG, nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("outbox") as outbox:
        outbox.drop_column("stage_out")
    op.drop_index("not_whole", table_name="stage_out")
    for name in ("stage_out", "site_word", "placement"):
        op.drop_table(name)

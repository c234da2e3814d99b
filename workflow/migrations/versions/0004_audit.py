"""Hot fixes, software and task configurations, hosts that fail, passive rules, priorities, and the coverage of a step."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
_ADDED = (
    ("campaign", sa.Column("priority", sa.Integer(), server_default="0", nullable=False)),
    ("step", sa.Column("coverage", sa.Integer(), nullable=True)),
    ("job", sa.Column("host", sa.Text(), nullable=True)),
    ("job", sa.Column("software", sa.Text(), nullable=True)),
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "software",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("versions", _JSON, nullable=False),
        sa.Column("first_seen", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_software")),
    )
    op.create_table(
        "task_config",
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("campaign", "step", "generation", "label", name=op.f("pk_task_config")),
    )
    op.create_table(
        "hotfix",
        sa.Column("id", _BIG, sa.Identity(always=False), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("selection", _JSON, nullable=False),
        sa.Column("software", sa.Text(), nullable=True),
        sa.Column("config", _JSON, nullable=False),
        sa.Column("effect", _JSON, nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_hotfix_campaign")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hotfix")),
    )
    op.create_index("ix_hotfix_campaign", "hotfix", ["campaign"], unique=False)
    op.create_table(
        "binding",
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("software", sa.Text(), nullable=True),
        sa.Column("config", _JSON, nullable=False),
        sa.Column("hotfix", _BIG, nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_binding_campaign")),
        sa.PrimaryKeyConstraint("campaign", "step", "generation", name=op.f("pk_binding")),
    )
    op.create_table(
        "host_failure",
        sa.Column("job", _ID, nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_host_failure")),
    )
    op.create_index("ix_host_failure_site_at", "host_failure", ["site", "at"], unique=False)
    op.create_table(
        "passive_finding",
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("rule", sa.Integer(), nullable=False),
        sa.Column("would", sa.Text(), nullable=False),
        sa.Column("instead_of", sa.Text(), nullable=False),
        sa.Column("count", _BIG, nullable=False),
        sa.Column("example", _ID, nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaign.name"], name=op.f("fk_passive_finding_campaign")),
        sa.PrimaryKeyConstraint("campaign", "step", "label", "rule", "would", "instead_of", name=op.f("pk_passive_finding")),
    )
    for table, column in _ADDED:
        op.add_column(table, column)


def downgrade() -> None:
    """Undo."""
    for table, column in _ADDED:
        with op.batch_alter_table(table) as changed:
            changed.drop_column(column.name)
    op.drop_index("ix_host_failure_site_at", table_name="host_failure")
    op.drop_index("ix_hotfix_campaign", table_name="hotfix")
    for name in ("passive_finding", "host_failure", "binding", "hotfix", "task_config", "software"):
        op.drop_table(name)

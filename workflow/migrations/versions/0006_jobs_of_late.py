"""Jobs of a site by time: which hosts were seen at work of late is asked in every round that submits while one is avoided."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_job_site_created", "job", ["site", "created"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_job_site_created", table_name="job")

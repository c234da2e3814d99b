"""A day's metrics are found without a look at those of all days."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_qc_metric_instrument_day_obs", "qc_metric", ["instrument", "day_obs", "source"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_qc_metric_instrument_day_obs", table_name="qc_metric")

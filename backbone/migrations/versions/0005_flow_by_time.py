"""What moved in the last minutes is found without a look at all that ever moved."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_bb_flow_minute", "bb_flow", ["minute"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_bb_flow_minute", table_name="bb_flow")

"""Endpoints say who they are, so that one that is not mounted is not taken for one that lost everything."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("bb_endpoint", sa.Column("identity", sa.Text(), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("bb_endpoint", "identity")

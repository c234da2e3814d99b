"""Withdrawn products are found without a look at all the others."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_qc_certified_product_withdrawn_at", "qc_certified_product", ["withdrawn_at"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_qc_certified_product_withdrawn_at", "qc_certified_product")

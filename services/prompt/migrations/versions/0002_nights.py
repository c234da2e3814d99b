"""A night's sources by their time, whatever their place."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_sky_source_instrument_mjd", "sky_source", ["instrument", "mjd"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_sky_source_instrument_mjd", "sky_source")

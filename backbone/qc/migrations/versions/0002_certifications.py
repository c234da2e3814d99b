"""Certifications: which calibration products were certified, approved by whom, withdrawn by whom."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "qc_certification",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("chain", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("begin", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("approved_by", sa.Text(), nullable=True),
        sa.Column("approved_at", sa.Double(), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("collection", name=op.f("pk_qc_certification")),
    )
    op.create_index(op.f("ix_qc_certification_chain"), "qc_certification", ["chain"], unique=False)
    op.create_table(
        "qc_certified_product",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("dataset_type", sa.Text(), nullable=False),
        sa.Column("data_id", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("withdrawn_by", sa.Text(), nullable=True),
        sa.Column("withdrawn_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["collection"], ["qc_certification.collection"], name=op.f("fk_qc_certified_product_collection")),
        sa.PrimaryKeyConstraint("collection", "dataset", name=op.f("pk_qc_certified_product")),
    )
    op.create_index("ix_qc_certified_product_dataset", "qc_certified_product", ["dataset"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_table("qc_certified_product")
    op.drop_table("qc_certification")

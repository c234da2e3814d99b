"""Tables of the telemetry gateway. Times are seconds since 1970 (UTC). Changes go through services/telemetry/migrations."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(naming_convention={"uq": "uq_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"})
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# What is told, in one order, without a gap.
report = sa.Table(
    "tm_report",
    metadata,
    sa.Column("position", Big, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON
    sa.Column("at", sa.Double, nullable=False),
)

# One row: the last position given out, and the last that the OCS's broker has said yes to.
gateway = sa.Table(
    "tm_gateway",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last", Big, nullable=False),
    sa.Column("sent", Big, nullable=False),
)

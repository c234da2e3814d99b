"""Tables of filters, in the alert service's database. Times are seconds since 1970 (UTC); changes go through migrations."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"})
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows by INTEGER alone
Time: sa.Double[float] = sa.Double()

# A filter that is changed is a new row: what was in force when an alert was sent can be told.
filter_ = sa.Table(
    "fl_filter",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("since", Time, nullable=False),
    sa.Column("until", Time),
    sa.Index(
        "ix_fl_filter_in_force",
        "user",
        "name",
        unique=True,
        sqlite_where=sa.text("until IS NULL"),
        postgresql_where=sa.text("until IS NULL"),
    ),
)

# What each user was sent of a visit, and how many alerts more passed.
count = sa.Table(
    "fl_count",
    metadata,
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("visit", Big, nullable=False),
    sa.Column("sent", sa.Integer, nullable=False),
    sa.Column("over", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("user", "visit"),
)

# Up to which position of the full stream everything has been filtered.
place = sa.Table(
    "fl_place",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("position", Big, nullable=False),
)

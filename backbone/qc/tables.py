"""The tables of quality control. Times are seconds since 1970 (UTC). Changes go through backbone/qc/migrations.

A metric is one number of one thing (`subject`) on one observing day, from one source (a campaign, say); measured again by the
same source it takes the place of its former value. An alarm is open until it is cleared: a partial index lets a threshold, a
metric and a subject have one open alarm only.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from backbone.database import Database
from backbone.tables import Big, Time

VERSION_TABLE = "qc_version"
OPEN = "state <> 'CLEARED'"

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

metric = sa.Table(
    "qc_metric",
    metadata,
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("instrument", sa.Text, nullable=False),
    sa.Column("day_obs", sa.Integer, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("value", sa.Double, nullable=True),  # null: it was tried, and could not be measured
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.PrimaryKeyConstraint("name", "instrument", "day_obs", "subject", "source"),
    sa.Index("ix_qc_metric_instrument_day_obs", "instrument", "day_obs", "source"),
)

threshold = sa.Table(
    "qc_threshold",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("metric", sa.Text, nullable=False),
    sa.Column("instrument", sa.Text, nullable=False),
    sa.Column("low", sa.Double, nullable=True),
    sa.Column("high", sa.Double, nullable=True),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("escalate_after", sa.Double, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
)

alarm = sa.Table(
    "qc_alarm",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("threshold", sa.Text, nullable=False),
    sa.Column("metric", sa.Text, nullable=False),
    sa.Column("instrument", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),  # how often it was escalated
    sa.Column("escalate_after", sa.Double, nullable=False),
    sa.Column("day_obs", sa.Integer, nullable=False),  # of the newest crossing
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("value", sa.Double, nullable=True),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),  # crossings, of which the first raised it
    sa.Column("first_at", Time, nullable=False),
    sa.Column("last_at", Time, nullable=False),
    sa.Column("escalated_at", Time, nullable=True),
    sa.Column("acknowledged_by", sa.Text, nullable=True),
    sa.Column("cleared_by", sa.Text, nullable=True),
)
sa.Index(
    "one_open_alarm",
    alarm.c.threshold,
    alarm.c.metric,
    alarm.c.instrument,
    alarm.c.subject,
    unique=True,
    sqlite_where=sa.text(OPEN),
    postgresql_where=sa.text(OPEN),
)

# What was done with an alarm, by whom and why.
alarm_event = sa.Table(
    "qc_alarm_event",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("alarm", Big, sa.ForeignKey("qc_alarm.id"), nullable=False, index=True),
    sa.Column("at", Time, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
)

# Calibration products with one validity, in a CALIBRATION collection of their own; approved, it is in the chain that users read.
certification = sa.Table(
    "qc_certification",
    metadata,
    sa.Column("collection", sa.Text, primary_key=True),
    sa.Column("chain", sa.Text, nullable=False, index=True),
    sa.Column("campaign", sa.Text, nullable=False),
    sa.Column("begin", sa.Text, nullable=False),  # ISO, TAI; without end
    sa.Column("digest", sa.Text, nullable=False),  # SHA-256 of what is certified: what is approved is that and nothing else
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("approved_by", sa.Text, nullable=True),
    sa.Column("approved_at", Time, nullable=True),
    sa.Column("why", sa.Text, nullable=False),
)

certified_product = sa.Table(
    "qc_certified_product",
    metadata,
    sa.Column("collection", sa.Text, sa.ForeignKey("qc_certification.collection"), nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("dataset_type", sa.Text, nullable=False),
    sa.Column("data_id", sa.Text, nullable=False),  # JSON, keys in order
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("withdrawn_by", sa.Text, nullable=True),
    sa.Column("withdrawn_at", Time, nullable=True),
    sa.PrimaryKeyConstraint("collection", "dataset"),
    sa.Index("ix_qc_certified_product_dataset", "dataset"),
    sa.Index("ix_qc_certified_product_withdrawn_at", "withdrawn_at"),
)


class QualityTables(Database):
    """The tables of quality control, open; in the ledger's database."""

    noun = "quality control's tables"
    migrations = Path(__file__).parent / "migrations"
    version_table = VERSION_TABLE
    upgrade_lock = 7_224_663

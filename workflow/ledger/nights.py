"""The prompt ledger: nights, their workers, their visits, and what became of each visit on each detector.

Times are seconds since 1970 (UTC). What the database itself enforces: one row for a visit of a night, one for each of its
detectors, one living worker for a detector, one order for a key of the pool.
"""

from __future__ import annotations

import sqlalchemy as sa

from workflow.ledger.tables import Big, Json, Time, metadata


def _night_key() -> sa.Column[str]:
    return sa.Column("night", sa.Text, sa.ForeignKey("night.name"), nullable=False)


night = sa.Table(
    "night",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("instrument", sa.Text, nullable=False),
    sa.Column("day_obs", sa.Integer, nullable=False),
    sa.Column("skymap", sa.Text, nullable=False),
    sa.Column("detectors", Json, nullable=False),
    sa.Column("fields", Json, nullable=False),  # that it will see, as far as is known before: loaded at arming
    sa.Column("science", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("opened", Time, nullable=False),
    sa.Column("armed", Time),  # when every detector first had an armed worker
    sa.Column("drained", Time),  # when it was told to end
    sa.Column("closed", Time),
    sa.Column("lock_holder", sa.Text),
    sa.Column("lock_epoch", Big, nullable=False, server_default="0"),
    sa.Column("lock_expires", Time),
    # Of an instrument, one night at a time: its workers listen to the same queues.
    sa.Index(
        "one_open_night",
        "instrument",
        unique=True,
        sqlite_where=sa.text("closed IS NULL"),
        postgresql_where=sa.text("closed IS NULL"),
    ),
)

worker = sa.Table(
    "prompt_worker",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),  # of its job in the pool
    _night_key(),
    sa.Column("detector", sa.Integer, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("ordered", Time, nullable=False),
    sa.Column("armed", Time),
    sa.Column("beat", Time),
    sa.Column("ended", Time),
    sa.Column("host", sa.Text, nullable=False, server_default=""),
    sa.Column("preload_s", sa.Double),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("night", "detector", "ordinal", name="uq_prompt_worker_ordinal"),
    sa.Index(
        "one_living_worker",
        "night",
        "detector",
        unique=True,
        sqlite_where=sa.text("ended IS NULL"),
        postgresql_where=sa.text("ended IS NULL"),
    ),
)

visit = sa.Table(
    "prompt_visit",
    metadata,
    _night_key(),
    sa.Column("visit", Big, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("exposures", Json, nullable=False),
    sa.Column("field", sa.Text, nullable=False, server_default=""),
    sa.Column("physical_filter", sa.Text, nullable=False, server_default=""),
    sa.Column("announced", Time),  # none: its frames came without a word before
    sa.Column("told", Time),  # when the workers were told
    sa.Column("announcement", Json),
    sa.Column("actor", sa.Text, nullable=False, server_default=""),
    sa.Column("expected_end", Time, nullable=False),
    sa.Column("readout_end", Time),
    sa.PrimaryKeyConstraint("night", "visit"),
)

part = sa.Table(
    "prompt_part",
    metadata,
    sa.Column("night", sa.Text, nullable=False),
    sa.Column("visit", Big, nullable=False),
    sa.Column("detector", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False, server_default=""),
    sa.Column("since", Time, nullable=False),  # in this stage
    sa.Column("worker", sa.Text, nullable=False, server_default=""),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),  # workers that had it
    sa.Column("received", Time),
    sa.Column("stored", Time),
    sa.Column("ended", Time),
    sa.Column("alerts_out", Time),
    sa.Column("alerts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("sources", sa.Integer, nullable=False, server_default="0"),
    sa.Column("stages", Json, nullable=False),
    sa.Column("quality", Json, nullable=False),
    sa.Column("stamps", sa.Text, nullable=False, server_default=""),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("mechanism", sa.Text, nullable=False, server_default=""),
    sa.Column("peak_mb", sa.Double, nullable=False, server_default="0"),
    sa.Column("cpu_s", sa.Double, nullable=False, server_default="0"),
    sa.Column("handed", sa.Text),  # the campaign that does it offline
    sa.PrimaryKeyConstraint("night", "visit", "detector"),
    sa.Index(
        "parts_not_done",
        "night",
        sqlite_where=sa.text("ended IS NULL"),
        postgresql_where=sa.text("ended IS NULL"),
    ),
)

# What happened, in words, for the reports.
event = sa.Table(
    "night_event",
    metadata,
    sa.Column("seq", Big, sa.Identity(), primary_key=True),
    _night_key(),
    sa.Column("at", Time, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("visit", Big),
    sa.Column("detector", sa.Integer),
    sa.Column("words", sa.Text, nullable=False),
    sa.Index("ix_night_event_night_seq", "night", "seq"),
)

"""The catalog's tables. Times are seconds since 1970 (UTC). Changes go through backbone/migrations.

Ten million replicas are looked after at the cost of those that change:
- files that differ in key, content and date alone share a *cohort*; policies are worked out for cohorts, never for files;
- `want` is what policies ask of a cohort at an endpoint, with the date up to which ages have been worked off;
- `transfer` is the pending table: what must still be done, no more; its indexes are those of the ready rows alone;
- `rule_file` knows which files of a rule are not there yet, by a partial index.

Rows of files have no foreign keys: their checks cost a third of a bulk registration, and every writer is in this folder.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows by INTEGER alone
Key = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # sorted by bytes, as endpoints list them
Time: sa.Double[float] = sa.Double()


def _partial(name: str, *columns: Any, where: str, unique: bool = False) -> sa.Index:
    text = sa.text(where)
    return sa.Index(name, *columns, unique=unique, sqlite_where=text, postgresql_where=text)


endpoint = sa.Table(
    "bb_endpoint",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("identity", sa.Text),  # what its place says that it is (backbone/identity.py); none until it was first asked
)

link = sa.Table(
    "bb_link",
    metadata,
    sa.Column("source", sa.Integer, nullable=False),
    sa.Column("target", sa.Integer, nullable=False),
    sa.Column("cost", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("source", "target"),
)

# What was moved over a link in a minute.
flow = sa.Table(
    "bb_flow",
    metadata,
    sa.Column("source", sa.Integer, nullable=False),
    sa.Column("target", sa.Integer, nullable=False),
    sa.Column("minute", Big, nullable=False),
    sa.Column("files", Big, nullable=False),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("failures", Big, nullable=False),
    sa.PrimaryKeyConstraint("source", "target", "minute"),
    sa.Index("ix_bb_flow_minute", "minute"),
)

# What waits for an endpoint, added up now and then where that is too much to be added up by whoever asks.
backlog = sa.Table(
    "bb_backlog",
    metadata,
    sa.Column("target", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("bytes", Big, nullable=False),
)

cohort = sa.Table(
    "bb_cohort",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("dataset_type", sa.Text, nullable=False),
    sa.Column("collection", sa.Text, nullable=False),
    sa.Column("instrument", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),  # a sorted JSON list
    sa.Column("media_type", sa.Text, nullable=False),
    sa.Column("retention", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("access", sa.Text, nullable=False),
    sa.Column("public_after_s", Time),  # not before; from policies
    sa.Column("public_latest_s", Time),  # by itself at this age
    sa.Column("floor", sa.Integer, nullable=False),  # copies below which nothing is deleted
    sa.Column("drop_after_s", Time),  # un-archived: at this age even the last copy goes
    sa.Column("grace_s", Time),
    sa.UniqueConstraint(
        "dataset_type", "collection", "instrument", "tags", "media_type", "retention", "owner", "access", name="uq_bb_cohort"
    ),
)

want = sa.Table(
    "bb_want",
    metadata,
    sa.Column("cohort", Big, nullable=False),
    sa.Column("endpoint", sa.Integer, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("within_s", Time, nullable=False),
    sa.Column("after_s", Time, nullable=False),  # asked for from this age on
    sa.Column("keep_s", Time),  # until this age; none: for ever
    sa.Column("fetch", sa.Boolean, nullable=False),  # false: kept where it is found, never brought there
    sa.Column("policies", Json, nullable=False),  # their names
    # Files created up to here have been asked for, or let go, because of their age; `…_at` is when the next ones are due.
    sa.Column("copied_to", Time, nullable=False),
    sa.Column("copy_at", Time),
    sa.Column("expired_to", Time, nullable=False),
    sa.Column("expire_at", Time),
    sa.PrimaryKeyConstraint("cohort", "endpoint"),
    _partial("ix_bb_want_copy_at", "copy_at", where="copy_at IS NOT NULL"),
    _partial("ix_bb_want_expire_at", "expire_at", where="expire_at IS NOT NULL"),
)

policy = sa.Table(
    "bb_policy",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("definition", Json, nullable=False),
    sa.Column("applied", Time, nullable=False),
)

# What a change of policies asks of files that were there before it (backbone/policy_walk.py): of a cohort's, those created after
# `first` and until `last` are asked for at the endpoint, those until `until` are let go there from `due` on.
change = sa.Table(
    "bb_change",
    metadata,
    sa.Column("cohort", Big, nullable=False),
    sa.Column("endpoint", sa.Integer, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("within_s", Time, nullable=False),
    sa.Column("after_s", Time, nullable=False),
    sa.Column("keep_s", Time),
    sa.Column("fetch", sa.Boolean, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False),  # no policy asks for anything there any more
    sa.Column("first", Time, nullable=False),
    sa.Column("last", Time, nullable=False),
    sa.Column("until", Time),
    sa.Column("due", Time, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("cohort", "endpoint"),
)

# How far a cohort's files have been gone through for it, by date of creation and number; of those up to number `last`.
walk = sa.Table(
    "bb_walk",
    metadata,
    sa.Column("cohort", Big, primary_key=True, autoincrement=False),
    sa.Column("created", Time, nullable=False),
    sa.Column("file", Big, nullable=False),
    sa.Column("last", Big, nullable=False),
)

file = sa.Table(
    "bb_file",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("key", Key, nullable=False),
    sa.Column("size", Big, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("cohort", Big, nullable=False),
    sa.Column("created", Time, nullable=False),
    sa.Column("public_from", Time),  # set by an act of publication; else the cohort's ages hold
    sa.Column("dropped", Time),  # un-archived and gone by policy; this row is its provenance
    sa.UniqueConstraint("key"),
    sa.Index("ix_bb_file_cohort_created_id", "cohort", "created", "id"),
)

replica = sa.Table(
    "bb_replica",
    metadata,
    sa.Column("file", Big, nullable=False),
    sa.Column("endpoint", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("origin", sa.Boolean, nullable=False),  # somebody put it there; not a copy of the backbone's own
    sa.Column("verified", Time),
    # AVAILABLE: nothing asks for it, and from then on it may be deleted. DELETING: that has begun; the worker's lease ends then.
    sa.Column("due", Time),
    sa.Column("reason", sa.Text),
    sa.PrimaryKeyConstraint("file", "endpoint"),
    _partial("ix_bb_replica_state", "endpoint", "state", where="state <> 'AVAILABLE'"),
    _partial("ix_bb_replica_due", "endpoint", "due", where="due IS NOT NULL"),
)

transfer = sa.Table(
    "bb_transfer",
    metadata,
    sa.Column("file", Big, nullable=False),
    sa.Column("target", sa.Integer, nullable=False),
    sa.Column("source", sa.Integer),  # none yet: no whole copy has a link to the target
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("deadline", Time, nullable=False),
    sa.Column("created", Time, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("due", Time),  # WAITING: the next attempt; RUNNING: when the lease ends
    sa.Column("worker", sa.Text),
    sa.Column("reason", sa.Text),
    sa.PrimaryKeyConstraint("file", "target"),
    _partial("ix_bb_transfer_ready", "source", "target", sa.text("priority DESC"), "deadline", "file", where="state = 'PENDING'"),
    _partial("ix_bb_transfer_due", "due", where="due IS NOT NULL"),
    _partial("ix_bb_transfer_state", "state", "target", where="state <> 'PENDING'"),
)

rule = sa.Table(
    "bb_rule",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("target", sa.Integer, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("deadline", Time, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created", Time, nullable=False),
    sa.Column("released", Time),
    sa.Column("files", Big, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),  # of what was asked for: the same name cannot ask for something else
)

rule_file = sa.Table(
    "bb_rule_file",
    metadata,
    sa.Column("rule", Big, nullable=False),
    sa.Column("file", Big, nullable=False),
    sa.Column("target", sa.Integer, nullable=False),
    sa.Column("ok", sa.Boolean, nullable=False),
    sa.PrimaryKeyConstraint("rule", "file"),
    sa.Index("ix_bb_rule_file_file_target", "file", "target"),
    _partial("ix_bb_rule_file_open", "rule", where="NOT ok"),
)

# A put that has begun: removed in the transaction that registers the file.
intent = sa.Table(
    "bb_intent",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("endpoint", sa.Integer, nullable=False),
    sa.Column("key", Key, nullable=False),
    sa.Column("file", Json, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Index("ix_bb_intent_at", "at"),
)

# Objects at endpoints that the catalog does not know, since when.
orphan = sa.Table(
    "bb_orphan",
    metadata,
    sa.Column("endpoint", sa.Integer, nullable=False),
    sa.Column("key", Key, nullable=False),
    sa.Column("seen", Time, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # SEEN, then QUARANTINED where nothing tells what it is
    sa.Column("reason", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("endpoint", "key"),
)

history = sa.Table(
    "bb_history",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("at", Time, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("file", Big),
    sa.Column("endpoint", sa.Integer),
    sa.Column("why", sa.Text),
    _partial("ix_bb_history_file", "file", where="file IS NOT NULL"),
)

# How far an endpoint's scrubbing is; files, bytes and damaged are of the round that is under way.
scrub = sa.Table(
    "bb_scrub",
    metadata,
    sa.Column("endpoint", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", Big, nullable=False),  # the last file that was read
    sa.Column("rounds", sa.Integer, nullable=False),  # finished ones
    sa.Column("began", Time, nullable=False),
    sa.Column("ended", Time),  # of the last round that was finished
    sa.Column("files", Big, nullable=False),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("damaged", Big, nullable=False),
)

"""The ledger's tables. Times are seconds of the engine's clock (Unix, UTC). Changes go through workflow/migrations.

What the database itself enforces: one quantum per (campaign, step, label, data ID, generation); one current generation of each;
at most one accepted attempt per quantum; one outbox row per acceptance. It also counts: triggers of the migrations write into
`tally` what every statement does to the states of current quanta, so that nobody ever counts all quanta of a campaign.
"""

from __future__ import annotations

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

Id = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
# Empty is NULL: a million successes that read nothing of their own job must not store three million empty lists.
JsonOrNull = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows by INTEGER alone
Time: sa.Double[float] = sa.Double()


def _campaign_key() -> sa.Column[str]:
    return sa.Column("campaign", sa.Text, sa.ForeignKey("campaign.name"), nullable=False)


campaign = sa.Table(
    "campaign",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("production", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("definition", Json, nullable=False),
    sa.Column("parameters", Json, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("access", sa.Text, nullable=False),  # a group of readers, or "public"
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("hold", sa.Text),  # of a PAUSED one: drain or hold
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),  # among campaigns of its kind: higher goes first
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("created", Time, nullable=False),
    sa.Column("ended", Time),
    sa.Column("lock_holder", sa.Text),
    sa.Column("lock_epoch", Big, nullable=False, server_default="0"),
    sa.Column("lock_expires", Time),
    sa.Index("ix_campaign_state", "state"),
)

step = sa.Table(
    "step",
    metadata,
    _campaign_key(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("released", sa.Boolean, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("finished", sa.Integer, nullable=False, server_default="0"),  # finish actions done
    sa.Column("coverage", sa.Integer),  # quanta when it was first planned: whatever is done to it later, never more
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.PrimaryKeyConstraint("campaign", "name"),
)

group = sa.Table(
    "group_",
    metadata,
    _campaign_key(),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("graph_key", sa.Text, nullable=False),
    sa.Column("config_key", sa.Text, nullable=False),
    sa.Column("values_", Json, nullable=False),
    sa.Column("init_records", Json, nullable=False),
    sa.Column("quanta", sa.Integer, nullable=False),
    sa.Column("planned", Time, nullable=False),
    sa.PrimaryKeyConstraint("campaign", "step", "generation", "name"),
)

quantum = sa.Table(
    "quantum",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("campaign", sa.Text, nullable=False),  # no foreign key: a check per row; the lock's own row is held by who writes
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("data_id", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("current", sa.Boolean, nullable=False),
    sa.Column("group_", sa.Text, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("job", Id),  # whose outcome counts, while PENDING or RUNNING
    sa.Column("memory_mb", sa.Integer),  # grown after an out-of-memory failure
    sa.UniqueConstraint("campaign", "step", "label", "data_id", "generation", name="uq_quantum_coverage"),
    sa.Index(
        "one_current_generation",
        "campaign",
        "step",
        "label",
        "data_id",
        unique=True,
        sqlite_where=sa.text("current"),
        postgresql_where=sa.text("current"),
    ),
    # Only what is not done: dispatch reads its window from here, and acceptance takes rows out of it.
    sa.Index(
        "unfinished",
        "campaign",
        "step",
        "state",
        "group_",
        "ordinal",
        sqlite_where=sa.text("current AND state <> 'SUCCEEDED'"),
        postgresql_where=sa.text("current AND state <> 'SUCCEEDED'"),
    ),
    sa.Index("ix_quantum_job", "job", sqlite_where=sa.text("job IS NOT NULL"), postgresql_where=sa.text("job IS NOT NULL")),
)

# As the index says it, word for word: SQLite takes a partial index only for that, and a Boolean column would be `= 1` to it.
UNFINISHED = sa.and_(sa.literal_column("quantum.current"), quantum.c.state != sa.literal_column("'SUCCEEDED'"))

# Signed changes, appended by triggers: the sum is the count. Rows of a campaign are folded together by its engine.
tally = sa.Table(
    "tally",
    metadata,
    sa.Column("seq", Big, sa.Identity(), primary_key=True),
    sa.Column("campaign", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("n", Big, nullable=False),
    sa.Index("ix_tally_campaign", "campaign"),
)

edge = sa.Table(
    "edge",
    metadata,
    sa.Column("child", Id, nullable=False),
    sa.Column("parent", Id, nullable=False),
    sa.PrimaryKeyConstraint("child", "parent"),
    sa.Index("ix_edge_parent", "parent"),
)

calibration_use = sa.Table(
    "calibration_use",
    metadata,
    sa.Column("quantum", Id, nullable=False),
    sa.Column("dataset", Id, nullable=False),
    sa.Column("dataset_type", sa.Text, nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("collection", sa.Text),  # the certification; empty where the calibration was taken from its RUN
    sa.PrimaryKeyConstraint("quantum", "dataset"),
    sa.Index("ix_calibration_use_dataset", "dataset"),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", Id, primary_key=True),
    _campaign_key(),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("group_", sa.Text, nullable=False),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("pool_job", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("memory_mb", sa.Integer, nullable=False),
    sa.Column("time_limit_s", sa.Double, nullable=False),
    sa.Column("quanta", sa.Integer, nullable=False),
    sa.Column("created", Time, nullable=False),
    sa.Column("started", Time),  # when its pool was first seen to run it
    sa.Column("ended", Time),
    sa.Column("exit_code", sa.Integer),
    sa.Column("host", sa.Text),
    sa.Column("software", sa.Text),  # digest of the set of versions that it said it runs
    sa.Column("segments", sa.Integer, nullable=False, server_default="0"),  # collected so far
    sa.Column("heartbeat", sa.Text),
    sa.Column("lease_expires", Time, nullable=False),
    sa.Column("swept", Time),
    sa.Index("ix_job_campaign_state", "campaign", "state"),
    sa.Index("ix_job_site_created", "site", "created"),
    # What the engine still has to do with; of a year's jobs, the few of now.
    sa.Index("unswept", "campaign", sqlite_where=sa.text("swept IS NULL"), postgresql_where=sa.text("swept IS NULL")),
)

attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("quantum", Id, nullable=False),
    sa.Column("job", Id, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("quantum", "job"),
    sa.Index("ix_attempt_job", "job"),
)

outcome = sa.Table(
    "outcome",
    metadata,
    sa.Column("quantum", Id, nullable=False),
    sa.Column("job", Id, nullable=False),
    # job: its own report. engine: a charge for what it did not report; what it reports after all has its own row.
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("failure_class", sa.Text),
    sa.Column("forgiven", sa.Boolean, nullable=False),  # by an operator's retry: no longer counted against a budget
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("wall_s", sa.Double, nullable=False),
    sa.Column("cpu_s", sa.Double, nullable=False),
    sa.Column("peak_mb", sa.Double, nullable=False),
    sa.Column("reads", JsonOrNull),
    sa.Column("unwritten", JsonOrNull),
    sa.Column("records", JsonOrNull),
    sa.Column("collected", Time, nullable=False),
    sa.PrimaryKeyConstraint("quantum", "job", "origin"),
    sa.Index("ix_outcome_job", "job"),
)

# Origins of outcomes.
REPORTED, CHARGED = "job", "engine"

accepted = sa.Table(
    "accepted",
    metadata,
    sa.Column("quantum", Id, primary_key=True),
    sa.Column("job", Id, nullable=False),
    sa.Index("ix_accepted_job", "job"),
)

segment_file = sa.Table(
    "segment_file",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("job", Id, nullable=False),
    sa.Column("size", Big, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("seq", Big, sa.Identity(), primary_key=True),
    sa.Column("campaign", sa.Text, nullable=False),
    sa.Column("quantum", Id, nullable=False, unique=True),
    sa.Column("job", Id, nullable=False),
    sa.Column("stage_out", Big),  # with which batch its files go to the archive; none where there is one endpoint alone
    sa.Column("published", Time),
    # By what is unpublished, never by `seq > last`: sequence numbers become visible out of order.
    sa.Index(
        "unpublished", "campaign", "seq", sqlite_where=sa.text("published IS NULL"), postgresql_where=sa.text("published IS NULL")
    ),
)

# Where a group's jobs go, and why; the row with the highest ordinal counts.
placement = sa.Table(
    "placement",
    metadata,
    _campaign_key(),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("group_", sa.Text, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("reasons", Json, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("rules", Json, nullable=False),  # of the backbone: what must be at the site before jobs are
    sa.Column("staged", Time),
    sa.Column("waits", sa.Text, nullable=False, server_default=""),  # what for, in words
    sa.Column("released", Time),  # the rules are over
    sa.PrimaryKeyConstraint("campaign", "step", "generation", "group_", "ordinal"),
)

# An operator's word about sites and machines; an empty step or group means all of them.
site_word = sa.Table(
    "site_word",
    metadata,
    _campaign_key(),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("group_", sa.Text, nullable=False),
    sa.Column("only_sites", Json, nullable=False),
    sa.Column("never_sites", Json, nullable=False),
    sa.Column("only_machines", Json, nullable=False),
    sa.Column("never_machines", Json, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.PrimaryKeyConstraint("campaign", "step", "group_"),
)

# Accepted outputs on their way to the archive: published when whole there.
stage_out = sa.Table(
    "stage_out",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    _campaign_key(),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("rule", sa.Text),  # none where the site's endpoint is the archive
    sa.Column("files", Big, nullable=False),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("created", Time, nullable=False),
    sa.Column("whole", Time),
    sa.Index("not_whole", "campaign", sqlite_where=sa.text("whole IS NULL"), postgresql_where=sa.text("whole IS NULL")),
)

action = sa.Table(
    "action",
    metadata,
    sa.Column("seq", Big, sa.Identity(), primary_key=True),
    sa.Column("at", Time, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("campaign", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Index("ix_action_campaign", "campaign"),
)

backlog = sa.Table(
    "backlog",
    metadata,
    sa.Column("quantum", Id, primary_key=True),
    _campaign_key(),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("visit", Big),
    sa.Column("detector", sa.Integer),
    sa.Column("data_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Index("ix_backlog_campaign", "campaign"),
)

label_stats = sa.Table(
    "label_stats",
    metadata,
    sa.Column("production", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("samples", Big, nullable=False),
    sa.Column("wall_s", sa.Double, nullable=False),  # mean over the latest samples
    sa.Column("peak_mb", sa.Double, nullable=False),  # largest seen
    sa.Column("memory_mb", sa.Integer),  # grown after out-of-memory failures; remembered across campaigns
    sa.PrimaryKeyConstraint("production", "label"),
)

command_run = sa.Table(
    "command_run",
    metadata,
    sa.Column("command", sa.Text, primary_key=True),  # the observatory control system's own id
    sa.Column("run", sa.Text, nullable=False),  # the orchestrator's run
    sa.Column("campaign", sa.Text),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("payload", Json, nullable=False),
)


def accepted_outcome() -> sa.ColumnElement[bool]:
    """Joins `accepted` and the one outcome that was accepted."""
    return sa.and_(accepted.c.quantum == outcome.c.quantum, accepted.c.job == outcome.c.job, outcome.c.origin == REPORTED)

"""Tables of who changed what, and of what ran: hot fixes, software, task configurations, hosts that fail, what passive rules say.

In the same metadata as the others, and changed by the same migrations.
"""

from __future__ import annotations

import sqlalchemy as sa

from workflow.ledger.tables import Big, Id, Json, Time, metadata

# Once for each distinct set; jobs name its digest.
software = sa.Table(
    "software",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("versions", Json, nullable=False),  # package → version
    sa.Column("first_seen", Time, nullable=False),
)

# Digest of each task's whole configuration; the text itself is the RUN's dataset {label}_config.
task_config = sa.Table(
    "task_config",
    metadata,
    sa.Column("campaign", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("campaign", "step", "generation", "label"),
)

hotfix = sa.Table(
    "hotfix",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("campaign", sa.Text, sa.ForeignKey("campaign.name"), nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("selection", Json, nullable=False),  # the query, as it was given
    sa.Column("software", sa.Text),
    sa.Column("config", Json, nullable=False),  # task label → field → value
    sa.Column("effect", Json, nullable=False),  # the blast radius, as it was shown
    sa.Index("ix_hotfix_campaign", "campaign"),
)

# What a step's generation is bound to, where that is not what its production says.
binding = sa.Table(
    "binding",
    metadata,
    sa.Column("campaign", sa.Text, sa.ForeignKey("campaign.name"), nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("software", sa.Text),
    sa.Column("config", Json, nullable=False),
    sa.Column("hotfix", Big, nullable=False),
    sa.PrimaryKeyConstraint("campaign", "step", "generation"),
)

# A row for each job that failed for its host's sake.
host_failure = sa.Table(
    "host_failure",
    metadata,
    sa.Column("job", Id, primary_key=True),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("campaign", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Index("ix_host_failure_site_at", "site", "at"),
)

# What rules that are only tried out would have done.
passive_finding = sa.Table(
    "passive_finding",
    metadata,
    sa.Column("campaign", sa.Text, sa.ForeignKey("campaign.name"), nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("rule", sa.Integer, nullable=False),  # its place in the production's list
    sa.Column("would", sa.Text, nullable=False),
    sa.Column("instead_of", sa.Text, nullable=False),
    sa.Column("count", Big, nullable=False),
    sa.Column("example", Id, nullable=False),  # the first quantum
    sa.PrimaryKeyConstraint("campaign", "step", "label", "rule", "would", "instead_of"),
)

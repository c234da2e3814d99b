"""Tables of the alert service. Times are seconds since 1970 (UTC). Changes go through services/alerts/migrations.

A stream is a log of alerts in one order; a subscriber reads one stream. All subscribers of everything read the stream `alerts`,
each user of filters has one of its own. A row of `al_outbox` promises an alert to the subscribers of a stream; its position is
the number that the broker knows the message by, without a gap, so that publishing it twice is the same as once.

A frame (a visit on a detector) is told by one batch; alerts that are brought of it afterwards are kept, and withheld.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows by INTEGER alone
Time: sa.Double[float] = sa.Double()

batch = sa.Table(
    "al_batch",
    metadata,
    sa.Column("id", Big, sa.Identity(), primary_key=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),  # of the archive's object
    sa.Column("visit", Big, nullable=False, index=True),
    sa.Column("detector", sa.Integer, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("instrument", sa.Text, nullable=False, server_default=""),  # empty: nobody said
    sa.Column("origin", sa.Text, nullable=False, server_default=""),  # who brought it; empty: nobody said
    sa.Column("teller", Big),  # the batch that had told the frame: this one tells nothing
    sa.Column("withheld", sa.Integer, nullable=False, server_default="0"),  # rows that it then has in al_withheld
)

# Frames of which alerts were told, and by which batch.
frame = sa.Table(
    "al_frame",
    metadata,
    sa.Column("instrument", sa.Text, nullable=False),
    sa.Column("visit", Big, nullable=False),
    sa.Column("detector", sa.Integer, nullable=False),
    sa.Column("batch", Big, nullable=False),
    sa.PrimaryKeyConstraint("visit", "detector", "instrument"),
)

# Alerts of the archive: what makes an alert come once is that its id is here once.
alert = sa.Table(
    "al_alert",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=False),  # diaSourceId
    sa.Column("batch", Big, nullable=False, index=True),
    sa.Column("start", Big, nullable=False),  # of its Avro in the object, bytes
    sa.Column("size", Big, nullable=False),
    sa.Column("object", Big),  # diaObjectId
    sa.Index("ix_al_alert_object", "object"),
)

# Alerts that were brought of a frame that another batch had told: no stream has them. Columns as in al_alert.
withheld = sa.Table(
    "al_withheld",
    metadata,
    sa.Column("batch", Big, nullable=False),
    sa.Column("id", Big, nullable=False),
    sa.Column("start", Big, nullable=False),
    sa.Column("size", Big, nullable=False),
    sa.Column("object", Big),
    sa.PrimaryKeyConstraint("batch", "id"),
    sa.Index("ix_al_withheld_id", "id"),
)

# Datasets of the repository that need not be read again, and how many of their alerts subscribers have.
collected = sa.Table(
    "al_collected",
    metadata,
    sa.Column("dataset", sa.Text, primary_key=True),  # its UUID
    sa.Column("told", sa.Integer, nullable=False),
    sa.Column("at", Time, nullable=False),
)

# Packets that a subscriber of the service could not use, and went past. The archive has what was promised.
damaged = sa.Table(
    "al_damaged",
    metadata,
    sa.Column("subscriber", sa.Text, nullable=False),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("position", Big, nullable=False),
    sa.Column("alert", Big),  # that was promised there
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.PrimaryKeyConstraint("stream", "position", "subscriber"),
)

stream = sa.Table(
    "al_stream",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last", Big, nullable=False),  # position given out last, from 1
    sa.Column("published", Big, nullable=False),  # up to here the broker has said yes
)

outbox = sa.Table(
    "al_outbox",
    metadata,
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("position", Big, nullable=False),
    sa.Column("alert", Big, nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.PrimaryKeyConstraint("stream", "position"),
    sa.UniqueConstraint("stream", "alert"),
)

subscriber = sa.Table(
    "al_subscriber",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),  # SHA-256 of 32 random bytes, in hex
    sa.Column("made", Time, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
)

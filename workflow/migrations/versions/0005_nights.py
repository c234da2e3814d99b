"""The prompt ledger: nights, their workers, visits and parts, and what happened."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OPEN, _ALIVE = sa.text("closed IS NULL"), sa.text("ended IS NULL")


def _text(name: str, default: str | None = "") -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default=default)


def _time(name: str, *, nullable: bool = True) -> sa.Column[float]:
    return sa.Column(name, sa.Double(), nullable=nullable)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "night",
        _text("name", None),
        _text("instrument", None),
        sa.Column("day_obs", sa.Integer(), nullable=False),
        _text("skymap", None),
        sa.Column("detectors", _JSON, nullable=False),
        sa.Column("fields", _JSON, nullable=False),
        _text("science", None),
        _text("state", None),
        _text("reason"),
        _text("actor", None),
        _time("opened", nullable=False),
        _time("armed"),
        _time("drained"),
        _time("closed"),
        sa.Column("lock_holder", sa.Text(), nullable=True),
        sa.Column("lock_epoch", _BIG, server_default="0", nullable=False),
        _time("lock_expires"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_night")),
    )
    op.create_index("one_open_night", "night", ["instrument"], unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.create_table(
        "prompt_worker",
        _text("key", None),
        _text("night", None),
        sa.Column("detector", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        _text("state", None),
        _time("ordered", nullable=False),
        _time("armed"),
        _time("beat"),
        _time("ended"),
        _text("host"),
        _time("preload_s"),
        _text("reason"),
        sa.ForeignKeyConstraint(["night"], ["night.name"], name=op.f("fk_prompt_worker_night")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_prompt_worker")),
        sa.UniqueConstraint("night", "detector", "ordinal", name="uq_prompt_worker_ordinal"),
    )
    op.create_index(
        "one_living_worker", "prompt_worker", ["night", "detector"], unique=True, sqlite_where=_ALIVE, postgresql_where=_ALIVE
    )
    op.create_table(
        "prompt_visit",
        _text("night", None),
        sa.Column("visit", _BIG, nullable=False),
        _text("mode", None),
        sa.Column("exposures", _JSON, nullable=False),
        _text("field"),
        _text("physical_filter"),
        _time("announced"),
        _time("told"),
        sa.Column("announcement", _JSON, nullable=True),
        _text("actor"),
        _time("expected_end", nullable=False),
        _time("readout_end"),
        sa.ForeignKeyConstraint(["night"], ["night.name"], name=op.f("fk_prompt_visit_night")),
        sa.PrimaryKeyConstraint("night", "visit", name=op.f("pk_prompt_visit")),
    )
    op.create_table(
        "prompt_part",
        _text("night", None),
        sa.Column("visit", _BIG, nullable=False),
        sa.Column("detector", sa.Integer(), nullable=False),
        _text("state", None),
        _text("stage"),
        _time("since", nullable=False),
        _text("worker"),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        _time("received"),
        _time("stored"),
        _time("ended"),
        _time("alerts_out"),
        sa.Column("alerts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sources", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stages", _JSON, nullable=False),
        sa.Column("quality", _JSON, nullable=False),
        _text("stamps"),
        _text("reason"),
        _text("mechanism"),
        sa.Column("peak_mb", sa.Double(), server_default="0", nullable=False),
        sa.Column("cpu_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("handed", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("night", "visit", "detector", name=op.f("pk_prompt_part")),
    )
    op.create_index("parts_not_done", "prompt_part", ["night"], unique=False, sqlite_where=_ALIVE, postgresql_where=_ALIVE)
    op.create_table(
        "night_event",
        sa.Column("seq", _BIG, sa.Identity(always=False), nullable=False),
        _text("night", None),
        _time("at", nullable=False),
        _text("kind", None),
        sa.Column("visit", _BIG, nullable=True),
        sa.Column("detector", sa.Integer(), nullable=True),
        _text("words", None),
        sa.ForeignKeyConstraint(["night"], ["night.name"], name=op.f("fk_night_event_night")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_night_event")),
    )
    op.create_index("ix_night_event_night_seq", "night_event", ["night", "seq"], unique=False)


def downgrade() -> None:
    """Undo."""
    for name in ("night_event", "prompt_part", "prompt_visit", "prompt_worker", "night"):
        op.drop_table(name)

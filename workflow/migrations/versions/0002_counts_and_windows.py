"""Counts kept by triggers, windows by partial indexes, compact outcomes: nothing costs more as quanta grow in number."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_UNFINISHED = sa.text("current AND state <> 'SUCCEEDED'")
_UNSWEPT = sa.text("swept IS NULL")
_IN_JOB = sa.text("job IS NOT NULL")

_POSTGRESQL = (
    """
    CREATE FUNCTION pachon_tally_new() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO tally (campaign, step, label, state, n)
        SELECT campaign, step, label, state, count(*) FROM new_rows WHERE current GROUP BY campaign, step, label, state;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION pachon_tally_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO tally (campaign, step, label, state, n)
        SELECT campaign, step, label, state, sum(one) FROM (
            SELECT campaign, step, label, state, 1 AS one FROM new_rows WHERE current
            UNION ALL SELECT campaign, step, label, state, -1 FROM old_rows WHERE current
        ) AS changes GROUP BY campaign, step, label, state HAVING sum(one) <> 0;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER tally_new AFTER INSERT ON quantum REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION pachon_tally_new()
    """,
    """
    CREATE TRIGGER tally_change AFTER UPDATE ON quantum REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION pachon_tally_change()
    """,
)
_SQLITE = (
    """
    CREATE TRIGGER tally_new AFTER INSERT ON quantum WHEN NEW.current BEGIN
        INSERT INTO tally (campaign, step, label, state, n) VALUES (NEW.campaign, NEW.step, NEW.label, NEW.state, 1);
    END
    """,
    """
    CREATE TRIGGER tally_change AFTER UPDATE OF state, current ON quantum
    WHEN OLD.state <> NEW.state OR OLD.current <> NEW.current BEGIN
        INSERT INTO tally (campaign, step, label, state, n)
        SELECT OLD.campaign, OLD.step, OLD.label, OLD.state, -1 WHERE OLD.current;
        INSERT INTO tally (campaign, step, label, state, n)
        SELECT NEW.campaign, NEW.step, NEW.label, NEW.state, 1 WHERE NEW.current;
    END
    """,
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "tally",
        sa.Column("seq", _BIG, sa.Identity(always=False), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("n", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_tally")),
    )
    op.create_index("ix_tally_campaign", "tally", ["campaign"], unique=False)
    with op.batch_alter_table("job") as job:
        job.add_column(sa.Column("started", sa.Double(), nullable=True))
    op.create_index("unswept", "job", ["campaign"], unique=False, sqlite_where=_UNSWEPT, postgresql_where=_UNSWEPT)
    with op.batch_alter_table("outcome") as outcome:
        for name in ("reads", "unwritten", "records"):
            outcome.alter_column(name, existing_type=_JSON, nullable=True)
    with op.batch_alter_table("outbox") as outbox:
        outbox.drop_constraint("fk_outbox_campaign", type_="foreignkey")
    op.drop_index("ix_quantum_state", table_name="quantum")
    op.drop_index("ix_quantum_job", table_name="quantum")
    with op.batch_alter_table("quantum") as quantum:
        quantum.drop_constraint("fk_quantum_campaign", type_="foreignkey")
    op.create_index("ix_quantum_job", "quantum", ["job"], unique=False, sqlite_where=_IN_JOB, postgresql_where=_IN_JOB)
    op.create_index(
        "unfinished",
        "quantum",
        ["campaign", "step", "state", "group_", "ordinal"],
        unique=False,
        sqlite_where=_UNFINISHED,
        postgresql_where=_UNFINISHED,
    )
    op.execute(
        "INSERT INTO tally (campaign, step, label, state, n) "
        "SELECT campaign, step, label, state, count(*) FROM quantum WHERE current GROUP BY campaign, step, label, state"
    )
    for statement in _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)


def downgrade() -> None:
    """Undo."""
    on_table = " ON quantum" if op.get_bind().dialect.name == "postgresql" else ""
    for name in ("tally_new", "tally_change"):
        op.execute(f"DROP TRIGGER {name}{on_table}")
    if on_table:
        op.execute("DROP FUNCTION pachon_tally_new()")
        op.execute("DROP FUNCTION pachon_tally_change()")
    op.drop_index("unfinished", table_name="quantum")
    op.drop_index("ix_quantum_job", table_name="quantum")
    for name in ("quantum", "outbox"):
        with op.batch_alter_table(name) as table:
            table.create_foreign_key(f"fk_{name}_campaign", "campaign", ["campaign"], ["name"])
    op.create_index("ix_quantum_job", "quantum", ["job"], unique=False)
    op.create_index("ix_quantum_state", "quantum", ["campaign", "step", "state"], unique=False)
    rows = sa.table("outcome", *(sa.column(name, _JSON) for name in ("reads", "unwritten", "records")))
    for column, empty in ((rows.c.reads, []), (rows.c.unwritten, []), (rows.c.records, {})):
        op.execute(sa.update(rows).where(column.is_(None)).values({column: empty}))
    with op.batch_alter_table("outcome") as outcome:
        for name in ("reads", "unwritten", "records"):
            outcome.alter_column(name, existing_type=_JSON, nullable=False)
    op.drop_index("unswept", table_name="job")
    with op.batch_alter_table("job") as job:
        job.drop_column("started")
    op.drop_table("tally")

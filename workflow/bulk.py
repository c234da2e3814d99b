"""Acceptance of many successes at once, by statements over all of them (PostgreSQL).

The same rules as workflow/accept.py, for outcomes that read nothing of their own job: whether one of these is accepted depends on
its quantum alone. Ids go into the database once, by COPY, and do not come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateTable

from workflow.accept import ready_children
from workflow.job import Outcome
from workflow.ledger import Ledger
from workflow.ledger.tables import REPORTED, Id, JsonOrNull, accepted, outbox, outcome, quantum
from workflow.states import QUANTUM_TABLE, sources
from workflow.stats import Sample

_staged = sa.Table(
    "staged_success",
    sa.MetaData(),
    sa.Column("quantum", Id),
    sa.Column("wall_s", sa.Double),
    sa.Column("cpu_s", sa.Double),
    sa.Column("peak_mb", sa.Double),
    sa.Column("unwritten", JsonOrNull),
    sa.Column("records", JsonOrNull),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DELETE ROWS",
)
_MEASURES = ("wall_s", "cpu_s", "peak_mb", "unwritten", "records")


def accept_plain(
    ledger: Ledger, connection: Connection, *, campaign: str, job: str, outcomes: Sequence[Outcome], now: float
) -> tuple[list[Sample], list[str]]:
    """Record and accept successes of one job that read nothing of it; what was learned by label, and the quanta refused."""
    # By index, whatever the statistics say: they may be of a time when the tables were small, and never must all be read.
    for method in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"):
        connection.exec_driver_sql(f"SET LOCAL {method} = off")
    connection.execute(CreateTable(_staged, if_not_exists=True))
    rows = [
        {
            "quantum": o.quantum,
            "wall_s": o.wall_s,
            "cpu_s": o.cpu_s,
            "peak_mb": o.peak_mb,
            "unwritten": list(o.unwritten) or None,
            "records": o.records or None,
        }
        for o in outcomes
    ]
    ledger.insert_many(connection, _staged, rows)
    connection.execute(_outcomes(ledger, job, now))
    samples = [
        Sample(label=r.label, n=r.n, wall_s=r.wall_s, peak_mb=r.peak_mb, grown_mb=r.grown_mb)
        for r in connection.execute(_accepting(campaign, job, now))
    ]
    ready_children(connection, sa.select(_staged.c.quantum))
    refused: list[str] = []
    if sum(s.n for s in samples) < len(rows):
        theirs = sa.exists().where(accepted.c.quantum == _staged.c.quantum, accepted.c.job == job)
        refused = [r.quantum for r in connection.execute(sa.select(_staged.c.quantum).where(~theirs))]
    return samples, refused


def _outcomes(ledger: Ledger, job: str, now: float) -> Any:
    same = {"job": sa.cast(job, Id), "origin": REPORTED, "state": "succeeded", "forgiven": False, "error": "", "collected": now}
    columns = [_staged.c.quantum, *(_staged.c[n] for n in _MEASURES), *(_literal(v) for v in same.values())]
    names = ["quantum", *_MEASURES, *same]
    return ledger.insert(outcome).from_select(names, sa.select(*columns)).on_conflict_do_nothing()


def _literal(value: Any) -> Any:
    return value if isinstance(value, sa.ColumnElement) else sa.literal(value)


def _accepting(campaign: str, job: str, now: float) -> Any:
    """Quanta, acceptances and outbox in one statement, which answers with sums by label."""
    before, after = sources(QUANTUM_TABLE, "accept")
    taken = (
        quantum.update()
        .where(quantum.c.id == _staged.c.quantum, quantum.c.current, quantum.c.state.in_(before))
        .values(state=after, job=None)
        .returning(
            quantum.c.id,
            quantum.c.label,
            quantum.c.memory_mb,
            _staged.c.wall_s,
            _staged.c.peak_mb,
            _staged.c.records.is_(None).label("empty"),
        )
        .cte("taken")
    )
    mine = sa.cast(job, Id)
    as_accepted = accepted.insert().from_select(["quantum", "job"], sa.select(taken.c.id, mine)).cte("as_accepted")
    published = sa.case((taken.c.empty, sa.literal(now)))  # what wrote nothing has nothing to be published
    as_sent = (
        outbox.insert()
        .from_select(["campaign", "quantum", "job", "published"], sa.select(sa.literal(campaign), taken.c.id, mine, published))
        .cte("as_sent")
    )
    sums = (
        sa.func.count().label("n"),
        sa.func.sum(taken.c.wall_s).label("wall_s"),
        sa.func.max(taken.c.peak_mb).label("peak_mb"),
        sa.func.max(taken.c.memory_mb).label("grown_mb"),
    )
    return sa.select(taken.c.label, *sums).group_by(taken.c.label).add_cte(as_accepted, as_sent)

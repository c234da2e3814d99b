"""How many quanta are in which state, without looking at them: sums over `tally`, which the database's own triggers write."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.ledger.tables import tally

_FOLD_FROM = 1000  # rows of one campaign


def tallied(*columns: Any) -> Any:
    """Query of current quanta by `columns` of `tally`; the number is `n`, and what has none does not appear."""
    total = sa.cast(sa.func.sum(tally.c.n), sa.BigInteger)
    return sa.select(*[*columns, total.label("n")]).group_by(*columns).having(total != 0)


def fold(connection: Connection, campaign: str) -> None:
    """Put the rows of one campaign together, once they have become many. What others add meanwhile stays beside the sums."""
    many = sa.select(tally.c.seq).where(tally.c.campaign == campaign).offset(_FOLD_FROM).limit(1)
    if connection.execute(many).first() is None:
        return
    key = (tally.c.campaign, tally.c.step, tally.c.label, tally.c.state)
    gone = connection.execute(tally.delete().where(tally.c.campaign == campaign).returning(*key, tally.c.n))
    sums: dict[tuple[str, ...], int] = {}
    for *names, n in gone:
        sums[tuple(names)] = sums.get(tuple(names), 0) + n
    rows = [{**dict(zip((c.name for c in key), names, strict=True)), "n": n} for names, n in sums.items() if n]
    if rows:
        connection.execute(tally.insert(), rows)

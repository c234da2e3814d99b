"""Clean-up by space: where a place holds more than it has room for, copies that nothing asks for do not wait for their time.

A copy that nothing asks for is kept for a grace period, in case somebody does after all. At a place that is too full that period
ends early, for those first that have the least of it left. The floor and every rule hold as ever: what is asked for stays, and a
place that is full of that says so in `pachon backbone usage`.
"""

from __future__ import annotations

import sqlalchemy as sa

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.expiry import STAYS
from backbone.files import AVAILABLE, DELETING, LOST

_AT_ONCE = 10_000
_WHY = "the place is too full to keep it for its grace period"


def make_room(catalog: Catalog, endpoint: int, room_bytes: float, *, now: float) -> int:
    """Copies at the endpoint, at most 10,000, that may be deleted from now on instead of later; their number.

    Costs a pass over the place's replicas: to be asked every few minutes.
    """
    r, size = t.replica, sa.func.coalesce(sa.func.sum(t.file.c.size), 0)
    at = r.c.endpoint == endpoint
    remains = (at, r.c.state.not_in((LOST, DELETING)), sa.or_(r.c.due.is_(None), r.c.due > now))
    may_not_go = sa.func.coalesce(r.c.reason, "").startswith(STAYS)
    waits = (at, r.c.state == AVAILABLE, r.c.due > now, sa.not_(may_not_go))
    with catalog.begin() as connection:
        held = sa.select(size).join(r, t.file.c.id == r.c.file).where(*remains)
        over = float(connection.execute(held).scalar_one()) - room_bytes
        if over <= 0:
            return 0
        query = sa.select(r.c.file, t.file.c.size).join(t.file, t.file.c.id == r.c.file).where(*waits)
        chosen = []
        for row in connection.execute(query.order_by(r.c.due, r.c.file).limit(_AT_ONCE)):
            if over <= 0:
                break
            chosen.append(row.file)
            over -= row.size
        connection.execute(r.update().where(catalog.among(r.c.file, chosen), *waits).values(due=now, reason=_WHY))
    return len(chosen)

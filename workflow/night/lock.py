"""One supervisor at a time for each night: a lease in the ledger with an epoch, checked in every transaction that writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow.clock import Clock
from workflow.ledger import Ledger
from workflow.ledger.nights import night
from workflow.lock import LockLost, held_by_a_dead_process, holder


@dataclass(frozen=True)
class NightLock:
    """A night's lock, held."""

    ledger: Ledger
    clock: Clock
    name: str
    epoch: int
    lock_s: float

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A writing transaction that this lock fences and that renews it; LockLost if another supervisor has it."""
        with self.ledger.begin() as connection:
            mine = sa.and_(night.c.name == self.name, night.c.lock_epoch == self.epoch)
            renewed = night.update().where(mine).values(lock_expires=self.clock.now() + self.lock_s)
            if not connection.execute(renewed).rowcount:
                raise LockLost(f"night {self.name}: another supervisor has taken over (epoch {self.epoch} is past)")
            yield connection


def take(ledger: Ledger, clock: Clock, name: str, lock_s: float) -> NightLock | None:
    """The night's lock; None while a living supervisor holds it."""
    now = clock.now()
    columns = (night.c.lock_holder, night.c.lock_epoch, night.c.lock_expires)
    with ledger.begin() as connection:
        row = connection.execute(sa.select(*columns).where(night.c.name == name).with_for_update()).one_or_none()
        if row is None:
            return None
        free = row.lock_holder is None or row.lock_expires <= now or row.lock_holder == holder()
        if not free and not held_by_a_dead_process(row.lock_holder):
            return None
        epoch = int(row.lock_epoch) + 1
        values = {"lock_holder": holder(), "lock_epoch": epoch, "lock_expires": now + lock_s}
        connection.execute(night.update().where(night.c.name == name).values(values))
    return NightLock(ledger, clock, name, epoch, lock_s)

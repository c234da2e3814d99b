"""One engine at a time for each campaign: a lease in the ledger with an epoch, checked again in every transaction that writes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import TransientError
from workflow.clock import Clock
from workflow.ledger import Ledger
from workflow.ledger.tables import campaign
from workflow.processes import alive, start_time


class LockLost(TransientError):
    """Another engine has taken over this campaign: whatever this one was doing is no longer its business."""


class CampaignLock:
    """A campaign's lock, held. `epoch` grows with every holder."""

    def __init__(self, ledger: Ledger, clock: Clock, name: str, epoch: int, lock_s: float) -> None:
        self._ledger, self._clock, self.name, self.epoch, self._lock_s = ledger, clock, name, epoch, lock_s

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A writing transaction that this lock fences, and that renews it; LockLost if another engine has it."""
        with self._ledger.begin() as connection:
            kept = connection.execute(
                campaign.update()
                .where(campaign.c.name == self.name, campaign.c.lock_epoch == self.epoch)
                .values(lock_expires=self._clock.now() + self._lock_s)
            ).rowcount
            if not kept:
                raise LockLost(f"campaign {self.name}: another engine holds its lock now (epoch {self.epoch} is past)")
            yield connection

    def renew(self) -> None:
        """Say that this engine is still at it."""
        with self.begin():
            pass


def holder() -> str:
    """Name of this process, by which its death can be told from its silence on the same host."""
    return f"{socket.gethostname()}:{os.getpid()}:{start_time(os.getpid())}"


@contextmanager
def locked(ledger: Ledger, clock: Clock, name: str, lock_s: float) -> Iterator[CampaignLock | None]:
    """The campaign's lock, or None where a living engine holds it."""
    epoch = _take(ledger, clock, name, lock_s)
    if epoch is None:
        yield None
        return
    try:
        yield CampaignLock(ledger, clock, name, epoch, lock_s)
    finally:
        with ledger.begin() as connection:
            connection.execute(
                campaign.update()
                .where(campaign.c.name == name, campaign.c.lock_epoch == epoch)
                .values(lock_holder=None, lock_expires=None)
            )


def _take(ledger: Ledger, clock: Clock, name: str, lock_s: float) -> int | None:
    now = clock.now()
    with ledger.begin() as connection:
        row = connection.execute(
            sa.select(campaign.c.lock_holder, campaign.c.lock_epoch, campaign.c.lock_expires)
            .where(campaign.c.name == name)
            .with_for_update()
        ).one_or_none()
        if row is None or (row.lock_holder and row.lock_expires > now and not held_by_a_dead_process(row.lock_holder)):
            return None
        epoch = int(row.lock_epoch) + 1
        connection.execute(
            campaign.update()
            .where(campaign.c.name == name)
            .values(lock_holder=holder(), lock_epoch=epoch, lock_expires=now + lock_s)
        )
        return epoch


def held_by_a_dead_process(who: str) -> bool:
    """Whether the holder was a process of this host and is gone; of other hosts nothing is known."""
    host, pid, started = who.rsplit(":", 2)
    return host == socket.gethostname() and not alive(int(pid), started)

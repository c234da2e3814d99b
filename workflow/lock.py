"""One engine at a time for each campaign: a lease in the ledger with an epoch, checked again in every transaction that writes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import TransientError
from workflow.clock import Clock
from workflow.ledger import Ledger
from workflow.ledger.tables import campaign
from workflow.processes import alive, start_time

_HELD: set[tuple[str, int]] = set()
"""Locks that something in this process holds, as (campaign, epoch)."""


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
    with ExitStack() as ending:
        with ledger.begin() as connection:
            epoch = _take(connection, name, clock.now(), lock_s)
            if epoch is not None:
                _HELD.add((name, epoch))  # before the commit, for which others of this process wait
                ending.callback(_give_back, ledger, name, epoch)
        yield None if epoch is None else CampaignLock(ledger, clock, name, epoch, lock_s)


def _take(connection: Connection, name: str, now: float, lock_s: float) -> int | None:
    row = connection.execute(
        sa.select(campaign.c.lock_holder, campaign.c.lock_epoch, campaign.c.lock_expires)
        .where(campaign.c.name == name)
        .with_for_update()
    ).one_or_none()
    if row is None or (row.lock_holder and row.lock_expires > now and _is_held(name, row.lock_holder, row.lock_epoch)):
        return None
    epoch = int(row.lock_epoch) + 1
    values = {"lock_holder": holder(), "lock_epoch": epoch, "lock_expires": now + lock_s}
    connection.execute(campaign.update().where(campaign.c.name == name).values(values))
    return epoch


def _give_back(ledger: Ledger, name: str, epoch: int) -> None:
    _HELD.discard((name, epoch))  # whether or not the ledger hears of it
    with ledger.begin() as connection:
        mine = sa.and_(campaign.c.name == name, campaign.c.lock_epoch == epoch)
        connection.execute(campaign.update().where(mine).values(lock_holder=None, lock_expires=None))


def _is_held(name: str, who: str, epoch: int) -> bool:
    """Whether the holder may still be at it. A process that could not give its lock back, the ledger being down, is not."""
    if who == holder():
        return (name, epoch) in _HELD
    return not held_by_a_dead_process(who)


def held_by_a_dead_process(who: str) -> bool:
    """Whether the holder was a process of this host and is gone; of other hosts nothing is known."""
    host, pid, started = who.rsplit(":", 2)
    return host == socket.gethostname() and not alive(int(pid), started)

"""Python's collector, kept from looking through what is known to live."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_GROWN_MB = 64
_looked_mb: float | None = None
"""Resident memory at the last look; none as yet."""


def freeze() -> None:
    """Put all that lives out of the collector's sight, before a fork: it would touch every page, and the child copy them all.

    What earlier work of this process left in circles is looked for only where it has grown by so much: a look takes as long as
    a hundred short quanta.
    """
    global _looked_mb
    now_mb = rss_mb(os.getpid())
    if _looked_mb is None:
        _looked_mb = now_mb
    elif now_mb > _looked_mb + _GROWN_MB:
        gc.unfreeze()
        gc.collect()
        _looked_mb = now_mb
    gc.freeze()


def rss_mb(pid: int) -> float:
    """Resident memory of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    except OSError:
        return 0.0


@contextmanager
def uncollected() -> Iterator[None]:
    """While a graph is built: a hundred thousand new objects, none of them garbage, through which the collector would go again
    and again; it is a fifth to a half of the time. What becomes garbage meanwhile is collected afterwards.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()

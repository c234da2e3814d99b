"""Python's collector, kept from looking through what is known to live."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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

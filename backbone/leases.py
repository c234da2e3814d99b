"""Keeps the leases of transfers that take long, by one thread, from the first transfer on until closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from backbone.catalog import Catalog
from backbone.errors import TransientError
from backbone.transfers import Transfer, renew

_log = logging.getLogger(__name__)


class Leases:
    """The transfers that this process is working on."""

    def __init__(self, catalog: Catalog, *, lease_s: float, now: Callable[[], float]) -> None:
        self._catalog, self._lease_s, self._now = catalog, lease_s, now
        self._held: dict[tuple[int, str], Transfer] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def keep(self, transfers: Sequence[Transfer]) -> Iterator[None]:
        """Their leases do not end while this lasts."""
        keys = {(transfer.number, transfer.target): transfer for transfer in transfers}
        with self._lock:
            self._held.update(keys)
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                for key in keys:
                    self._held.pop(key, None)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _renew(self) -> None:
        while not self._closed.wait(self._lease_s / 3):
            with self._lock:
                held = list(self._held.values())
            if not held:
                continue
            try:
                renew(self._catalog, held, lease_s=self._lease_s, now=self._now())
            except TransientError as error:
                _log.warning("leases of %d transfers could not be kept: %s", len(held), error)

"""Brings spooled frames to the prompt endpoint and tells the worker of their detector; again and again until both are done."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from backbone.endpoint import Endpoint
from backbone.errors import PermanentError, TransientError
from backbone.messages.prompt import FrameArrived, queue_of
from backbone.messages.transport import Transport
from services.prompt_ingest.spool import Entry, Spool

_LOG = logging.getLogger(__name__)
_AGAIN_S, _AGAIN_MAX_S = 0.2, 5.0


class Forwarder:
    """Of one camera. `endpoint` and `transport` make one for each of its threads: clients are not shared."""

    def __init__(
        self,
        spool: Spool,
        instrument: str,
        *,
        endpoint: Callable[[], Endpoint],
        transport: Callable[[], Transport],
        senders: int = 4,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool, self._instrument, self._clock = spool, instrument, clock
        self._open = (endpoint, transport)
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(senders, thread_name_prefix="forward")
        self._lock, self._busy = threading.Lock(), set[str]()
        self._stop = threading.Event()
        self.sent = 0

    def begin(self) -> int:
        """Take up what an earlier life left; returns how many frames."""
        return sum(self.add(entry) for entry in list(self._spool.entries()))

    def add(self, entry: Entry) -> bool:
        """Send a frame on; False if that is going on already."""
        with self._lock:
            if entry.announced.name in self._busy:
                return False
            self._busy.add(entry.announced.name)
        self._threads.submit(self._send, entry)
        return True

    def _send(self, entry: Entry) -> None:
        wait_s = _AGAIN_S
        while not self._stop.is_set():
            try:
                self.forward(entry)
                break
            except TransientError as error:
                _LOG.warning("%s: again in %.1f s: %s", entry.announced.name, wait_s, error)
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, _AGAIN_MAX_S)
            except Exception:
                _LOG.exception("%s stays in the spool; mend the cause, then start prompt ingest again", entry.announced.name)
                break
        with self._lock:
            self._busy.discard(entry.announced.name)

    def forward(self, entry: Entry) -> None:
        """To the endpoint, then to the queue, then out of the spool: killed in between, all of it happens again, harmlessly."""
        endpoint, transport = self._mine()
        said = entry.announced
        key = said.key(self._instrument)
        stored = endpoint.put(key, self._spool.path(entry))
        if stored.sha256 is not None and stored.sha256 != said.sha256:
            raise PermanentError(
                f"{key} at {endpoint.name} has checksum {stored.sha256}, not {said.sha256}: the spool is damaged"
            )
        arrived = FrameArrived(
            instrument=self._instrument,
            detector=said.detector,
            visit=said.visit,
            exposure=said.exposure,
            exposures=said.exposures,
            mode=said.mode,
            key=key,
            size=entry.size,
            sha256=said.sha256,
            readout_end=said.readout_end,
            received=entry.received,
            stored=self._clock(),
        )
        transport.send(queue_of(self._instrument, said.detector), arrived.model_dump(mode="json"))
        self._spool.done(entry)
        self.sent += 1
        if (late_s := arrived.stored - said.readout_end) > 5.0:
            _LOG.warning("%s was at the endpoint %.1f s after readout, more than 5 s (DMS-REQ-0180)", key, late_s)

    def _mine(self) -> tuple[Endpoint, Transport]:
        if not hasattr(self._own, "pair"):
            endpoint, transport = self._open
            self._own.pair = (endpoint(), transport())
        pair: tuple[Endpoint, Transport] = self._own.pair
        return pair

    def close(self) -> None:
        """Stop; what is not sent stays in the spool."""
        self._stop.set()
        self._threads.shutdown(wait=True)

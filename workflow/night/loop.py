"""The supervisor's process: a round of every open night, again and again. Any number may run; locks keep them apart."""

from __future__ import annotations

import logging

from backbone.errors import PachonError, TransientError
from backbone.messages.opened import open_transport
from backbone.messages.transport import Transport
from workflow.lock import LockLost
from workflow.loop import Stop
from workflow.night.crew import Crew, site_of
from workflow.night.lock import take
from workflow.night.nights import Nights
from workflow.night.states import NightState
from workflow.night.supervisor import Supervisor
from workflow.pools.opened import open_pool
from workflow.pools.pool import Pool

IDLE_S = 1.0
"""Between two looks for a night while none is open."""
_LOG = logging.getLogger(__name__)


class Watch:
    """Supervisors of the nights that this process holds."""

    def __init__(self, nights: Nights, *, transport: Transport | None = None, pool: Pool | None = None) -> None:
        self._nights, self._prompt = nights, nights.settings.prompt
        self._transport = transport or open_transport(nights.settings.messages, nights.settings.home)
        chosen = pool or open_pool(nights.settings, nights.settings.site(site_of(nights.settings)))
        self._crew = Crew(nights.settings, nights.ledger, chosen)
        self._held: dict[str, Supervisor] = {}

    def round(self) -> list[str]:
        """One round of each; one night's trouble is logged and does not stop the others. Returns the names of those held."""
        for name in self._open():
            try:
                self._one(name)
            except LockLost as error:
                _LOG.warning("%s", error)
                self._drop(name)
            except PachonError as error:
                _LOG.error("night %s: %s", name, error)
            except Exception:
                _LOG.exception("night %s: this round broke off; the next will try again", name)
        return list(self._held)

    def _open(self) -> list[str]:
        """Which nights there are; none that is known of while the ledger does not answer."""
        try:
            return self._nights.open_names()
        except TransientError as error:
            _LOG.error("%s", error)
            return []

    def _one(self, name: str) -> None:
        if name not in self._held:
            lock = take(self._nights.ledger, self._nights.clock, name, self._prompt.lock_s)
            if lock is None:
                return
            self._held[name] = Supervisor(
                lock, self._nights.ledger, self._transport, self._crew, self._prompt, self._nights.clock
            )
        if self._held[name].round() is NightState.CLOSED:
            self._drop(name)

    def _drop(self, name: str) -> None:
        if (held := self._held.pop(name, None)) is not None:
            held.close()

    def close(self) -> None:
        """Let go of everything; workers go on."""
        for name in list(self._held):
            self._drop(name)
        self._transport.close()


def run_nights(nights: Nights, *, stop: Stop) -> None:
    """Until told to stop."""
    watch = Watch(nights)
    try:
        while not stop.asked:
            busy = watch.round()
            nights.clock.sleep(nights.settings.prompt.poll_s if busy else IDLE_S)
    finally:
        watch.close()
    _LOG.info("the supervisor ends: it was told to; workers go on")

"""Waits for a night by reading the prompt ledger; the import path of `NightTrigger` is API.

As for campaigns: all triggers of a triggerer share one query, and a ledger that does not answer says nothing about the night.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators import engine
from operators.batch import Batcher
from operators.triggers import GATHER_S, pause_s

if TYPE_CHECKING:
    from workflow.night.nights import Nights, NightStatus

_log = logging.getLogger(__name__)


class NightBatcher(Batcher[str, "NightStatus | None"]):
    """Asks the ledger of one home for nights."""

    def __init__(self, home: str) -> None:
        super().__init__(GATHER_S)
        self._home = home
        self._nights: Nights | None = None

    def query(self, questions: list[str]) -> list[NightStatus | None]:
        """See Batcher."""
        if self._nights is None:
            self._nights = engine.open_nights(self._home)
        return self._nights.statuses(questions)


_batchers: dict[tuple[int, str], NightBatcher] = {}


def batcher(home: str) -> NightBatcher:
    """The batcher that all triggers of this event loop and home share."""
    key = (id(asyncio.get_running_loop()), home)
    return _batchers.setdefault(key, NightBatcher(home))


def night_event(night: str, states: Sequence[str], ends: float | None, status: NightStatus | None) -> dict[str, Any] | None:
    """What a status means for who waits for one of `states`, or for the night's end; None while there is nothing to say."""
    if status is None:
        return {"night": night, "code": "ABSENT", "reason": "the prompt ledger knows no such night"}
    if status.state.value in states:
        return {**status.as_json(), "night": night, "code": status.state.value}
    if ends is not None and time.time() >= ends:
        return {**status.as_json(), "night": night, "code": "OVER"}
    return None


class NightTrigger(BaseTrigger):  # type: ignore[misc]
    """Fires once, when the night is in one of `states`, or the time `ends` (seconds since 1970) has come."""

    def __init__(self, home: str, night: str, states: list[str], ends: float | None = None, poll_s: float = 1.0) -> None:
        super().__init__()
        self.home = home
        self.night = night
        self.states = states
        self.ends = ends
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Import path and primitive arguments."""
        names = ("home", "night", "states", "ends", "poll_s")
        return "operators.night_triggers.NightTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is an event."""
        failures = 0
        while True:
            try:
                event = night_event(self.night, self.states, self.ends, await batcher(self.home).ask(self.night))
                failures = 0
            except Exception as error:  # not known is not over, whatever the reason
                failures += 1
                _log.warning("night %s: the ledger did not answer (%d): %s", self.night, failures, error)
                event = None
            if event is not None:
                _log.info("night %s: %s", self.night, event["code"])
                yield TriggerEvent(event)
                return
            await asyncio.sleep(pause_s(self.poll_s, failures, asyncio.get_running_loop().time()))

"""The engine process: advances every live campaign, again and again. Any number of them may run; locks keep them apart."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from backbone.errors import PachonError, TransientError
from workflow.campaigns import Campaigns
from workflow.clock import Clock, SystemClock
from workflow.status import CampaignStatus

_LOG = logging.getLogger(__name__)


class Pace:
    """How long to sleep: short while things happen, longer and longer while nothing does."""

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s, self._longest_s, self._next_s = shortest_s, longest_s, shortest_s

    def after(self, *, moved: bool) -> float:
        """Seconds to sleep after a round in which something `moved`, or did not."""
        self._next_s = self._shortest_s if moved else min(self._longest_s, self._next_s * 1.5)
        return self._next_s


class Stop:
    """Set by SIGTERM and SIGINT; the round that runs is finished first."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Of the signal."""
        self.asked = True

    def install(self) -> Stop:
        """Listen to the signals."""
        signal.signal(signal.SIGTERM, self)
        signal.signal(signal.SIGINT, self)
        return self


def run_engine(campaigns: Campaigns, *, stop: Stop, pace: Pace, clock: Clock | None = None) -> None:
    """Until told to stop. One campaign's error is logged and the others go on; a ledger that does not answer is asked again."""
    clock = clock or SystemClock()
    campaigns.prepare()
    last: dict[str, Any] = {}
    while not stop.asked:
        now: dict[str, Any] = {}
        for name in _live(campaigns):
            try:
                now[name] = campaigns.advance(name)
            except PachonError as error:
                _LOG.error("campaign %s: %s", name, error)
            except Exception:
                _LOG.exception("campaign %s: this round broke off; the next will try again", name)
        moved, last = now != last, now
        if not stop.asked:
            clock.sleep(pace.after(moved=moved))
    _LOG.info("engine ends: it was told to")


def _live(campaigns: Campaigns) -> list[str]:
    """Who has work; nobody that is known of while the ledger does not answer."""
    try:
        return campaigns.live()
    except TransientError as error:
        _LOG.error("%s", error)
    except Exception:
        _LOG.exception("which campaigns have work is not known; the next round will ask again")
    return []


def run_until_ended(
    campaigns: Campaigns,
    name: str,
    *,
    pace: Pace,
    show: Callable[[CampaignStatus], None],
    advance: bool,
    stop: Stop,
    clock: Clock | None = None,
) -> CampaignStatus:
    """Advance one campaign here, or only watch it, until it has ended and left no job behind.

    A ledger that does not answer, and whatever else may pass, is asked again; what stays wrong is raised.
    """
    clock = clock or SystemClock()
    last: CampaignStatus | None = None
    while True:
        status: CampaignStatus | None = None
        try:
            status = campaigns.advance(name) if advance else campaigns.status(name)
            show(status)
            if stop.asked or (status.ended and (not advance or name not in campaigns.live())):
                return status
        except TransientError as error:
            if stop.asked:
                raise
            _LOG.warning("campaign %s: looked at again: %s", name, error)
        clock.sleep(pace.after(moved=status != last))
        last = status

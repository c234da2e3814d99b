"""Waits for a campaign or one of its steps by reading the ledger; the import path of `CampaignStepTrigger` is API.

All triggers of one triggerer process and home share one query: they wake at the same ticks and their questions are asked
together, in a thread. A ledger that does not answer says nothing about the campaign: the trigger goes on waiting, with growing
pauses.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators import engine
from operators.batch import Batcher

if TYPE_CHECKING:
    from workflow.campaigns import Campaigns, CampaignStatus

_log = logging.getLogger(__name__)
GATHER_S = 0.05
"""Questions that arrive this soon after one another are one query."""
PAUSE_MAX_S = 60.0
KILLED = "its Airflow task was killed"
"""Reason given to the ledger when a person ends a waiting task; the step's operator resumes only campaigns paused for it."""


class Code(StrEnum):
    """Why a trigger fired."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CAMPAIGN_ENDED = "CAMPAIGN_ENDED"
    """The campaign failed or was cancelled before the step could end."""
    ABSENT = "ABSENT"
    """The ledger answered, and knows no such campaign or step."""


@dataclass(frozen=True, kw_only=True)
class CampaignEvent:
    """What a trigger tells its task: counts are of quanta, of the step or of all steps."""

    campaign: str
    step: str | None
    code: Code
    reason: str = ""
    expected: int = 0
    published: int = 0
    failed: int = 0
    version: int = 1

    def payload(self) -> dict[str, Any]:
        """As plain values, for Airflow's database."""
        return {**asdict(self), "code": self.code.value}

    @classmethod
    def read(cls, payload: dict[str, Any]) -> CampaignEvent:
        """From `payload`; keys of later versions are ignored, since a deferred task may outlive a deployment."""
        known = {k: v for k, v in payload.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, "code": Code(known["code"])})


def judge(campaign: str, step: str | None, status: CampaignStatus | None) -> CampaignEvent | None:
    """The event that a status means for who waits for `step` (None: for the whole campaign); None while there is none."""
    if status is None:
        return CampaignEvent(campaign=campaign, step=step, code=Code.ABSENT, reason="the ledger knows no such campaign")
    if step is None:
        counts = {n: sum(getattr(s, n) for s in status.steps) for n in ("expected", "published", "failed")}
        reason = "; ".join(f"{s.name}: {s.reason}" for s in status.steps if s.reason)
        if not status.ended:
            return None
        return CampaignEvent(campaign=campaign, step=None, code=Code(status.state.value), reason=reason, **counts)
    try:
        found = status.step(step)
    except KeyError as error:
        return CampaignEvent(campaign=campaign, step=step, code=Code.ABSENT, reason=str(error.args[0]))
    code = _code_of(found.state.value, status)
    if code is None:
        return None
    return CampaignEvent(
        campaign=campaign,
        step=step,
        code=code,
        reason=found.reason or (f"the campaign is {status.state.value}" if code == Code.CAMPAIGN_ENDED else ""),
        expected=found.expected,
        published=found.published,
        failed=found.failed,
    )


def _code_of(state: str, status: CampaignStatus) -> Code | None:
    if state in {Code.SUCCEEDED, Code.FAILED, Code.CANCELLED}:
        return Code(state)
    return Code.CAMPAIGN_ENDED if status.ended else None


class StatusBatcher(Batcher[tuple[str, str | None], "CampaignStatus | None"]):
    """Asks the ledger of one home for campaigns with (at least) one step each."""

    def __init__(self, home: str) -> None:
        super().__init__(GATHER_S)
        self._home = home
        self._campaigns: Campaigns | None = None

    def query(self, questions: list[tuple[str, str | None]]) -> list[CampaignStatus | None]:
        """See Batcher."""
        if self._campaigns is None:
            self._campaigns = engine.open_campaigns(self._home)
        return self._campaigns.statuses(questions)


_batchers: dict[tuple[int, str], StatusBatcher] = {}


def batcher(home: str) -> StatusBatcher:
    """The batcher that all triggers of this event loop and home share."""
    key = (id(asyncio.get_running_loop()), home)
    if key not in _batchers:
        _batchers[key] = StatusBatcher(home)
    return _batchers[key]


class CampaignStepTrigger(BaseTrigger):  # type: ignore[misc]
    """Fires once, when the step (or with None the campaign) has ended, or the ledger says that it does not exist."""

    def __init__(self, home: str, campaign: str, step: str | None = None, poll_s: float = 1.0, actor: str = "airflow") -> None:
        super().__init__()
        self.home = home
        self.campaign = campaign
        self.step = step
        self.poll_s = poll_s
        self.actor = actor

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Import path and primitive arguments."""
        names = ("home", "campaign", "step", "poll_s", "actor")
        return "operators.triggers.CampaignStepTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is an event."""
        failures = 0
        while True:
            try:
                event = judge(self.campaign, self.step, await batcher(self.home).ask((self.campaign, self.step)))
                failures = 0
            except Exception as error:  # not known is not failed, whatever the reason
                failures += 1
                _log.warning("campaign %s step %s: the ledger did not answer (%d): %s", self.campaign, self.step, failures, error)
                event = None
            if event is not None:
                _log.info("campaign %s step %s: %s %s", self.campaign, self.step, event.code, event.reason)
                yield TriggerEvent(event.payload())
                return
            await asyncio.sleep(pause_s(self.poll_s, failures, asyncio.get_running_loop().time()))

    async def on_kill(self) -> None:
        """A person ended the task: start nothing more of this campaign; running jobs end, and the task's next try resumes it."""
        await asyncio.to_thread(self._pause)

    def _pause(self) -> None:
        engine.open_campaigns(self.home).pause(self.campaign, self.actor, how="drain", reason=KILLED)


def pause_s(poll_s: float, failures: int, now_s: float) -> float:
    """Until the next tick that all triggers of this rate share; after failures longer, with jitter, at most a minute."""
    if failures:
        return min(PAUSE_MAX_S, poll_s * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return poll_s - now_s % poll_s

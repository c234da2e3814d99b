"""Waits for files to be where rules want them, by reading the backbone's catalog; the import path of `RulesTrigger` is API.

All triggers of one triggerer process and home share one query. A catalog that does not answer says nothing: the trigger goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from backbone.errors import PermanentError
from operators import engine
from operators.batch import Batcher
from operators.triggers import pause_s

if TYPE_CHECKING:
    from backbone.backbone import Backbone
    from backbone.files import RuleProgress

_log = logging.getLogger(__name__)
GATHER_S = 0.05


class Code(StrEnum):
    """Why the trigger fired."""

    DONE = "DONE"
    STUCK = "STUCK"
    """Nothing of what is left moves any more: a person must look."""
    ABSENT = "ABSENT"
    """The catalog answered, and knows no such rule."""


@dataclass(frozen=True, kw_only=True)
class RulesEvent:
    """What the trigger tells its task: files of all its rules together."""

    code: Code
    total: int = 0
    ok: int = 0
    stuck: int = 0
    reason: str = ""
    version: int = 1

    def payload(self) -> dict[str, Any]:
        """As plain values, for Airflow's database."""
        return {**vars(self), "code": self.code.value}

    @classmethod
    def read(cls, payload: dict[str, Any]) -> RulesEvent:
        """From `payload`; keys of later versions are ignored, since a deferred task may outlive a deployment."""
        known = {k: v for k, v in payload.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, "code": Code(known["code"])})


def judge(found: Iterable[RuleProgress | None]) -> RulesEvent | None:
    """The event that the state of some rules means; None while something still moves."""
    rules = list(found)
    if any(rule is None for rule in rules):
        return RulesEvent(code=Code.ABSENT, reason="the catalog knows no such rule")
    known = [rule for rule in rules if rule is not None]
    total, ok, stuck = (sum(getattr(rule, name) for rule in known) for name in ("total", "ok", "stuck"))
    if ok + stuck < total:
        return None
    reason = next((rule.first_reason for rule in known if rule.stuck), "")
    return RulesEvent(code=Code.STUCK if stuck else Code.DONE, total=total, ok=ok, stuck=stuck, reason=reason)


class RulesBatcher(Batcher[str, "RuleProgress | None"]):
    """Gathers the rules that the triggers of one process ask for."""

    def __init__(self, home: str) -> None:
        super().__init__(GATHER_S)
        self._home = home
        self._backbone: Backbone | None = None

    def query(self, questions: list[str]) -> list[RuleProgress | None]:
        """One query for all; a name that is no rule must not be all the others' error."""
        if self._backbone is None:
            self._backbone = engine.open_backbone(self._home)
        try:
            found = self._backbone.progress(questions)
        except PermanentError:
            return [self._one(self._backbone, name) for name in questions]
        return [found[name] for name in questions]

    def _one(self, backbone: Backbone, name: str) -> RuleProgress | None:
        try:
            return backbone.progress([name])[name]
        except PermanentError:
            return None


_batchers: dict[tuple[int, str], RulesBatcher] = {}


def batcher(home: str) -> RulesBatcher:
    """The batcher that all triggers of this event loop and home share."""
    key = (id(asyncio.get_running_loop()), home)
    if key not in _batchers:
        _batchers[key] = RulesBatcher(home)
    return _batchers[key]


class RulesTrigger(BaseTrigger):  # type: ignore[misc]
    """Fires once, when every file of the rules is whole where it should be, or what is left is stuck."""

    def __init__(self, home: str, names: Sequence[str], poll_s: float = 2.0) -> None:
        super().__init__()
        self.home, self.names, self.poll_s = home, list(names), poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Import path and primitive arguments."""
        return "operators.backbone_triggers.RulesTrigger", {"home": self.home, "names": self.names, "poll_s": self.poll_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is an event."""
        failures = 0
        while True:
            try:
                asked = batcher(self.home)
                event = judge(await asyncio.gather(*(asked.ask(name) for name in self.names)))
                failures = 0
            except Exception as error:  # not known is not failed, whatever the reason
                failures += 1
                _log.warning("rules %s: the catalog did not answer (%d): %s", self.names, failures, error)
                event = None
            if event is not None:
                yield TriggerEvent(event.payload())
                return
            await asyncio.sleep(pause_s(self.poll_s, failures, asyncio.get_running_loop().time()))

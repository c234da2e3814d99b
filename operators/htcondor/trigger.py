"""Waits for a job by asking its schedd; the import path of `HTCondorJobTrigger` is API.

All triggers of one triggerer process and connection share one query. A pool that does not answer says nothing about the job: the
trigger goes on asking, with growing pauses, until its limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from airflow.sdk import BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.batch import Batcher
from operators.htcondor.hook import HTCondorHook, settings_of
from operators.htcondor.states import JobState, JobView
from operators.triggers import pause_s

_log = logging.getLogger(__name__)
GATHER_S = 0.05
OnHold = Literal["fail", "wait"]
KILLED = "its Airflow task was ended by a person"


class Code(StrEnum):
    """Why the trigger fired."""

    ENDED = "ENDED"
    """The job completed, with whatever exit code."""
    HELD = "HELD"
    REMOVED = "REMOVED"
    GONE = "GONE"
    """The schedd answered, and neither its queue nor its history has the job."""
    UNKNOWN = "UNKNOWN"
    """The pool was silent for longer than the limit: the job may well be running."""


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """What the trigger tells its task."""

    key: str
    job_id: str
    code: Code
    reason: str = ""
    job: JobView | None = None
    version: int = 1

    def payload(self) -> dict[str, Any]:
        """As plain values, for Airflow's database."""
        job = self.job.payload() if self.job else None
        return {**vars(self), "code": self.code.value, "job": job}

    @classmethod
    def read(cls, payload: dict[str, Any]) -> JobEvent:
        """From `payload`; keys of later versions are ignored, since a deferred task may outlive a deployment."""
        known = {k: v for k, v in payload.items() if k in cls.__dataclass_fields__}
        job = JobView.read(known["job"]) if known.get("job") else None
        return cls(**{**known, "code": Code(known["code"]), "job": job})


def judge(job: JobView, on_hold: OnHold = "fail", hold_limit_s: float = 0.0) -> JobEvent | None:
    """The event that a job in the queue means; None while it may still end by itself."""
    code = None
    if job.state is JobState.COMPLETED:
        code = Code.ENDED
    elif job.state is JobState.REMOVED:
        code = Code.REMOVED
    elif job.state is JobState.HELD and not job.waits and (on_hold == "fail" or job.since_s > hold_limit_s):
        code = Code.HELD
    return None if code is None else JobEvent(key=job.key, job_id=job.job_id, code=code, reason=job.reason, job=job)


def judge_absent(key: str, job_id: str, past: JobView | None) -> JobEvent:
    """The event of a job that is not in the queue, by what the history says of it."""
    if past is None or past.job_id != job_id:
        reason = "the schedd has no such job, neither in its queue nor in its history: was its spool folder emptied?"
        return JobEvent(key=key, job_id=job_id, code=Code.GONE, reason=reason)
    code = Code.ENDED if past.state is JobState.COMPLETED else Code.REMOVED
    return JobEvent(key=key, job_id=job_id, code=code, reason=past.reason, job=past)


class JobBatcher(Batcher[str, JobView | None]):
    """Asks one schedd for jobs by key; None: not in the queue."""

    def __init__(self, hook: HTCondorHook) -> None:
        super().__init__(GATHER_S)
        self.hook = hook

    def query(self, questions: list[str]) -> list[JobView | None]:
        """See Batcher."""
        found = self.hook.query(questions)
        return [found.get(key) for key in questions]


_batchers: dict[tuple[int, str], JobBatcher] = {}


async def batcher(conn_id: str) -> JobBatcher:
    """The batcher that all triggers of this event loop and connection share."""
    key = (id(asyncio.get_running_loop()), conn_id)
    if key not in _batchers:
        settings = settings_of(await BaseHook.aget_connection(conn_id))
        _batchers.setdefault(key, JobBatcher(HTCondorHook(conn_id, settings)))
    return _batchers[key]


def forget(conn_id: str) -> None:
    """Read the connection anew at the next question: somebody may have mended it."""
    _batchers.pop((id(asyncio.get_running_loop()), conn_id), None)


class HTCondorJobTrigger(BaseTrigger):  # type: ignore[misc]
    """Fires once: the job ended, is held, was removed, is gone, or its pool was silent for too long."""

    def __init__(
        self,
        conn_id: str,
        key: str,
        job_id: str,
        poll_s: float = 5.0,
        on_hold: OnHold = "fail",
        hold_limit_s: float = 3600.0,
        unknown_limit_s: float = 3600.0,
    ) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.key = key
        self.job_id = job_id
        self.poll_s = poll_s
        self.on_hold = on_hold
        self.hold_limit_s = hold_limit_s
        self.unknown_limit_s = unknown_limit_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Import path and primitive arguments."""
        names = ("conn_id", "key", "job_id", "poll_s", "on_hold", "hold_limit_s", "unknown_limit_s")
        return "operators.htcondor.trigger.HTCondorJobTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is an event."""
        clock = asyncio.get_running_loop().time
        failures, heard_s, shown = 0, clock(), ""
        while True:
            event, failure = None, ""
            try:
                job, event = await self._look()
                failures, heard_s = 0, clock()
                shown = _tell(job, shown)
            except Exception as error:  # not known is not failed, whatever the reason
                failures, failure = failures + 1, str(error)
                forget(self.conn_id)
                _log.warning("job %s: the pool did not answer (%d): %s", self.job_id, failures, error)
            if event is None and failures and clock() - heard_s > self.unknown_limit_s:
                event = JobEvent(key=self.key, job_id=self.job_id, code=Code.UNKNOWN, reason=failure)
            if event is not None:
                _log.info("job %s: %s %s", self.job_id, event.code, event.reason)
                yield TriggerEvent(event.payload())
                return
            await asyncio.sleep(pause_s(self.poll_s, failures, clock()))

    async def _look(self) -> tuple[JobView | None, JobEvent | None]:
        asked = await batcher(self.conn_id)
        job = await asked.ask(self.key)
        if job is None:
            return None, judge_absent(self.key, self.job_id, await asyncio.to_thread(asked.hook.past, self.key))
        return job, judge(job, self.on_hold, self.hold_limit_s)

    async def on_kill(self) -> None:
        """A person ended the task (marked it, or cleared it): the job is removed from the pool."""
        asked = await batcher(self.conn_id)
        await asyncio.to_thread(asked.hook.remove, self.key, KILLED)


def _tell(job: JobView | None, shown: str) -> str:
    """Log a change of state; returns what was shown last."""
    now = "" if job is None else " ".join(filter(None, [job.state.value, job.host, job.reason]))
    if job is not None and now != shown:
        _log.info("job %s is %s", job.job_id, now)
    return now

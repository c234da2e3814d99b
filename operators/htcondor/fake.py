"""A schedd in memory: passes the contract's suite, and can be told to fall silent, hold jobs, end them or lose its queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from operators.htcondor.schedd import Action, ScheddUnavailable, SubmitRefused
from operators.htcondor.states import JobState, JobView


class FakeSchedd:
    """Jobs run from their submission until a test ends them."""

    def __init__(self) -> None:
        self.silent = False
        self.refused = 0
        """Questions that met silence."""
        self.lose_answer = False
        """The next submission is taken, and its answer lost."""
        self.calls: list[str] = []
        self.commands: dict[str, dict[str, str]] = {}
        """Submit description by job id."""
        self._queue: dict[str, JobView] = {}
        self._history: dict[str, JobView] = {}
        self._cluster = 0

    def submit(self, key: str, commands: Mapping[str, str], *, spool: bool) -> str:
        """See Schedd."""
        self._note("submit")
        if key in (known := self._found([key])):
            return known[key].job_id
        if not commands.get("executable"):
            raise SubmitRefused("No 'executable' parameter was provided")
        self._cluster += 1
        job = JobView(
            key=key, job_id=f"{self._cluster}.0", state=JobState.RUNNING, folder=commands.get("initialdir", ""), host="slot1@fake"
        )
        self._queue[job.job_id] = job
        self.commands[job.job_id] = dict(commands)
        if self.lose_answer:
            self.lose_answer = False
            raise ScheddUnavailable("the answer was lost")
        return job.job_id

    def find(self, keys: Iterable[str]) -> dict[str, JobView]:
        """See Schedd."""
        self._note("find")
        return self._found(keys)

    def _found(self, keys: Iterable[str]) -> dict[str, JobView]:
        asked = set(keys)
        return {job.key: job for job in self._queue.values() if job.key in asked}

    def past(self, key: str) -> JobView | None:
        """See Schedd."""
        self._note("past")
        ended = [job for job in self._history.values() if job.key == key]
        return ended[-1] if ended else None

    def ad(self, job_id: str) -> dict[str, Any] | None:
        """See Schedd."""
        self._note("ad")
        job = self._queue.get(job_id) or self._history.get(job_id)
        if job is None:
            return None
        cluster, _, process = job_id.partition(".")
        status = list(JobState).index(job.state) + 1
        return {"ClusterId": int(cluster), "ProcId": int(process), "JobStatus": status, "AirflowJobKey": job.key}

    def act(self, action: Action, key: str, reason: str) -> int:
        """See Schedd."""
        self._note(action.value)
        changed = 0
        for job in list(self._found([key]).values()):
            if job.state is JobState.COMPLETED and action is not Action.REMOVE:
                continue
            if action is Action.REMOVE:
                self._leave(replace(job, state=JobState.REMOVED, exit_code=None, reason=reason))
            elif action is Action.HOLD and job.state is not JobState.HELD:
                self._queue[job.job_id] = replace(job, state=JobState.HELD, reason=reason, hold_code=1)
            elif action is Action.RELEASE and job.state is JobState.HELD:
                self._queue[job.job_id] = replace(job, state=JobState.IDLE, reason="", hold_code=0)
            else:
                continue
            changed += 1
        return changed

    def acknowledge(self, job_id: str) -> None:
        """See Schedd."""
        self._note("acknowledge")
        if job_id in self._queue:
            self._leave(self._queue[job_id])

    def retrieve(self, job_id: str) -> None:
        """See Schedd."""
        self._note("retrieve")

    def whoami(self) -> dict[str, str]:
        """See Schedd."""
        self._note("whoami")
        return {"identity": "survey@fake", "schedd": "fake", "address": "<127.0.0.1:0>", "version": "0"}

    def close(self) -> None:
        """See Schedd."""

    def end(self, key: str, exit_code: int = 0) -> None:
        """The job of this key ends now."""
        job = self._found([key])[key]
        self._queue[job.job_id] = replace(job, state=JobState.COMPLETED, exit_code=exit_code, wall_s=1.0)

    def hold(self, key: str, reason: str, code: int = 12) -> None:
        """The pool holds the job."""
        job = self._found([key])[key]
        self._queue[job.job_id] = replace(job, state=JobState.HELD, reason=reason, hold_code=code)

    def wipe(self) -> None:
        """The queue is gone, as after a lost spool folder."""
        self._queue.clear()

    def _leave(self, job: JobView) -> None:
        del self._queue[job.job_id]
        self._history[job.job_id] = job

    def _note(self, call: str) -> None:
        if self.silent:
            self.refused += 1
            raise ScheddUnavailable("the schedd does not answer")
        self.calls.append(call)

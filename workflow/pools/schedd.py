"""What is asked of a schedd and a collector, each in one call: submit, query, history, act. All errors are PoolUnavailable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from workflow.errors import PoolRefused, PoolUnavailable
from workflow.pools.bindings import locate_schedd, pool_client, translated

PROJECTION = [
    "ClusterId",
    "ProcId",
    "PachonKey",
    "PachonDispatch",
    "JobStatus",
    "EnteredCurrentStatus",
    "HoldReason",
    "HoldReasonCode",
    "HoldReasonSubCode",
    "NumHolds",
    "ExitCode",
    "ExitBySignal",
    "ExitSignal",
    "RemoveReason",
    "JobMaterializeNextProcId",
    "JobMaterializePaused",
    "TotalSubmitProcs",
    "JobMaterializePauseReason",
]
# What a schedd answers to a submission that it does not take: its numbers (NEWJOB_ERR_* of its queue manager), and words.
_LIMITS = {
    "says -2": "its limit of jobs in all is reached (MAX_JOBS_SUBMITTED)",
    "says -3": "its limit of jobs for one owner is reached (MAX_JOBS_PER_OWNER)",
    "says -4": "its limit of jobs in one submission is reached (MAX_JOBS_PER_SUBMISSION)",
    "says -5": "our user is disabled there",
    "says -6": "our user may not submit there",
    "No space left": "its disk is full",
    "Unable to commit": "it could not write them down; is its disk full?",
    "MAX_JOBS": "a limit of it is reached",
}
_DESCRIPTION = ("create job ad", "Submit:", "submit description")
_ASK_AT_ONCE = 500
_RESPITE = 3
_RESPITE_S = 24.0
T = TypeVar("T")


class Daemons:
    """The daemons of one pool, found again when they have moved."""

    def __init__(self, site: str, collector: Callable[[], str], *, schedd: str | None, tokens: Path, answer_s: float) -> None:
        self._site, self._collector, self._schedd_name = site, collector, schedd
        self._tokens, self._answer_s = tokens, answer_s
        self._schedd: Any = None
        self._quiet_until = 0.0
        self._pause_s = 1.0
        self._problem: PoolUnavailable | None = None
        self.trouble = ""
        """Why the last call failed; empty when it did not."""

    @contextmanager
    def client(self) -> Iterator[Any]:
        """The bindings, told of this pool's tokens."""
        with pool_client(self._tokens, answer_s=self._answer_s) as htcondor:
            yield htcondor

    def _call(self, action: str, ask: Callable[[Any, Any], T]) -> T:
        """`ask(bindings, schedd)`; after a failure the next calls fail at once, for a while that grows, and with what it cost."""
        if time.monotonic() < self._quiet_until:
            raise type(self._problem)(self.trouble) if self._problem else PoolUnavailable(self.trouble)
        with self.client() as htcondor:
            began = time.monotonic()
            try:
                answer = self._asked(htcondor, ask)
            except (PoolUnavailable, htcondor.HTCondorException, OSError, RuntimeError, ValueError) as error:
                self._fail(error, action, time.monotonic() - began)
        self._pause_s, self.trouble = 1.0, ""
        return answer

    def _asked(self, htcondor: Any, ask: Callable[[Any, Any], T]) -> T:
        for last in (False, True):
            try:
                if self._schedd is None:
                    address = self._collector()
                    self._schedd = locate_schedd(htcondor, address, name=self._schedd_name, answer_s=self._answer_s)
                return ask(htcondor, self._schedd)
            except htcondor.HTCondorException as error:
                # Of a schedd that was started anew: nothing was done, and the client has forgotten the session by now.
                if last or "session id" not in str(error):
                    raise
                self._schedd = None
        raise AssertionError("not reached")

    def _fail(self, error: Exception, action: str, took_s: float) -> NoReturn:
        words = " ".join(str(error).split())
        what = f"pool {self._site}: {action}"
        limit = next((meaning for said, meaning in _LIMITS.items() if said in words), "")
        if limit:
            raise PoolRefused(
                f"{what}: the schedd takes no more: {limit}. It goes on when there is room again ({words})"
            ) from error
        if any(word in words for word in _DESCRIPTION):
            raise PoolRefused(f"{what}: it cannot be submitted so: {words}") from error
        self._schedd = None
        problem = translated(error, what)
        if what not in str(problem):
            problem = type(problem)(f"{what}: {problem}")
        self._problem, self.trouble = problem, str(problem)
        self._quiet_until = time.monotonic() + max(self._pause_s, respite_s(took_s))
        self._pause_s = min(15.0, self._pause_s * 2)
        raise problem from error

    def submit(self, commands: Mapping[str, str], items: Sequence[Mapping[str, str]], *, spool: bool) -> int:
        """One cluster with a process for each item; its number."""

        def ask(htcondor: Any, schedd: Any) -> int:
            done = schedd.submit(htcondor.Submit(dict(commands)), itemdata=iter([dict(i) for i in items]), spool=spool)
            if spool:
                schedd.spool(done)
            return int(done.cluster())

        return self._call("submitting", ask)

    def query(self, constraint: str, *, clusters: bool = False) -> list[Any]:
        """Ads of the queue, projected; with `clusters` also those of clusters whose jobs are made as they can run."""

        def ask(htcondor: Any, schedd: Any) -> list[Any]:
            options = htcondor.QueryOpt.IncludeClusterAd if clusters else htcondor.QueryOpt.Default
            return list(schedd.query(constraint, PROJECTION, opts=options))

        return self._call("asking for our jobs", ask)

    def ads(self, constraint: str) -> list[Any]:
        """Whole ads of the queue."""
        return self._call("asking for a job", lambda _, schedd: list(schedd.query(constraint)))

    def history(self, constraint: str, *, match: int) -> list[Any]:
        """Ads of jobs that have left the queue."""
        return self._call("asking for the history", lambda _, schedd: list(schedd.history(constraint, PROJECTION, match=match)))

    def act(self, action: str, constraint: str, reason: str) -> None:
        """Hold, Release, Remove, RemoveX or VacateFast what the constraint selects."""
        # The bindings drop a reason that is no pair (25.14).
        self._call(
            f"asking to {action.lower()}",
            lambda htcondor, schedd: schedd.act(getattr(htcondor.JobAction, action), constraint, reason=(reason, 1)),
        )

    def edit(self, constraint: str, attribute: str, value: str) -> None:
        """Change an attribute of what the constraint selects."""
        self._call(f"changing {attribute}", lambda _, schedd: schedd.edit(constraint, attribute, value))

    def slots(self, projection: Sequence[str], constraint: str = "true") -> list[Any]:
        """Ads of the pool's slots."""
        with self.client() as htcondor:
            try:
                collector = htcondor.Collector(self._collector())
                return list(collector.query(htcondor.AdType.Startd, constraint, list(projection)))
            except PoolUnavailable:
                raise
            except Exception as error:
                raise translated(error, f"pool {self._site}: asking the collector for its slots") from error


def respite_s(took_s: float) -> float:
    """For how long nothing is asked after a call that failed and took so long: HTCondor's bindings keep Python's lock while they
    wait, and a daemon that stands still must not stop the engine most of the time.
    """
    return min(_RESPITE * took_s, _RESPITE_S)


def those_of(pool_id: str, keys: Iterable[str]) -> Iterator[str]:
    """Constraints that select a home's jobs with these keys, each of a bearable length."""
    listed = list(keys)
    for start in range(0, len(listed), _ASK_AT_ONCE):
        some = ",".join(listed[start : start + _ASK_AT_ONCE])
        yield f'PachonPool == "{pool_id}" && stringListMember(PachonKey, "{some}")'

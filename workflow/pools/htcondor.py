"""Jobs in an HTCondor pool. What was sent is written down first; what became of it is read from event logs and, at times, asked.

Between two queries of the schedd only event logs are read. Where the schedd does not answer, all that has not ended is UNKNOWN.
GONE is said only when it has answered, and neither its queue nor its history has the job.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow.errors import PoolUnavailable, SettingsError
from workflow.pools.ads import COMPLETED, HELD, REMOVED, UNSPOOLED, half_spooled, of_ad, of_past, unmade, unstaged
from workflow.pools.description import description, interpreter, kind_of, quantised_mb
from workflow.pools.dispatches import Dispatch, Dispatches
from workflow.pools.events import EventReader, Seen
from workflow.pools.pool import POOL_ENDED, JobRequest, PoolJob, PoolState, Resources
from workflow.pools.schedd import Daemons, respite_s, those_of
from workflow.pools.settings import HTCondorPool
from workflow.pools.why import explain

_LOG = logging.getLogger(__name__)
_KEY = re.compile(r"^[A-Za-z0-9_.-]{1,100}$")
_SETTLE_S = 5.0
"""A submission whose answer was lost may still arrive for so long: until then nobody sends it again."""
_FREE_S = 2.0
_STUCK_S = 420.0


@dataclass
class _Watched:
    """One dispatch and what is known of its jobs."""

    dispatch: Dispatch
    reader: EventReader
    asked: dict[int, tuple[Seen, Seen | None]] = field(default_factory=dict)
    """By process number: what the schedd said, and what the log had said by then."""
    missing: dict[int, float] = field(default_factory=dict)
    """When a job was first neither in the queue nor in the history."""

    def seen(self, proc: int) -> Seen | None:
        """The last word on a job: an end is an end, whoever told of it; else the log's, if it is newer than the schedd's."""
        told, before = self.asked.get(proc, (None, None))
        logged = self.reader.jobs.get(proc)
        ends = [one for one in (logged, told) if one is not None and one.state in POOL_ENDED]
        if ends or logged is None or told is None:
            return ends[0] if ends else logged or told
        return logged if logged != before or logged.state is told.state else told

    def tell(self, proc: int, told: Seen) -> None:
        """What the schedd says now; the log is read as far as it was before it was asked."""
        self.asked[proc] = (told, self.reader.jobs.get(proc))


class CondorPool:
    """The `Pool` of one site on HTCondor; `collector` is asked for the address whenever daemons must be found."""

    def __init__(
        self,
        folder: Path,
        pool: HTCondorPool,
        *,
        name: str,
        collector: Callable[[], str],
        tokens: Path,
        owner: str = "pachon",
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._pool, self._owner, self._clock = pool, owner, clock
        self._command = list(command or interpreter(pool))
        self._sent = Dispatches(folder)
        self._daemons = Daemons(name, collector, schedd=pool.schedd, tokens=tokens, answer_s=pool.answer_s)
        self._watched: dict[str, _Watched] = {}
        self._asked_at = -1e9
        self._silent = ""
        self._doomed: set[str] = set()
        self._free: tuple[float, int, int] = (-1e9, 0, 0)

    @property
    def trouble(self) -> str:
        """Why the pool could not be reached at the last call; empty if it could."""
        return self._daemons.trouble

    def keys(self) -> Sequence[str]:
        """Jobs that were sent and not forgotten."""
        self._refresh()
        return tuple(self._sent.of_key)

    # --- sending

    def submit(self, key: str, message: Path, resources: Resources) -> str:
        """Send one job, or adopt it."""
        return self.submit_many([JobRequest(key=key, message=message, resources=resources)])[key]

    def submit_many(self, requests: Sequence[JobRequest]) -> Mapping[str, str]:
        """Send what was never sent, one cluster for each kind of request, and adopt the rest."""
        for request in requests:
            if not _KEY.match(request.key):
                raise SettingsError(f"job key {request.key!r}: letters, digits, and _ . - alone, at most 100")
        with self._sent.sending():
            self._sent.refresh()
            for dispatch in {id(d): d for r in requests if (d := self._sent.of_key.get(r.key)) is not None}.values():
                if dispatch.cluster is None:
                    self._settle(dispatch)
            kinds: dict[tuple[object, ...], list[JobRequest]] = {}
            for request in {r.key: r for r in requests}.values():
                if request.key not in self._sent.of_key:
                    kinds.setdefault(kind_of(request.resources), []).append(request)
            for some in kinds.values():
                self._send(some)
        return {r.key: self._id(r.key) for r in requests}

    def _send(self, requests: Sequence[JobRequest]) -> None:
        dispatch = self._sent.new(requests)
        marks = {"PachonPool": self._sent.id, "PachonDispatch": dispatch.id, "PachonSite": self.name}
        try:
            commands = description(
                self._pool, requests, folder=dispatch.folder, marks=marks, owner=self._owner, command=self._command
            )
        except SettingsError:
            self._sent.drop(dispatch)
            raise
        items = [{"key": r.key, "memory_mb": str(quantised_mb(r.resources.memory_mb))} for r in requests]
        dispatch.answered(self._daemons.submit(commands, items, spool=self._pool.files == "spool"))
        _LOG.info("pool %s: %d jobs went to cluster %s", self.name, len(requests), dispatch.cluster)

    def _settle(self, dispatch: Dispatch) -> None:
        """The answer to a submission was lost: adopt what the schedd has, else let it be sent anew."""
        constraint = f'PachonDispatch == "{dispatch.id}"'
        found = self._daemons.query(constraint, clusters=True) or self._daemons.history(constraint, match=1)
        cluster = int(found[0]["ClusterId"]) if found else self._logged_cluster(dispatch)
        if found and half_spooled(found[0]):
            self._daemons.act("Remove", constraint, UNSPOOLED)
            raise PoolUnavailable(f"pool {self.name}: cluster {cluster} came without its files: it is removed and sent anew")
        if found and unstaged(found[0]):
            self._sent.drop(dispatch)
            self._unwatch(dispatch.id)
        elif cluster is not None:
            dispatch.answered(cluster)
            _LOG.info("pool %s: cluster %d was taken though its answer was lost", self.name, cluster)
        elif dispatch.age_s > _SETTLE_S:
            self._sent.drop(dispatch)
            self._unwatch(dispatch.id)
        else:
            raise PoolUnavailable(f"pool {self.name}: the schedd may yet take the submission of {dispatch.age_s:.0f} s ago")

    def _logged_cluster(self, dispatch: Dispatch) -> int | None:
        watched = self._watch(dispatch)
        watched.reader.read()
        return watched.reader.cluster

    def _id(self, key: str) -> str:
        dispatch = self._sent.of_key[key]
        return f"{dispatch.cluster}.{dispatch.procs[key]}"

    # --- looking

    def poll(self, keys: Iterable[str]) -> Mapping[str, PoolJob]:
        """State of every key."""
        keys = list(keys)
        if any(key not in self._sent.of_key for key in keys):
            self._refresh()
        known = [key for key in keys if key in self._sent.of_key]
        self._read_events({id(d): d for key in known if (d := self._sent.of_key[key])}.values())
        open_keys = [key for key in known if not self._ended(key)]
        if open_keys and self._due(open_keys):
            self._ask(open_keys)
        strangers = self._strangers([key for key in keys if key not in self._sent.of_key])
        return {key: strangers.get(key) or self._job(key) for key in keys}

    def _job(self, key: str) -> PoolJob:
        dispatch, seen = self._sent.of_key[key], self._seen(key)
        if seen is not None and seen.state is PoolState.EXITED:
            said = dispatch.words(key) if seen.exit_code else ""
            return PoolJob(key=key, state=seen.state, exit_code=seen.exit_code, reason=said or seen.reason)
        if seen is not None and seen.state is PoolState.GONE:
            return PoolJob(key=key, state=seen.state, reason=f"{seen.reason} {dispatch.words(key)}".strip(), failure=seen.failure)
        if self._silent:
            return PoolJob(key=key, state=PoolState.UNKNOWN, reason=self._silent)
        if dispatch.cluster is None:
            return PoolJob(key=key, state=PoolState.UNKNOWN, reason="its submission was begun, and the answer is not known yet")
        if seen is None:
            return PoolJob(key=key, state=PoolState.PENDING, reason="not made of its cluster yet")
        return PoolJob(key=key, state=seen.state, reason=seen.reason, failure=seen.failure)

    def _seen(self, key: str) -> Seen | None:
        dispatch = self._sent.of_key[key]
        return self._watch(dispatch).seen(dispatch.procs[key])

    def _ended(self, key: str) -> bool:
        seen = self._seen(key)
        return seen is not None and seen.state in POOL_ENDED

    def _watch(self, dispatch: Dispatch) -> _Watched:
        if dispatch.id not in self._watched:
            with self._daemons.client() as htcondor:
                self._watched[dispatch.id] = _Watched(dispatch, EventReader(htcondor, dispatch.log))
        return self._watched[dispatch.id]

    def _refresh(self) -> None:
        """Take in what other engines sent and forgot; the log of what is forgotten is held open no longer."""
        self._sent.refresh()
        for gone in self._watched.keys() - {dispatch.id for dispatch in self._sent.all()}:
            self._unwatch(gone)

    def _unwatch(self, dispatch_id: str) -> None:
        if watched := self._watched.pop(dispatch_id, None):
            watched.reader.close()

    def _read_events(self, dispatches: Iterable[Dispatch]) -> None:
        for dispatch in dispatches:
            self._watch(dispatch).reader.read()

    def _due(self, keys: Sequence[str]) -> bool:
        waited = self._clock() - self._asked_at
        if self._silent or self._doomed.intersection(keys) or self._pool.files == "spool":
            return waited > 1.0
        return waited > self._pool.reconcile_s

    def _ask(self, keys: Sequence[str]) -> None:
        """One query for all jobs of this home, and one of the history for those that have left."""
        try:
            ads = self._daemons.query(f'PachonPool == "{self._sent.id}"', clusters=True)
            self._take(ads, keys)
            self._remove_doomed()
        except PoolUnavailable as error:
            if str(error) != self._silent:
                _LOG.warning("%s", error)
            self._silent = str(error)
            return
        self._silent, self._asked_at = "", self._clock()

    def _take(self, ads: Sequence[Any], keys: Sequence[str]) -> None:
        jobs = {str(ad["PachonKey"]): ad for ad in ads if "ProcId" in ad and int(ad["ProcId"]) >= 0}
        factories = {str(ad.get("PachonDispatch")): ad for ad in ads if "JobMaterializeNextProcId" in ad}
        places = {key: (self._watch(self._sent.of_key[key]), self._sent.of_key[key].procs[key]) for key in keys}
        for key in jobs.keys() & places.keys():
            watched, proc = places[key]
            watched.tell(proc, of_ad(jobs[key]))
            watched.missing.pop(proc, None)
        self._read_events({id(w.dispatch): w.dispatch for w, _ in places.values()}.values())
        left = []
        for key in places.keys() - jobs.keys():
            dispatch, proc = places[key][0].dispatch, places[key][1]
            if dispatch.cluster is not None and not self._ended(key) and not unmade(factories.get(dispatch.id), proc):
                left.append(key)
        if left:
            self._look_back(left)

    def _look_back(self, keys: Sequence[str]) -> None:
        """Jobs that left the queue without a word in their log: the history knows how, though it may come late."""
        found: dict[str, Any] = {}
        for constraint in those_of(self._sent.id, keys):
            found.update({str(ad["PachonKey"]): ad for ad in self._daemons.history(constraint, match=len(keys))})
        for key in keys:
            dispatch = self._sent.of_key[key]
            watched, proc = self._watch(dispatch), dispatch.procs[key]
            if key in found:
                watched.tell(proc, of_past(found[key], watched.seen(proc)))
            else:
                since = watched.missing.setdefault(proc, self._clock())
                lasting = self._clock() - since > _SETTLE_S
                gone = Seen(PoolState.GONE, reason="the schedd has neither the job nor a record of its end")
                not_yet = Seen(PoolState.UNKNOWN, reason="it left the queue, and how is not known yet")
                watched.tell(proc, gone if lasting else not_yet)
        if any(self._watch(self._sent.of_key[key]).missing for key in keys):
            self._asked_at = self._clock() - self._pool.reconcile_s + 1.0

    def _strangers(self, keys: Sequence[str]) -> dict[str, PoolJob]:
        """Jobs that nobody wrote down here: they were never sent, or the folder was lost."""
        found: dict[str, PoolJob] = {}
        try:
            for constraint in those_of(self._sent.id, keys):
                past = self._daemons.history(constraint, match=len(keys))
                for ads, read in ((self._daemons.query(constraint), of_ad), (past, of_past)):
                    for ad in ads:
                        seen, key = read(ad), str(ad["PachonKey"])
                        found.setdefault(key, PoolJob(key=key, state=seen.state, exit_code=seen.exit_code, reason=seen.reason))
        except PoolUnavailable as error:
            return {key: PoolJob(key=key, state=PoolState.UNKNOWN, reason=str(error)) for key in keys}
        absent = {k: PoolJob(key=k, state=PoolState.GONE, reason="it was never sent there") for k in keys}
        return {**absent, **found}

    # --- acting

    def kill(self, key: str, *, hard: bool = False) -> None:
        """Remove the job: SIGTERM, and SIGKILL half a minute later, by the worker's own clock."""
        self.kill_many([key], hard=hard)

    def kill_many(self, keys: Iterable[str], *, hard: bool = False) -> None:
        """Remove jobs; one that is not made of its cluster yet is removed when it is."""
        alive = [key for key in keys if key in self._sent.of_key and not self._ended(key)]
        self._doomed.update(alive)
        try:
            for constraint in those_of(self._sent.id, alive):
                self._daemons.act("Remove", f"{constraint} && JobStatus != {REMOVED}", "the engine has no more use for it")
                if hard:
                    stuck = f"{constraint} && JobStatus == {REMOVED} && time() - EnteredCurrentStatus > {_STUCK_S:.0f}"
                    self._daemons.act("RemoveX", stuck, "its worker is out of reach")
        except PoolUnavailable as error:
            _LOG.warning("%d jobs are not removed yet: %s", len(alive), error)

    def _remove_doomed(self) -> None:
        self._doomed = {key for key in self._doomed if key in self._sent.of_key and not self._ended(key)}
        for constraint in those_of(self._sent.id, sorted(self._doomed)):
            self._daemons.act("Remove", f"{constraint} && JobStatus != {REMOVED}", "the engine has no more use for it")

    def hold(self, keys: Iterable[str], reason: str) -> None:
        """Hold jobs; those that run stop, and begin anew after their release."""
        for constraint in those_of(self._sent.id, keys):
            self._daemons.act("Hold", constraint, reason)

    def release(self, keys: Iterable[str]) -> None:
        """Let held jobs go on."""
        for constraint in those_of(self._sent.id, keys):
            self._daemons.act("Release", f"{constraint} && JobStatus == {HELD}", "released by the engine")

    def change_priority(self, keys: Iterable[str], priority: int) -> None:
        """Of jobs that wait."""
        for constraint in those_of(self._sent.id, keys):
            self._daemons.edit(constraint, "JobPrio", str(priority))

    def why(self, key: str) -> str:
        """The hold's reason, the match's analysis, the machine it runs on, or how it ended."""
        job = self.poll([key])[key]
        if job.state in POOL_ENDED or job.state is PoolState.UNKNOWN:
            return f"{job.state} at {self.name}: {job.reason or f'exit code {job.exit_code}'}"
        try:
            return f"{job.state} at {self.name}: {explain(self._daemons, self._sent.id, key)}"
        except PoolUnavailable as error:
            return f"UNKNOWN at {self.name}: {error}"

    def capacity(self, group: str = "") -> int:
        """Free slots that this class may have, less the jobs that wait already; 0 where the pool is silent."""
        if self._silent and self._due(()):
            self._ask(())  # nobody else asks where no job is open
        if self._silent:
            return 0
        self._refresh()
        self._read_events(self._sent.all())
        jobs = [(d.group, self._seen(key)) for d in self._sent.all() for key in d.keys if key not in d.forgotten]
        going = [(g, seen) for g, seen in jobs if seen is None or seen.state not in POOL_ENDED]
        idle = sum(1 for _, seen in going if seen is None or seen.state is PoolState.PENDING)
        idle_of_group = sum(1 for g, seen in going if g == group and (seen is None or seen.state is PoolState.PENDING))
        mine = len(going) if group == "prompt" else sum(1 for g, _ in going if g != "prompt")
        allowed = self._pool.slots - (0 if group == "prompt" else self._pool.reserved)
        ahead = self._pool.idle_ahead
        most = min(allowed + ahead - mine, self._free_slots(group) + ahead - idle, self._pool.idle_ceiling - idle_of_group)
        return max(0, most)

    def _free_slots(self, group: str) -> int:
        """CPUs that nobody uses; asked now and then."""
        now = self._clock()
        if now - self._free[0] > _FREE_S:
            try:
                ads = self._daemons.slots(["Cpus", "PachonReserved"], 'PartitionableSlot =?= true || Activity == "Idle"')
            except PoolUnavailable as error:
                _LOG.warning("%s", error)
                self._free = (self._clock() + respite_s(self._clock() - now), 0, 0)
                return 0
            kept = sum(int(ad["Cpus"]) for ad in ads if ad.get("PachonReserved"))
            self._free = (now, sum(int(ad["Cpus"]) for ad in ads) - kept, kept)
        return self._free[1] + (self._free[2] if group == "prompt" else 0)

    def forget(self, key: str) -> None:
        """Remove the files of a job that has ended."""
        if key not in self._sent.of_key or self.poll([key])[key].state not in POOL_ENDED:
            return
        dispatch = self._sent.of_key[key]
        if self._pool.files == "spool":
            self._daemons.act(
                "Remove",
                f'PachonPool == "{self._sent.id}" && PachonKey == "{key}" && JobStatus == {COMPLETED}',
                "its end is noted",
            )
        self._doomed.discard(key)
        self._sent.forget(key)
        if not dispatch.folder.exists():
            self._unwatch(dispatch.id)

"""A pool whose jobs stay as warm workers: a new job goes to one that is idle, and only else to the pool behind.

The worker's side is payloads/runner/worker.py. To the engine nothing changes: each job has its key, lease, attempt and end. What
is no longer a job's own is the beginning of its process, and the slot: a worker keeps it until it was idle for long enough, is
too old, or is in the way of another kind of job.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbone.endpoint import Endpoint
from backbone.errors import ObjectAbsent, ObjectExists, TransientError
from workflow.errors import PoolUnavailable
from workflow.job import CLOSED, Done, Stay, done_key, heartbeat_key, mail_key
from workflow.pools.pool import POOL_ENDED, JobRequest, Pool, PoolJob, PoolState, Resources
from workflow.pools.settings import PRIORITY_CLASSES
from workflow.pools.workers import Worker, Workers

_LOG = logging.getLogger(__name__)
_LIFE_S = 3600.0
_LOOKS_S = 0.5
"""Longest time between a worker's looks into its mailbox: a request to the site's endpoint each."""
_RESTED_S = 10.0
"""After so long without a job a worker gives way to a later class too: between two jobs of a campaign it rests for a round."""


class WarmPool:
    """`behind` is the pool that runs the workers, `slots` how many of them there may be, `idle_s` how long one waits for work.

    With 0 no new job stays; what earlier settings left is seen to.
    """

    def __init__(
        self,
        behind: Pool,
        folder: Path,
        *,
        endpoint: Callable[[], Endpoint],
        slots: int,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._clock = behind.name, clock
        self._behind, self._endpoint, self._slots = behind, endpoint, slots
        self._stay = Stay(idle_s=idle_s, life_s=max(idle_s, _LIFE_S), poll_s=_LOOKS_S) if idle_s else None
        self._folder = folder
        self._workers = Workers(folder)
        self._done: dict[tuple[str, int], Done] = {}
        self._done_at: dict[tuple[str, int], float] = {}
        """When it was first seen that a job had ended, by the clock."""

    # --- sending

    def submit(self, key: str, message: Path, resources: Resources) -> str:
        """Send one job, or adopt it."""
        return self.submit_many([JobRequest(key=key, message=message, resources=resources)])[key]

    def submit_many(self, requests: Sequence[JobRequest]) -> Mapping[str, str]:
        """Give jobs to idle workers, and the rest to the pool as the first of new ones; adopt what was sent before."""
        with self._workers.giving():
            try:
                states = self._tend()
                first = [r for r in {r.key: r for r in requests}.values() if not self._given(r, states)]
            except TransientError as error:
                raise PoolUnavailable(
                    f"pool {self.name}: the endpoint of its workers' mailboxes does not answer: {error}"
                ) from error
            self._start(first)
            return {r.key: self._id(r.key) for r in requests}

    def _given(self, request: JobRequest, states: Mapping[str, PoolJob]) -> bool:
        """Whether an idle worker has the job now, or had it before; else it has its place as the first of a worker of its own."""
        worker = self._workers.of_job.get(request.key)
        if worker is not None and (worker.jobs[request.key] == 0 or self._delivered(worker, request)):
            return worker.jobs[request.key] > 0
        interpreter = _words(request).get("interpreter")
        for worker in list(self._workers.of_name.values()):
            if self._suits(worker, request.resources, interpreter, states):
                self._workers.save(replace(worker, jobs={**worker.jobs, request.key: worker.last + 1}, last=worker.last + 1))
                if self._delivered(self._workers.of_name[worker.key], request):
                    return True
        self._make_room(request.resources.group, states)
        asked = request.resources
        self._workers.save(
            Worker(
                key=request.key,
                memory_mb=asked.memory_mb,
                cpus=asked.cpus,
                group=asked.group,
                interpreter=interpreter,
                jobs={request.key: 0},
            )
        )
        return False

    def _suits(self, worker: Worker, asked: Resources, interpreter: str | None, states: Mapping[str, PoolJob]) -> bool:
        if not worker.serves(asked, interpreter) or not self._idle(worker, states):
            return False
        host = self._done[worker.key, worker.last].host
        return not _among(host, asked.never_machines) and (not asked.only_machines or _among(host, asked.only_machines))

    def _delivered(self, worker: Worker, request: JobRequest) -> bool:
        """Put the message into its place; False if the worker was closed before, and the job is no longer its."""
        key = mail_key(worker.key, worker.jobs[request.key])
        try:
            self._endpoint().put(key, request.message.read_bytes(), create_only=True)
        except ObjectExists:
            if self._endpoint().get(key) == CLOSED:
                left = {name: number for name, number in worker.jobs.items() if name != request.key}
                self._workers.save(replace(worker, jobs=left, last=worker.last - 1, closed=True))
                return False
        _LOG.info("pool %s: worker %s is given job %s", self.name, worker.key, request.key)
        return True

    def _start(self, requests: Sequence[JobRequest]) -> None:
        """The first jobs of workers go to the pool behind, with a word that they stay."""
        made = []
        try:
            for request in requests:
                path = self._folder / f".{request.key}.message"
                stays = {"stay": self._stay.model_dump()} if self._stay else {}
                path.write_text(json.dumps(_words(request) | stays))
                made.append(replace(request, message=path))
            for key, taken in (self._behind.submit_many(made) if made else {}).items():
                if self._workers.of_name[key].id != taken:
                    self._workers.save(replace(self._workers.of_name[key], id=taken))
        finally:
            for request in made:
                request.message.unlink(missing_ok=True)

    def _id(self, key: str) -> str:
        worker = self._workers.of_job[key]
        return f"{worker.id}#{worker.jobs[key]}" if worker.jobs[key] else str(worker.id)

    # --- who is idle

    def _idle(self, worker: Worker, states: Mapping[str, PoolJob]) -> bool:
        """Whether it can be given a job."""
        running = worker.key in states and states[worker.key].state is PoolState.RUNNING
        return running and not worker.closed and self._end_of(worker, worker.last) is not None

    def _end_of(self, worker: Worker, number: int) -> Done | None:
        """How a worker's job ended; None: it has not, or the worker died over it."""
        found = self._done.get((worker.key, number))
        if found is None:
            try:
                found = Done.model_validate_json(self._endpoint().get(done_key(worker.key, number)))
            except ObjectAbsent:
                return None
            self._done[worker.key, number], self._done_at[worker.key, number] = found, self._clock()
        return found

    def _tend(self) -> Mapping[str, PoolJob]:
        """What the pool says of each worker; those that are over are dropped, and those that are in the way are ended."""
        workers = list(self._workers.of_name.values())
        rests = {w.key: self._end_of(w, w.last) is not None for w in workers}  # before the pool is asked: it may have just begun
        states = self._behind.poll([w.key for w in workers])
        waiting = [w.group for w in workers if states[w.key].state is PoolState.PENDING and not rests[w.key]]
        first = min(map(_rank, waiting), default=len(PRIORITY_CLASSES))
        for worker in workers:
            state = states[worker.key].state
            if state in POOL_ENDED:
                self._bury(worker)
            elif rests[worker.key] and state in (PoolState.PENDING, PoolState.HELD):
                self._behind.kill(worker.key)  # evicted, or held by hand, after its last job: nobody needs it back
            elif self._idle(worker, states) and _rank(worker.group) > first:
                self._close(worker)
        return states

    def _make_room(self, group: str, states: Mapping[str, PoolJob]) -> None:
        """Where all slots have workers, one that is idle and of no use here ends for a new one."""
        living = [w for w in self._workers.of_name.values() if w.key not in states or states[w.key].state not in POOL_ENDED]
        if sum(not w.closed for w in living) >= self._slots:
            idle = [w for w in living if self._idle(w, states) and self._gives_way(w, group)]
            if idle:
                self._close(max(idle, key=lambda worker: _rank(worker.group)))

    def _gives_way(self, worker: Worker, group: str) -> bool:
        """Whether an idle worker may be ended for a job of this class. What the night keeps for itself never may."""
        mine = _rank(worker.group)
        return mine >= _rank(group) or (mine > 0 and self._clock() - self._done_at[worker.key, worker.last] > _RESTED_S)

    def _close(self, worker: Worker) -> None:
        with contextlib.suppress(ObjectExists):  # it has closed by itself
            self._endpoint().put(mail_key(worker.key, worker.last + 1), CLOSED, create_only=True)
        self._workers.save(replace(worker, closed=True))

    def _bury(self, worker: Worker) -> None:
        """Of a worker that is gone nothing stays but what the engine has not heard yet."""
        if not worker.jobs:
            self._endpoint().discard(f"_w/{worker.key}/")
            self._behind.forget(worker.key)
            self._workers.drop(worker)
            self._done = {of: done for of, done in self._done.items() if of[0] != worker.key}
            self._done_at = {of: at for of, at in self._done_at.items() if of[0] != worker.key}

    # --- looking

    def poll(self, keys: Iterable[str]) -> Mapping[str, PoolJob]:
        """State of every key."""
        keys = list(keys)
        self._workers.refresh()
        ours = {key: worker for key in keys if (worker := self._workers.of_job.get(key)) is not None}
        # The pool is asked first: what a worker that has ended wrote is then all there.
        seen = self._behind.poll(list(dict.fromkeys([*(w.key for w in ours.values()), *(k for k in keys if k not in ours)])))
        return {key: self._job(key, ours[key], seen[ours[key].key]) if key in ours else seen[key] for key in keys}

    def _job(self, key: str, worker: Worker, seen: PoolJob) -> PoolJob:
        number = worker.jobs[key]
        try:
            if (done := self._end_of(worker, number)) is not None:
                return PoolJob(key=key, state=PoolState.EXITED, exit_code=done.exit_code)
            if number and seen.state in POOL_ENDED and not self._begun(key):
                words = f"worker {worker.key} ended before it took the job"
                return PoolJob(key=key, state=PoolState.GONE, reason=words, failure="preempted")
        except TransientError as error:
            return PoolJob(key=key, state=PoolState.UNKNOWN, reason=f"whether it has ended is not known: {error}")
        return replace(seen, key=key)

    def _begun(self, key: str) -> bool:
        try:
            self._endpoint().info(heartbeat_key(key))
        except ObjectAbsent:
            return False
        return True

    def why(self, key: str) -> str:
        """Of a job: its worker's place, or its end."""
        job = self.poll([key])[key]
        worker = self._workers.of_job.get(key)
        if worker is None or job.state in POOL_ENDED:
            how = job.reason if job.exit_code is None else f"exit code {job.exit_code} {job.reason}".strip()
            return self._behind.why(key) if worker is None else f"{job.state} at {self.name}: {how}"
        return f"{self._behind.why(worker.key)} (job {worker.jobs[key] + 1} of warm worker {worker.key})"

    def capacity(self, group: str = "") -> int:
        """Idle workers that this class may have or replace, and new ones for which there is room."""
        with self._workers.giving():
            try:
                states = self._tend()
                living = [w for w in self._workers.of_name.values() if states[w.key].state not in POOL_ENDED]
                idle = sum(self._idle(w, states) and self._gives_way(w, group) for w in living)
            except TransientError as error:
                _LOG.warning("pool %s: its workers' mailboxes cannot be read: %s", self.name, error)
                return 0
            room = self._slots - len(living)
            if room <= 0 and any(_rank(w.group) > _rank(group) for w in living):
                # One waits where lower classes have all slots: the next worker of theirs that rests ends for it.
                room = 1 - sum(w.group == group and states[w.key].state is PoolState.PENDING for w in living)
            return idle + max(0, min(room, self._behind.capacity(group)))

    # --- acting

    def kill(self, key: str, *, hard: bool = False) -> None:
        """End the job, and its worker with it."""
        self.kill_many([key], hard=hard)

    def kill_many(self, keys: Iterable[str], *, hard: bool = False) -> None:
        """End jobs; a worker whose job has ended already goes on."""
        with self._workers.giving():
            doomed = []
            for key, worker in self._of(keys):
                if worker is None or not self._surely_over(worker, key):
                    doomed.append(key if worker is None else worker.key)
                    if worker is not None and not worker.closed:
                        self._workers.save(replace(worker, closed=True))
            self._behind.kill_many(doomed, hard=hard)

    def hold(self, keys: Iterable[str], reason: str) -> None:
        """Hold the workers of these jobs."""
        self._behind.hold(self._names(keys), reason)

    def release(self, keys: Iterable[str]) -> None:
        """Let them go on."""
        self._behind.release(self._names(keys))

    def change_priority(self, keys: Iterable[str], priority: int) -> None:
        """Of jobs that wait as the first of their worker: all others have one that runs."""
        self._behind.change_priority(self._names(keys), priority)

    def forget(self, key: str) -> None:
        """Drop what is kept of a job that has ended; its worker is dropped when it has ended itself."""
        self._workers.refresh()
        worker = self._workers.of_job.get(key)
        if worker is None:
            self._behind.forget(key)
        elif self.poll([key])[key].state in POOL_ENDED:
            with self._workers.giving():
                worker = self._workers.of_job[key]
                self._workers.save(replace(worker, jobs={k: n for k, n in worker.jobs.items() if k != key}))
                if self._behind.poll([worker.key])[worker.key].state in POOL_ENDED:
                    self._bury(self._workers.of_name[worker.key])

    def _of(self, keys: Iterable[str]) -> list[tuple[str, Worker | None]]:
        return [(key, self._workers.of_job.get(key)) for key in keys]

    def _names(self, keys: Iterable[str]) -> list[str]:
        """Keys by which the pool behind knows the workers of jobs."""
        self._workers.refresh()
        return list(dict.fromkeys(key if worker is None else worker.key for key, worker in self._of(keys)))

    def _surely_over(self, worker: Worker, key: str) -> bool:
        try:
            return self._end_of(worker, worker.jobs[key]) is not None
        except TransientError:
            return False


def _words(request: JobRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.message.read_text())
    return found


def _rank(group: str) -> int:
    """The first class is 0; what is no class comes last."""
    return PRIORITY_CLASSES.index(group) if group in PRIORITY_CLASSES else len(PRIORITY_CLASSES)


def _among(host: str, names: Sequence[str]) -> bool:
    """Whether a host is named, by its short or its whole name."""
    return any(host.lower() == name.lower() or host.lower().startswith(f"{name.lower()}.") for name in names)

"""A warm worker: a job's process that stays, with everything loaded, and takes further jobs from its mailbox.

The mailbox is at the job's endpoint (workflow/job.py): numbered places, each filled once and for ever by whoever is first, the
engine with a message or the worker with the word that it ends. So no message is ever sent to a worker that will not read it.
Each job is one of the ledger's own, with its attempt, lease and segments; the worker itself is nothing that the ledger knows.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from backbone.endpoint import Endpoint
from backbone.errors import ObjectAbsent, ObjectExists, TransientError
from backbone.garbage import rss_mb
from payloads.runner.supervisor import Stopping, opened, run_job
from workflow.job import CLOSED, EXIT_PREEMPTED, EXIT_STORAGE, Done, JobMessage, Stay, done_key, mail_key

_FIRST_LOOKS_S = 0.05
_TRIES = 6


class Mailbox:
    """A worker's end of it."""

    def __init__(self, endpoint: Endpoint, worker: str) -> None:
        self._endpoint, self._worker = endpoint, worker

    def was_done(self, number: int) -> bool:
        """Whether this job ended: the pool may start a worker anew that it evicted."""
        try:
            self._endpoint.info(done_key(self._worker, number))
        except ObjectAbsent:
            return False
        return True

    def say_done(self, number: int, exit_code: int) -> None:
        """A job has ended; TransientError if its endpoint does not take that after some tries."""
        text = Done(exit_code=exit_code, host=socket.gethostname()).model_dump_json().encode()
        for left in reversed(range(_TRIES)):
            try:
                self._endpoint.put(done_key(self._worker, number), text)
            except TransientError as error:
                if not left:
                    raise
                time.sleep(error.delay_s)
            else:
                return

    def look(self, number: int) -> bytes | None:
        """What is in a place, if anything; an endpoint that does not answer now will be asked again."""
        try:
            return self._endpoint.get(mail_key(self._worker, number))
        except (ObjectAbsent, TransientError):
            return None

    def close(self, number: int) -> bytes | None:
        """Take no more from here on; what is there already, if the engine was first; None: it is not known yet."""
        try:
            self._endpoint.put(mail_key(self._worker, number), CLOSED, create_only=True)
        except ObjectExists:
            return self.look(number)
        except TransientError:
            return None
        return CLOSED


def serve(first: JobMessage, *, do: Callable[..., int] = run_job) -> int:
    """Do a job and those that follow; returns the exit code of the process. After a job that ended badly it takes no other."""
    if first.stay is None:
        raise ValueError(f"job {first.attempt} is not one of a worker that stays")
    stopping = Stopping().install()
    post = _Post(Mailbox(opened(first.endpoint), first.attempt), first.stay, first.memory_mb, stopping)
    number, job, began = 0, first, None
    while job is not None:
        if not post.box.was_done(number):
            code = EXIT_PREEMPTED if stopping.asked else do(job, stopping=stopping, began=began)
            try:
                post.box.say_done(number, code)
            except TransientError:
                return code or EXIT_STORAGE
            if code:
                return code
        number += 1
        job, began = post.next(number), time.time()
    return EXIT_PREEMPTED if stopping.asked else 0


class _Post:
    """Where a worker waits for its next job."""

    def __init__(self, box: Mailbox, stay: Stay, memory_mb: int, stopping: Stopping) -> None:
        self.box = box
        self._stay, self._stopping = stay, stopping
        self._most_mb = memory_mb / 2
        self._ends = time.monotonic() + stay.life_s

    def next(self, number: int) -> JobMessage | None:
        """The next job, or None once there will be none."""
        idle_since, pause_s = time.monotonic(), _FIRST_LOOKS_S
        while True:
            now = time.monotonic()
            # What a job left in the parent it takes from the next one's memory, which the pool holds it to.
            ends = self._stopping.asked or now > min(self._ends, idle_since + self._stay.idle_s)
            found = self.box.close(number) if ends or rss_mb(os.getpid()) > self._most_mb else self.box.look(number)
            if found == CLOSED:
                return None
            if found is not None:
                return JobMessage.model_validate_json(found)
            time.sleep(pause_s)
            pause_s = min(self._stay.poll_s, pause_s * 1.1)

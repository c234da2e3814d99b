"""What a job reports: append-only segments, each after the zip that it names, and a heartbeat."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import time
import zipfile
from collections.abc import Callable

from backbone.endpoint import Endpoint
from backbone.errors import TransientError
from workflow.job import ZIP, JobMessage, Outcome, Segment, SegmentFile, heartbeat_key, segment_key

_LOG = logging.getLogger(__name__)


class Reporter:
    """Collects outcomes and brings them to the endpoint no later than `flush_s` after they came."""

    def __init__(self, job: JobMessage, endpoint: Endpoint, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._job, self._endpoint, self._clock = job, endpoint, clock
        self._outcomes: list[Outcome] = []
        self._members: dict[str, bytes] = {}
        self._number = 0
        self._oldest = clock()
        self._next_beat = clock()
        self._beats = 0

    def add(self, outcome: Outcome, members: dict[str, bytes]) -> None:
        """One more outcome."""
        if not self._outcomes:
            self._oldest = self._clock()
        self._outcomes.append(outcome)
        self._members.update(members)

    def tick(self, current: str | None) -> None:
        """Write what is due; an endpoint that does not answer now is asked again at the next tick."""
        try:
            if self._outcomes and self._clock() - self._oldest >= self._job.flush_s:
                self._flush()
            if self._clock() >= self._next_beat:
                self._beat(current)
        except TransientError as error:
            _LOG.warning("job %s: cannot report now, will try again: %s", self._job.attempt, error)
            self._oldest = self._clock() + error.delay_s - self._job.flush_s
            self._next_beat = self._clock() + error.delay_s

    def close(self, reason: str = "", *, tries: int = 6, sleep: Callable[[float], None] = time.sleep) -> None:
        """The last segment. Raises the endpoint's TransientError if it does not answer after `tries`."""
        for n in range(tries):
            try:
                self._flush(final=True, reason=reason)
            except TransientError as error:
                _LOG.warning("job %s: cannot write the last segment (try %d of %d): %s", self._job.attempt, n + 1, tries, error)
                if n + 1 == tries:
                    raise
                sleep(error.delay_s)
            else:
                return

    def _flush(self, *, final: bool = False, reason: str = "") -> None:
        files, outcomes = [], self._outcomes
        if self._members:
            key = segment_key(self._job.attempt, self._number, "zip")
            files.append(self._put_zip(key))
            outcomes = [_named(outcome, key) for outcome in outcomes]
        segment = Segment(
            attempt=self._job.attempt,
            number=self._number,
            files=tuple(files),
            outcomes=tuple(outcomes),
            final=final,
            reason=reason,
        )
        self._endpoint.put(segment_key(self._job.attempt, self._number), segment.model_dump_json().encode())
        self._outcomes, self._members, self._number = [], {}, self._number + 1

    def _put_zip(self, key: str) -> SegmentFile:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in self._members.items():
                archive.writestr(name, content)
        info = self._endpoint.put(key, buffer.getvalue())
        return SegmentFile(key=key, size=info.size, sha256=info.sha256 or "")

    def _beat(self, current: str | None) -> None:
        self._beats += 1
        words = {"beat": self._beats, "quantum": current, "host": socket.gethostname(), "pid": os.getpid()}
        self._endpoint.put(heartbeat_key(self._job.attempt), json.dumps(words).encode())
        self._next_beat = self._clock() + self._job.heartbeat_s


def _named(outcome: Outcome, key: str) -> Outcome:
    """The outcome with its zip's key in place of `ZIP`."""
    return Outcome.model_validate_json(outcome.model_dump_json().replace(f'"{ZIP}#', f'"{key}#'))

"""What a job reports: append-only segments, each after the zip that it names, and a heartbeat."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from backbone.endpoint import Endpoint
from backbone.errors import TransientError
from payloads.runner.meter import process_began
from payloads.runner.software import own_versions
from workflow.job import ZIP, JobMessage, Segment, SegmentFile, heartbeat_key, segment_key

_LOG = logging.getLogger(__name__)
_MOST = 20_000
"""Outcomes in one segment: what an engine takes in at once."""


class Reporter:
    """Collects outcomes and brings them to the endpoint no later than `flush_s` after they came."""

    def __init__(
        self,
        job: JobMessage,
        endpoint: Endpoint,
        *,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`began`: when the job did (Unix), where that is not its process's beginning."""
        self._job, self._endpoint, self._began, self._clock = job, endpoint, began, clock
        self._outcomes: list[bytes] = []
        self._members: dict[str, bytes] = {}
        self._number = 0
        self._unsent: tuple[str, bytes] | None = None
        self._oldest = clock()
        self._next_beat = clock()
        self._beats = 0

    def add(self, outcome: bytes, members: Mapping[str, bytes]) -> None:
        """One more outcome (JSON of an `Outcome`)."""
        if not self._outcomes:
            self._oldest = self._clock()
        self._outcomes.append(outcome)
        self._members.update(members)

    def tick(self, current: str | None) -> None:
        """Write what is due; an endpoint that does not answer now is asked again at the next tick."""
        now = self._clock()
        try:
            if self._outcomes and (now - self._oldest >= self._job.flush_s or len(self._outcomes) >= _MOST):
                self._flush()
            if now >= self._next_beat:
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
        self._send()
        if self._outcomes or final:
            self._unsent = self._segment(final, reason)
            self._outcomes, self._members = [], {}
            self._send()

    def _send(self) -> None:
        """Write the segment that is made. Where the answer is lost the very same is written again: it may have been read."""
        if self._unsent is not None:
            self._endpoint.put(*self._unsent)
            self._unsent, self._number = None, self._number + 1

    def _segment(self, final: bool, reason: str) -> tuple[str, bytes]:
        files, outcomes = [], b",".join(self._outcomes)
        if self._members:
            key = segment_key(self._job.attempt, self._number, "zip")
            files.append(self._put_zip(key))
            outcomes = outcomes.replace(f'"{ZIP}#'.encode(), f'"{key}#'.encode())
        segment = Segment(
            attempt=self._job.attempt, number=self._number, files=tuple(files), final=final, reason=reason, **self._where()
        )
        head = segment.model_dump_json(exclude={"outcomes"}).encode()
        return segment_key(self._job.attempt, self._number), head[:-1] + b',"outcomes":[' + outcomes + b"]}"

    def _where(self) -> dict[str, Any]:
        """Host, software and beginning, told once."""
        if self._number > 0:
            return {}
        began = process_began(os.getpid()) if self._began is None else self._began
        return {"host": socket.gethostname(), "software": own_versions(), "began": began}

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

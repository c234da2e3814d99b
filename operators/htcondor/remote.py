"""A schedd over a child process (server.py), which has a time limit and is replaced when it does not keep it."""

from __future__ import annotations

import atexit
import json
import logging
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from operators.htcondor.schedd import Action, ScheddRefused, ScheddUnavailable, SubmitRefused
from operators.htcondor.settings import PoolSettings
from operators.htcondor.states import JobView

_log = logging.getLogger(__name__)
COMMAND = (sys.executable, "-m", "operators.htcondor.server")
_KINDS = {"unavailable": ScheddUnavailable, "refused": ScheddRefused, "rejected": SubmitRefused}
_BATCH = 500
"""Keys of one query: a constraint of 17 kB."""
_TRANSFER_FACTOR = 20
"""Files may take this much longer than words."""


class RemoteSchedd:
    """See Schedd. One call at a time; any thread may call."""

    def __init__(self, settings: PoolSettings, command: Sequence[str] = COMMAND) -> None:
        self.settings = settings.checked()
        self._command = list(command)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def submit(self, key: str, commands: Mapping[str, str], *, spool: bool) -> str:
        """See Schedd."""
        limit_s = self.settings.timeout_s * (_TRANSFER_FACTOR if spool else 1)
        return str(self._call("submit", limit_s, key=key, commands=dict(commands), spool=spool))

    def find(self, keys: Iterable[str]) -> dict[str, JobView]:
        """See Schedd."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, JobView] = {}
        for begin in range(0, len(wanted), _BATCH):
            for ad in self._call("find", keys=wanted[begin : begin + _BATCH]):
                job = JobView.of(ad)
                found.setdefault(job.key, job)  # the oldest comes first
        return found

    def past(self, key: str) -> JobView | None:
        """See Schedd."""
        ad = self._call("past", key=key)
        return JobView.of(ad) if ad else None

    def ad(self, job_id: str) -> dict[str, Any] | None:
        """See Schedd."""
        found: dict[str, Any] | None = self._call("ad", job_id=job_id)
        return found

    def act(self, action: Action, key: str, reason: str) -> int:
        """See Schedd."""
        return int(self._call("act", action=action.value, key=key, reason=reason))

    def acknowledge(self, job_id: str) -> None:
        """See Schedd."""
        self._call("acknowledge", job_id=job_id)

    def retrieve(self, job_id: str) -> None:
        """See Schedd."""
        self._call("retrieve", self.settings.timeout_s * _TRANSFER_FACTOR, job_id=job_id)

    def whoami(self) -> dict[str, str]:
        """See Schedd."""
        known: dict[str, str] = self._call("whoami")
        return known

    def close(self) -> None:
        """End the child: by the end of its input, or where that does not help at once."""
        with self._lock:
            self._end(grace_s=2.0)

    def _call(self, do: str, limit_s: float | None = None, /, **arguments: Any) -> Any:
        with self._lock:
            answer = self._exchange({"do": do, "with": arguments}, limit_s or self.settings.timeout_s)
        if "value" in answer:
            return answer["value"]
        raise _KINDS[answer["kind"]](f"{self._who()} could not {do}: {answer['message']}")

    def _exchange(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        child = self._started()
        assert child.stdin is not None  # noqa: S101 - both are pipes
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = _read_line(child, limit_s)
        except TimeoutError as error:
            self._end()
            raise ScheddUnavailable(f"{self._who()} said nothing for {limit_s:.0f} s while asked to {request['do']}") from error
        except OSError as error:
            line = b""
            _log.debug("the client of %s is gone: %s", self._who(), error)
        if not line:
            code = self._end()
            raise ScheddUnavailable(
                f"the client process of {self._who()} ended (exit code {code}) while asked to {request['do']}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._end()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("_CONDOR_")}
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        settings = self.settings.model_dump(mode="json") | {"token": self.settings.token.get_secret_value()}
        assert self._child.stdin is not None  # noqa: S101 - a pipe
        self._child.stdin.write(json.dumps(settings).encode() + b"\n")
        return self._child

    def _end(self, grace_s: float = 0.0) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # unsent words of a child that is gone
                    _log.debug("a pipe to %s was broken", self._who())
        try:
            return child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def _who(self) -> str:
        return f"pool {self.settings.collector}" + (f" schedd {self.settings.schedd}" if self.settings.schedd else "")


def _read_line(child: subprocess.Popen[bytes], limit_s: float) -> bytes:
    """One line of the child's output; TimeoutError when the first byte does not come in time, empty when it ended."""
    assert child.stdout is not None  # noqa: S101 - a pipe
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        if not selector.select(limit_s):
            raise TimeoutError
    return child.stdout.readline()


_shared: dict[tuple[int, PoolSettings], RemoteSchedd] = {}
_shared_lock = threading.Lock()


def shared(settings: PoolSettings) -> RemoteSchedd:
    """The one client of this process for these settings; a fork gets its own."""
    with _shared_lock:
        key = (os.getpid(), settings)
        if key not in _shared:
            _shared[key] = RemoteSchedd(settings)
            atexit.register(_shared[key].close)
        return _shared[key]

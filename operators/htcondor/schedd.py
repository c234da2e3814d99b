"""The contract of a schedd, as this provider needs it; `fake.FakeSchedd` and the real one pass the same suite of tests.

- `submit` is idempotent by key: a job of this key whose end nobody has taken note of is adopted, never submitted again;
- a job stays known until `acknowledge`, however long ago it ended (within HTCondor's own limit of ten days);
- a schedd that does not answer raises ScheddUnavailable, and nothing is concluded from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Protocol

from backbone.errors import AccessRefused, PermanentError, TransientError
from operators.htcondor.states import JobView


class ScheddUnavailable(TransientError):
    """The pool did not answer, or not in time: what it did is not known."""


class ScheddRefused(AccessRefused):
    """The pool does not let us in, or not do this."""


class SubmitRefused(PermanentError):
    """The schedd, or HTCondor's own reader of submit descriptions, will not take this job."""


class Action(StrEnum):
    """What can be done to a job."""

    HOLD = "Hold"
    RELEASE = "Release"
    REMOVE = "Remove"


class Schedd(Protocol):
    """One queue of one pool."""

    def submit(self, key: str, commands: Mapping[str, str], *, spool: bool) -> str:
        """Submit one job, or adopt that of the key; returns its id. `spool`: send its input files through the schedd.

        Raises SubmitRefused, ScheddRefused; ScheddUnavailable where it is not known whether the job was taken: ask again.
        """

    def find(self, keys: Iterable[str]) -> dict[str, JobView]:
        """The jobs of these keys that are in the queue and not acknowledged, by one query; a key without one is left out."""

    def past(self, key: str) -> JobView | None:
        """How the newest job of this key that has left the queue ended; None where the history has none (it may lag)."""

    def ad(self, job_id: str) -> dict[str, Any] | None:
        """The whole ClassAd of a job, in the queue or past, as plain values; None where the schedd knows no such job."""

    def act(self, action: Action, key: str, reason: str) -> int:
        """Hold, release or remove the jobs of a key; returns how many were changed. None to change is no error."""

    def acknowledge(self, job_id: str) -> None:
        """The end of this job has been taken note of: it may leave the queue."""

    def retrieve(self, job_id: str) -> None:
        """Bring a completed, spooled job's output files to its folder."""

    def whoami(self) -> dict[str, str]:
        """The pool's name for us and the schedd's name, address and version; raises as the others do."""

    def close(self) -> None:
        """Let go of what is held open."""

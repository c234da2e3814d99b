"""The forked process that runs quanta in sequence and hands each outcome to its parent at once.

Database engines, threads and S3 clients are made here and only here: none survives a fork. What the quanta are, `Work` knows:
quanta of a graph, or the null payload.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Protocol

from payloads.runner.failures import describe
from payloads.runner.frames import Frame, write
from workflow.job import JobMessage, Outcome

_PR_SET_PDEATHSIG = 1
_SLACK = 2
"""Of address space over memory: libraries reserve what they never touch. What really uses more, the parent stops."""


class Runner(Protocol):
    """Executes quanta; made in the child."""

    def blocked(self, quantum: str) -> bool:
        """Whether something that it needs of this job failed: then it is left to a later job."""

    def run(self, quantum: str) -> tuple[Outcome, Mapping[str, bytes]]:
        """Execute one quantum; its outcome, and members for the segment's zip. Never raises for what the quantum does."""


class Work(ABC):
    """What a child inherits from its parent by the fork."""

    def __init__(self, job: JobMessage, order: tuple[str, ...]) -> None:
        self.job, self.order = job, order
        self.done: dict[str, bytes] = {}
        """Outcomes, as JSON, of earlier children of this job."""

    @abstractmethod
    def begin(self) -> Runner:
        """What runs the quanta, in the child."""

    def outcomes(self) -> Iterator[Outcome]:
        """Of earlier children, in the order of their execution."""
        return map(Outcome.model_validate_json, self.done.values())


def run(work: Work, todo: list[str], pipe: int) -> None:
    """Run `todo` in order; the caller ends the process then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    limit = _SLACK * work.job.memory_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        runner = work.begin()
    except Exception as error:
        write(pipe, Frame(broken=describe(error)))
        os._exit(1)
    free = (quantum for quantum in todo if not runner.blocked(quantum))  # lazily: what is blocked shows as others fail
    current = next(free, None)
    write(pipe, Frame(begun=current))
    while current is not None:
        outcome, members = runner.run(current)
        following = next(free, None)
        text = outcome.model_dump_json(exclude_defaults=True).encode()
        write(
            pipe,
            Frame(ended=current, begun=following, succeeded=outcome.state == "succeeded", outcome=text, members=members),
        )
        current = following

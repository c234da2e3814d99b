"""A visit on its detector as its worker sees it: a forked process, its pipe, the messages it came by, its deadline."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from backbone.messages.prompt import Ended, FrameArrived, NextVisit
from backbone.messages.transport import Delivery
from services.prompt.science import Plan
from services.prompt.words import Done, Word, read_word

NO_FRAME_S = 30.0
WAITING = "waiting"
Run = Callable[[Plan, Connection], None]


@dataclass(eq=False)
class Flight:
    """One visit in flight; `run` is what its process does."""

    plan: Plan
    expected_end: float
    frames: dict[int, FrameArrived] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    """Acknowledged when its end has been told."""
    stage: str = WAITING
    pid: int | None = None
    _pipe: Connection | None = None

    @classmethod
    def of(cls, said: NextVisit | FrameArrived) -> Flight:
        """From an announcement, or from a frame that nobody announced."""
        if isinstance(said, FrameArrived):
            plan = Plan(visit=said.visit, mode=said.mode, exposures=said.exposures or (said.exposure,))
            return cls(plan, said.readout_end)
        plan = Plan(
            visit=said.visit,
            mode=said.mode,
            exposures=said.exposures,
            field=said.field,
            ra_deg=said.ra_deg,
            dec_deg=said.dec_deg,
            rotation_deg=said.rotation_deg,
            physical_filter=said.physical_filter,
            observation=said.observation,
        )
        return cls(plan, said.expected_end)

    @property
    def readout_end(self) -> float | None:
        """Of its latest frame; None before there is one."""
        return max((frame.readout_end for frame in self.frames.values()), default=None)

    @property
    def whole(self) -> bool:
        """Whether all its snaps are there."""
        return set(self.plan.exposures) <= set(self.frames)

    def limit(self, deadline_s: float) -> float:
        """When it is cancelled."""
        read = self.readout_end
        if read is None:
            return self.expected_end + deadline_s + NO_FRAME_S
        return (read if self.whole else max(read, self.expected_end)) + deadline_s

    def start(self, run: Run) -> None:
        """Fork. The child keeps nothing of the parent but what is in memory."""
        ours, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            try:
                run(self.plan, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._pipe = ours
        for frame in self.frames.values():
            self._pass_on(frame)

    def add(self, frame: FrameArrived) -> bool:
        """A frame of it has arrived; whether it is new."""
        if frame.exposure in self.frames:
            return False
        self.frames[frame.exposure] = frame
        if self._pipe is not None:
            self._pass_on(frame)
        return True

    def _pass_on(self, frame: FrameArrived) -> None:
        assert self._pipe is not None  # noqa: S101 - for type checkers
        with contextlib.suppress(OSError):  # it just died: `words` will tell
            self._pipe.send_bytes(frame.model_dump_json().encode())

    def words(self) -> list[Word]:
        """What its process has said since; a death is a word too."""
        if self._pipe is None or self.pid is None:
            return []
        found = self._said(self._pipe)
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        if ended:
            found += self._said(self._pipe)  # its last words, where they came between the two looks
        if found:
            self.stage = found[-1].stage
        if found and isinstance(found[-1], Done):
            if not ended:
                os.waitpid(self.pid, 0)
            self._reap()
        elif ended:
            found.append(self._died(status))
        return found

    def _said(self, pipe: Connection) -> list[Word]:
        found: list[Word] = []
        with contextlib.suppress(EOFError, OSError):
            while pipe.poll():
                found.append(read_word(pipe.recv_bytes()))
        return found

    def cancel(self) -> None:
        """End its process now."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._reap()

    def _died(self, status: int) -> Done:
        self._reap()
        code = os.waitstatus_to_exitcode(status)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Done(state="failed", stage=self.stage, reason=f"its process ended by {name}", mechanism=name)

    def _reap(self) -> None:
        self.pid = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def ended(self, done: Done, **who: Any) -> Ended:
        """The report of its end."""
        return Ended(
            **who,
            **done.model_dump(exclude={"kind"}),
            visit=self.plan.visit,
            readout_end=self.readout_end,
            mode=self.plan.mode,
            exposures=self.plan.exposures,
        )

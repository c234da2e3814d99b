"""The engine's own null payload: quanta that do nothing and write nothing, through the whole of the job contract but the Butler.

What is left is what the engine itself costs: pools, segments, heartbeats, leases, acceptance.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from payloads.runner.child import Runner, Work
from payloads.runner.meter import peak_mb
from workflow.job import JobMessage, Outcome, null_sleep_s

_NOTHING: Mapping[str, bytes] = {}


class NullWork(Work):
    """Quanta that need no graph."""

    def __init__(self, job: JobMessage) -> None:
        super().__init__(job, job.quanta)

    def begin(self) -> Runner:
        """Nothing to prepare."""
        return _Runner(null_sleep_s(self.job.graph_key))


class _Runner:
    def __init__(self, sleep_s: float) -> None:
        self._sleep_s = sleep_s
        self._peak_mb = round(peak_mb(), 1)  # for all of them: there is nothing that could use more

    def blocked(self, _quantum: str) -> bool:
        """Never: they have no parents."""
        return False

    def run(self, quantum: str) -> tuple[Outcome, Mapping[str, bytes]]:
        """Sleep, if anything."""
        wall = time.perf_counter()
        if self._sleep_s:
            time.sleep(self._sleep_s)
        wall_s = round(time.perf_counter() - wall, 6)
        return Outcome(quantum=quantum, state="succeeded", wall_s=wall_s, peak_mb=self._peak_mb), _NOTHING

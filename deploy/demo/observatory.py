"""A night of a simulated observatory, against the clock: visits are announced, exposed, read out, sent by the camera."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from backbone.messages.prompt import KnownField, Mode, NextVisit
from payloads.simulator.exposures import Planned
from payloads.simulator.headers import raw_name
from payloads.simulator.world import World
from services.prompt_ingest.camera import Camera

LEAD_S = 20.0
"""From next_visit to the start of the exposure's readout at the least (DMTN-219)."""


def fields_of(world: World, night: int) -> list[KnownField]:
    """The fields and filters of a night, each once."""
    found = {}
    for exposure in visits_of(world, night):
        field_ = world.survey.fields[exposure.field or 0]
        found[field_.name, exposure.filter] = KnownField(
            ra_deg=field_.ra_deg, dec_deg=field_.dec_deg, physical_filter=str(exposure.filter)
        )
    return list(found.values())


def visits_of(world: World, night: int) -> list[Planned]:
    """Its science exposures, in order."""
    return [e for e in world.planned if e.kind == "science" and e.night == night]


@dataclass
class Observatory:
    """Plays visits whose frames are below `raw` (as the simulator wrote them). `announce` brings next_visit to the night."""

    world: World
    raw: Path
    camera: Camera
    announce: Callable[[NextVisit], None]
    snaps: int = 1
    """Exposures that make a visit."""
    readout_end: dict[int, float] = field(default_factory=dict)
    """Visit → when its last snap was read out (Unix)."""

    def play(self, exposures: Sequence[Planned], cadence_s: float, at: Callable[[int], None] = lambda _: None) -> None:
        """One visit each `cadence_s`; `at(n)` is called as the n-th begins. Returns when the last frame is with ingest."""
        groups = [exposures[n : n + self.snaps] for n in range(0, len(exposures), self.snaps)]
        with ThreadPoolExecutor(len(self.world.camera.detectors)) as sending:
            begin, futures = time.time(), []
            for number, group in enumerate(groups):
                _sleep_until(begin + number * cadence_s)
                at(number)
                end = begin + (number + 1) * cadence_s
                self.announce(self._next_visit(group, end))
                for exposure in group:
                    _sleep_until(end)
                    futures += [sending.submit(self._send, exposure, group, d.id, end) for d in self.world.camera.detectors]
                self.readout_end[group[0].id] = end
            for future in futures:
                future.result()

    def _next_visit(self, group: Sequence[Planned], end: float) -> NextVisit:
        first = group[0]
        target, name = first.target, self.world.survey.fields[first.field or 0].name
        return NextVisit(
            instrument=self.world.camera.name,
            visit=first.id,
            mode=Mode.SCIENCE,
            exposures=tuple(e.id for e in group),
            field=name,
            ra_deg=None if target is None else target.ra_deg,
            dec_deg=None if target is None else target.dec_deg,
            physical_filter=str(first.filter),
            expected_end=end,
        )

    def _send(self, exposure: Planned, group: Sequence[Planned], detector: int, readout_end: float) -> None:
        name = raw_name(self.world.survey, exposure, self.world.camera.detector(detector))
        self.camera.send(
            (self.raw / name).read_bytes(),
            exposure=exposure.id,
            detector=detector,
            visit=group[0].id,
            exposures=[e.id for e in group],
            readout_end=readout_end,
        )


def _sleep_until(when: float) -> None:
    time.sleep(max(0.0, when - time.time()))

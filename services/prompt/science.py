"""The seam between a worker and what it runs: load once, load for a visit, process. And the science that does nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from backbone.messages.prompt import Mode

OnStage = Callable[[str], None]
Number = float | int | str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A visit as far as it is known before its frames: of an announcement, or of the first frame."""

    visit: int
    mode: Mode = Mode.SCIENCE
    exposures: tuple[int, ...]
    field: str = ""
    ra_deg: float | None = None
    dec_deg: float | None = None
    rotation_deg: float = 0.0
    physical_filter: str = ""
    observation: str = "science"


@dataclass(frozen=True, kw_only=True)
class Product:
    """What came of a visit on one detector; `packets` are alerts as services.alerts takes them."""

    packets: Sequence[Mapping[str, Any]] = ()
    sources: int = 0
    quality: Mapping[str, Number] = field(default_factory=dict)
    telemetry: Any = None
    """A services.telemetry DetectorQuality; None where nothing was measured."""
    stamps: bytes = b""
    """A PNG of the alerts; empty without any."""
    keep: Callable[[], None] | None = None
    """Remembers what was found for the visits that follow; called when the alerts are safe. Twice is harmless."""


class Science(Protocol):
    """A payload; `arm` is called once in the worker, the rest in a fork of it for each visit."""

    def arm(self) -> None:
        """Load what all visits of the night need."""

    def preload(self, plan: Plan) -> Any:
        """Load what this visit needs."""

    def process(self, frames: Sequence[bytes], loaded: Any, plan: Plan, on_stage: OnStage) -> Product:
        """From raw frames (FITS bytes, one a snap, in order) to what there is to tell; `on_stage` as each stage begins."""


class NullScience:
    """Does what the frame says, a JSON object: `{"seconds": 0.5, "stage": "subtract", "signal": 9, "error": "no stars"}`; with
    `"until": PATH` it goes on once there is such a file.
    """

    def arm(self) -> None:
        """Nothing to load."""

    def preload(self, plan: Plan) -> None:
        """Nothing to load."""

    def process(self, frames: Sequence[bytes], loaded: None, plan: Plan, on_stage: OnStage) -> Product:
        """Sleep, die or fail as told."""
        told = json.loads(frames[-1])
        on_stage(told.get("stage", "null"))
        time.sleep(told.get("seconds", 0.0))
        while "until" in told and not Path(told["until"]).exists():
            time.sleep(0.05)
        if "signal" in told:
            os.kill(os.getpid(), told["signal"])
        if "error" in told:
            raise ValueError(told["error"])
        return Product(sources=told.get("sources", 0), quality={"snaps": len(frames)})

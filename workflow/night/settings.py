"""Settings of the prompt path: key `prompt:` of pachon.yaml."""

from __future__ import annotations

from pydantic import Field

from backbone.models import Strict


class PromptSettings(Strict):
    """Timings are safe to change between nights."""

    site: str | None = Field(default=None, description="whose pool has the reserved slots; default: ncsa, else the first site")
    endpoint: str | None = Field(default=None, description="the prompt endpoint, by name; default: the site's own")
    deadline_s: float = Field(default=60.0, gt=0, description="after the end of readout (OTT1) a visit is cancelled")
    grace_s: float = Field(
        default=5.0, gt=0, description="the supervisor cancels so long after a worker should have done it itself"
    )
    no_frame_s: float = Field(
        default=30.0, gt=0, description="after its expected end a visit whose frames never came is given up"
    )
    in_flight: int = Field(default=3, ge=1, description="visits at the same time on one detector")
    beat_s: float = Field(default=1.0, gt=0, description="between two words of a worker")
    silent_s: float = Field(default=10.0, gt=0, description="a worker that says nothing for so long is ended and replaced")
    arm_s: float = Field(default=180.0, gt=0, description="a worker that is not armed after so long is ended and replaced")
    again_s: float = Field(
        default=0.5, gt=0, description="before a lost worker is replaced; doubles while they are lost one after another"
    )
    again_max_s: float = Field(default=30.0, gt=0, description="the longest wait before a lost worker is replaced")
    poll_s: float = Field(default=0.2, gt=0, description="between two rounds of the supervisor")
    lock_s: float = Field(default=10.0, gt=0, description="another supervisor takes over so long after the last word of one")
    memory_mb: int = Field(default=2048, ge=256, description="of a worker, all its visits in flight together")

"""What a camera says of a frame when it sends it, checked at the door."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from backbone.errors import PermanentError
from backbone.messages.prompt import Mode
from backbone.models import Strict

_FITS = b"SIMPLE  ="


class FrameRefused(PermanentError, ValueError):
    """A frame that will not be taken however often it is sent; the message says why."""


class Announced(Strict):
    """One detector of one exposure. `sha256` is that of the bytes that follow."""

    exposure: int = Field(ge=0, lt=2**62)
    detector: int = Field(ge=0, lt=1000)
    visit: int = Field(ge=0, lt=2**62)
    exposures: tuple[int, ...] = Field(min_length=1, max_length=64, description="all snaps of the visit, in order")
    mode: Mode = Mode.SCIENCE
    readout_end: float = Field(gt=0, description="end of readout, seconds since 1970 (UTC)")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("readout_end")
    @classmethod
    def _finite(cls, value: float) -> float:
        if value > 1e11:
            raise ValueError(f"{value} is no time in seconds since 1970")
        return value

    @model_validator(mode="after")
    def _of_its_visit(self) -> Announced:
        if self.exposure not in self.exposures:
            raise ValueError(f"exposure {self.exposure} is none of its visit's exposures {self.exposures}")
        return self

    @property
    def name(self) -> str:
        """Unique among frames of a camera."""
        return f"{self.exposure:020}_{self.detector:03}"

    def key(self, instrument: str) -> str:
        """Of the object at the prompt endpoint."""
        return f"prompt/raw/{instrument}/{self.exposure}/{self.exposure}_d{self.detector:03}.fits"


def check_content(content: bytes, sha256: str, found: str) -> None:
    """FrameRefused for bytes that are not those that were announced, or no FITS file."""
    if found != sha256:
        raise FrameRefused(f"the bytes that came have checksum {found}, not {sha256}: send the frame again")
    if not content.startswith(_FITS) or len(content) % 2880:
        raise FrameRefused(f"{len(content)} bytes that are no whole FITS file: nothing a worker could read")

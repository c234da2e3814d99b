"""What the OCS is told. Each report has a key: told twice, it is one report."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from backbone.models import Strict


class Report(Strict):
    """Base of the reports."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def key(self) -> str:
        """What makes it this report."""


class DetectorQuality(Report):
    """How good the image of one detector is (LDM-151: PSF, WCS, zero point and depth per CCD). None, or NaN: not measured."""

    kind: ClassVar[str] = "detector"

    instrument: str = Field(min_length=1, max_length=64)
    visit: int = Field(ge=0, lt=2**63)
    detector: int = Field(ge=0, lt=2**31)
    midpoint_mjd_tai: float | None = None
    band: str | None = Field(default=None, max_length=16)
    psf_fwhm_arcsec: float | None = None
    psf_ellipticity: float | None = None
    wcs_rms_mas: float | None = Field(default=None, description="residual of stars against the reference catalogue")
    zeropoint_mag: float | None = Field(default=None, description="AB magnitude of one electron in the exposure")
    depth_mag: float | None = Field(default=None, description="AB magnitude of a point source at 5 sigma")
    sky_njy_arcsec2: float | None = Field(default=None, description="surface brightness of the sky")
    n_alerts: int | None = Field(default=None, ge=0)
    state: Literal["done", "late", "failed"] = "done"
    reason: str | None = Field(default=None, max_length=500, description="why it is late, or failed")

    @field_validator(
        "midpoint_mjd_tai",
        "psf_fwhm_arcsec",
        "psf_ellipticity",
        "wcs_rms_mas",
        "zeropoint_mag",
        "depth_mag",
        "sky_njy_arcsec2",
        mode="before",
    )
    @classmethod
    def _measured(cls, value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    @property
    def key(self) -> str:
        """One of each detector of a visit."""
        return f"detector/{self.instrument}/{self.visit}/{self.detector}"


class JobResult(Report):
    """What became of a command of the OCS (LDM-230: results of batch jobs come back by the gateway)."""

    kind: ClassVar[str] = "job"

    command: str = Field(min_length=1, max_length=200, description="the command's own id, as it was given to the door")
    state: Literal["SUCCEEDED", "FAILED", "CANCELLED"]
    summary: dict[str, str | int | float | bool | None] = Field(default_factory=dict, max_length=100)

    @field_validator("summary", mode="before")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
        return value

    @property
    def key(self) -> str:
        """One of each command."""
        return f"job/{self.command}"

"""What the prompt chain may be told; all of it has defaults that were measured (docs/adr)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PromptSettings(BaseModel):
    """How a detector of a visit is processed; frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold_snr: float = Field(
        4.7, gt=0, description="least signal-to-noise of a source on the difference; noise takes one in 90 of S/N 7 below it"
    )
    alert_reliability: float = Field(0.5, ge=0, le=1, description="least reliability of a source that makes an alert")
    alert_dipoles: bool = Field(False, description="whether dipoles make alerts")
    association_radius_arcsec: float = Field(1.0, gt=0, description="a source nearer than this to an object is of that object")
    association_reliability: float = Field(0.1, ge=0, le=1, description="less reliable sources neither found nor join objects")
    solar_system_radius_arcsec: float = Field(2.0, gt=0, description="a source nearer than this to a predicted body is that body")
    solar_system_faintest_mag: float = Field(
        25.5,
        description="fainter bodies are not predicted: one visit of the largest survey telescope reaches 24.7, and magnitudes of "
        "catalogues err by some tenths",
    )
    solar_system_error_arcsec: float = Field(
        3.0,
        gt=0,
        description="bodies whose prediction is less certain (1 sigma) are left out: within three times as much sources of other "
        "things are as likely as theirs",
    )
    kernel_order: int = Field(2, ge=0, le=3, description="highest spatial order of the matching kernel; fewer stars lower it")
    decorrelate: bool = Field(True, description="whiten the noise of the difference")
    min_coverage: float = Field(0.05, ge=0, le=1, description="share of the frame that the template must cover")
    cutout_px: int = Field(31, ge=30, description="side of the cut-outs")
    release: int = Field(0, ge=0, description="release that ids carry; 0 is prompt processing")

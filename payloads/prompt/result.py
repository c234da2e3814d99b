"""What processing of one detector of one visit gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from payloads.difference import Difference, Masks
from payloads.exposure import ExposureFacts
from payloads.isr import Plane
from payloads.psf import PsfModel


@dataclass(frozen=True, kw_only=True)
class RawFrame:
    """One snap as it arrives: `pixels` (ny, nx) with overscan, ADU; the header's `wcs` of the trimmed frame, None where the
    header has none or the camera's may not be used (then the pointing of `facts` counts)."""

    pixels: NDArray[np.generic]
    facts: ExposureFacts
    wcs: WCS | None
    visit: int


@dataclass(frozen=True, kw_only=True)
class FrameQuality:
    """Numbers of one detector of one visit, for telemetry and reports."""

    psf_fwhm_px: float
    psf_fwhm_arcsec: float
    wcs_rms_mas: float  # per axis, of the reference stars used
    wcs_stars: int
    zeropoint_mag: float  # AB magnitude of one electron in the exposure
    zeropoint_err: float
    depth_mag: float  # AB magnitude of a point source of S/N 5 in the frame
    difference_depth_mag: float  # … and on the difference
    sky_electron: float
    sky_noise_electron: float
    n_sources: int
    n_psf_stars: int
    n_cosmic_ray_pixels: int
    template_coverage: float
    kernel_stars: int
    kernel_chi2: float
    n_dia_sources: int
    n_alerts: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptResult:
    """Everything made of one detector of one visit.

    `dia_sources` has the columns of dia_source and `diaObjectId` (0: none), `ssObjectId` (0: none); `told` (n,) says which of
    its rows make alerts. `forced` has a row for each known object on the frame: `diaObjectId visit detector band midpointMjdTai
    ra dec x y psfFlux psfFluxErr` (nJy, on the difference; NaN where there is no flux). `objects` are the DIAObjects that this
    frame's sources founded or joined, as they are with these sources. `sources` are the columns of `src` but for ids and sky;
    their `fwhm` is not measured.
    """

    visit: int
    detector: int
    facts: ExposureFacts
    science: Plane  # background-subtracted electrons, variance, mask
    psf: PsfModel
    sources: dict[str, NDArray[np.generic]]
    wcs: WCS
    solution: dict[str, Any]  # as visit_solution
    difference: Difference
    template_mask: Masks  # of the template on the frame's grid
    dia_sources: Table
    told: NDArray[np.bool_]
    forced: Table
    objects: Table
    quality: FrameQuality
    timings_s: dict[str, float]  # wall-clock seconds of each stage, in order

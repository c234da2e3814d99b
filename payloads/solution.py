"""A frame's solution: where its pixels are on the sky and what its electrons are worth, as `visit_solution` keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from backbone.errors import PermanentError
from payloads.astrometry import (
    Astrometry,
    AstrometryConfig,
    ZeroPoint,
    measure_zeropoint,
    solve_astrometry,
    wcs_cards,
)
from payloads.camera import Camera
from payloads.detection import SourceFlag
from payloads.exposure import ExposureFacts
from payloads.pointing import nominal_wcs

NOMINAL_ERR_MAG = 0.3


class NoPointing(PermanentError):
    """A frame without usable WCS whose header does not say where the telescope pointed."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """The `entries` of visit_solution, and what they came of: `astrometry`, and `zero`, None where nothing was measured."""

    entries: dict[str, Any]
    astrometry: Astrometry
    zero: ZeroPoint | None


def initial_wcs(header: WCS | None, facts: ExposureFacts, camera: Camera, number: int) -> tuple[WCS, str]:
    """The WCS to begin with, and its kind: `header` or `nominal`. NoPointing where neither can be had."""
    if camera.wcs == "header" and header is not None:
        return header, "header"
    if not np.isfinite([facts.ra_deg, facts.dec_deg]).all():
        raise NoPointing(
            f"camera {camera.name}: neither WCS nor pointing in the header; give tracking_ra, tracking_dec in its YAML"
        )
    rotation = facts.rotation_deg if np.isfinite(facts.rotation_deg) else 0.0
    return nominal_wcs(camera, number, facts.ra_deg, facts.dec_deg, rotation), "nominal"


def solve(
    sources: Mapping[str, NDArray[Any]],
    reference: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    initial: WCS,
    facts: ExposureFacts,
    camera: Camera,
    number: int,
    config: AstrometryConfig | None = None,
    *,
    photometric: bool = True,
) -> Solved:
    """WCS and zero point of the sources (columns of src) of one frame by `reference` stars: ra, dec in degrees, magnitudes.

    `photometric`: whether these magnitudes are the frame's band's; else they only order the stars. NoMatch where sources and
    reference do not agree.
    """
    flags = np.asarray(sources["flags"])
    whole = np.flatnonzero((flags & ~int(SourceFlag.BLENDED)) == 0)
    names = ("x", "y", "psfFlux", "psfFluxErr", "isStar")
    x, y, flux, error, star = (np.asarray(sources[name])[whole] for name in names)
    ra, dec, mag = reference
    found = solve_astrometry(x, y, flux, ra, dec, mag, initial, camera.detector(number).shape, config)
    zero = None
    if photometric:
        single = star[found.source] & (flags[whole][found.source] == 0)
        matched = found.source[single]
        zero = measure_zeropoint(flux[matched], error[matched], mag[found.reference[single]])
    entries = {
        "wcs": wcs_cards(found.wcs),
        "wcs_kind": "refcat",
        **zeropoint_entries(zero, facts, camera),
        "n_matched": len(found.source),
        "rms_pix": found.rms_px,
    }
    return Solved(entries=entries, astrometry=found, zero=zero)


def zeropoint_entries(zero: ZeroPoint | None, facts: ExposureFacts, camera: Camera) -> dict[str, Any]:
    """Zero point of `visit_solution`; without a measured one the camera's nominal, of an error that thin clouds alone would
    make."""
    if zero is not None:
        return {"zeropoint_mag": zero.mag, "zeropoint_err": zero.err, "zeropoint_kind": "refcat"}
    return {"zeropoint_mag": nominal_zeropoint(camera, facts), "zeropoint_err": NOMINAL_ERR_MAG, "zeropoint_kind": "nominal"}


def nominal_zeropoint(camera: Camera, facts: ExposureFacts) -> float:
    """AB mag of one electron in the exposure, as far as the camera's description knows."""
    return camera.nominal_zeropoint_mag + 2.5 * float(np.log10(max(facts.exposure_time_s, 1e-3)))

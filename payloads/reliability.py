"""How much a DIASource is to be believed: 0 (an artefact) to 1 (something in the sky changed).

A product of factors, one for each way a subtraction lies, so that every low score has a reason that can be read
(`reliability_factors`). Each factor falls from 1 to 0 as its feature passes a limit; the limits were set on simulated surveys
(tests/payloads/test_difference_pipeline.py measures completeness and purity) and are configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.dia_sources import SourceFlag

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class ReliabilityConfig:
    """Where each factor has fallen to one half."""

    bad_fraction: float = 0.12  # of the PSF's core on unusable pixels
    suspect_fraction: float = 0.25  # … on SUSPECT, interpolated or edge pixels
    chi2: float = 2.5  # per pixel of the point-source fit, beyond what a bright source's own PSF error allows
    chi2_growth: float = 0.02  # what it allows: (this times the signal-to-noise) squared per pixel
    sum_ratio: float = 0.45  # |sum of D| / sum of |D| over significant pixels
    opposite: float = 0.5  # score of a neighbour of the other sign, in units of its own
    extended: float = 0.85  # extendedness
    sharp: float = (
        2.5  # deficit of size against the PSF, in its error: of point sources one in a hundred passes 2, of hits nearly all 3
    )
    size_error: float = 1.5  # … which is this over the signal-to-noise
    size_floor: float = 0.1  # … and this, for the PSF's own
    template_share: float = 0.02  # |flux| over the template's flux at this place: a residual of a bright star is a small share
    crowd: float = 6.0  # other sources within crowd_px
    crowd_px: float = 20.0
    saturated: float = 0.3  # factor for a saturated pixel close by
    dipole: float = 0.2  # factor for a dipole
    centroid: float = 0.3  # factor for a failed centroid


def _falling(value: Floats, limit: float, steepness: float) -> Floats:
    """1 for value << limit, 1/2 at the limit, 0 beyond."""
    return 1 / (1 + (np.maximum(value, 0) / limit) ** steepness)


def reliability_factors(source: Mapping[str, NDArray], config: ReliabilityConfig | None = None) -> dict[str, Floats]:
    """The factors by name, each (n,); `source` has the columns of payloads.dia_sources.detect and `neighbours`."""
    c = config or ReliabilityConfig()
    flags = np.asarray(source["flags"], np.int64)
    snr = np.abs(np.asarray(source["snr"], float))
    chi2 = np.asarray(source["psfChi2"]) / np.maximum(source["psfNdata"], 1)
    size = (np.asarray(source["ixx"]) + source["iyy"]) / (np.asarray(source["ixxPSF"]) + source["iyyPSF"])
    share = np.abs(source["psfFlux"]) / np.maximum(source["templateFlux"], 1e-30)
    return {
        "unusable pixels": _falling(np.asarray(source["badFraction"]), c.bad_fraction, 3),
        "suspect pixels": _falling(np.asarray(source["suspectFraction"]), c.suspect_fraction, 3),
        "unlike the PSF": _falling(chi2, c.chi2 + (c.chi2_growth * snr) ** 2, 4),
        "both signs": 1 - _falling(np.asarray(source["sumRatio"]), c.sum_ratio, 6),
        "opposite neighbour": _falling(np.asarray(source["oppositeRatio"]), c.opposite, 3),
        "extended": _falling(np.asarray(source["extendedness"]), c.extended, 12),
        "sharper than the PSF": _falling((1 - size) / np.hypot(c.size_error / np.maximum(snr, 1e-3), c.size_floor), c.sharp, 8),
        "small share of a star": 1 - _falling(share, c.template_share, 3),
        "crowd of detections": _falling(np.asarray(source["neighbours"], float), c.crowd, 3),
        "near saturation": np.where(flags & SourceFlag.NEAR_SATURATED, c.saturated, 1.0),
        "dipole": np.where(source["isDipole"], c.dipole, 1.0),
        "no centroid": np.where(flags & SourceFlag.CENTROID_FAILED, c.centroid, 1.0),
    }


def reliability(source: Mapping[str, NDArray], config: ReliabilityConfig | None = None) -> NDArray[np.float32]:
    """Product of the factors, (n,)."""
    product = np.ones(len(source["flags"]))
    for factor in reliability_factors(source, config).values():
        product = product * factor
    return product.astype(np.float32)

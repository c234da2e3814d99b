"""How much a DIASource is to be believed: 0 (an artefact) to 1 (something in the sky changed).

The probability that a judge trained on simulated skies gives it (payloads/real_bogus.py), times a factor for each way a source is
wrong that those skies hardly show: a hit that the search for cosmic rays missed is rare there, and on a real camera's long
exposure it is not. Each factor falls from 1 to 0 as its feature passes a limit, so that such a low score has a reason that can be
read (`reliability_factors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.real_bogus import probability

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class ReliabilityConfig:
    """Where each factor has fallen to one half."""

    chi2: float = 2.5  # per pixel of the point-source fit, beyond what a bright source's own PSF error allows
    chi2_growth: float = 0.02  # what it allows: (this times the signal-to-noise) squared per pixel
    sharp: float = (
        2.5  # deficit of size against the PSF, in its error: of point sources one in a hundred passes 2, of hits nearly all 3
    )
    size_error: float = 1.5  # … which is this over the signal-to-noise
    size_floor: float = 0.1  # … and this, for the PSF's own
    extended: float = 0.85  # extendedness
    diffuse: float = 2.5  # excess of the aperture's flux over the PSF's, in its error: reflections and nebulae have it
    diffuse_floor: float = 0.1  # … which is at least this share of the flux
    suspect_snr: float = 7.0  # its signal-to-noise, wholly on suspect pixels: noise does not say what halos and reflections do
    crowd: float = 12.0  # other sources within crowd_px: where there are so many it is a ghost, or a badly subtracted nebula
    crowd_px: float = 60.0
    crowd_share: float = 0.2  # … and this times its sigma, for a strong source is none of a crowd of faint ones
    dipole: float = 0.2  # factor for a dipole


def _falling(value: Floats, limit: float | Floats, steepness: float) -> Floats:
    """1 for value << limit, 1/2 at the limit, 0 beyond."""
    return 1 / (1 + (np.maximum(value, 0) / limit) ** steepness)


def reliability_factors(source: Mapping[str, NDArray], config: ReliabilityConfig | None = None) -> dict[str, Floats]:
    """The factors by name, each (n,); `source` has the columns of payloads.dia_sources.detect, `neighbours` and `crowd`."""
    c = config or ReliabilityConfig()
    snr = np.abs(np.asarray(source["snr"], float))
    chi2 = np.asarray(source["psfChi2"]) / np.maximum(source["psfNdata"], 1)
    flux = np.where(np.asarray(source["psfFlux"]) == 0, 1e-30, np.asarray(source["psfFlux"], float))
    around = (np.asarray(source["apFlux"]) / flux - 1) / np.hypot(np.asarray(source["apFluxErr"]) / np.abs(flux), c.diffuse_floor)
    size = (np.asarray(source["ixx"]) + source["iyy"]) / (np.asarray(source["ixxPSF"]) + source["iyyPSF"])
    return {
        "judged bogus": probability(source),
        "unlike the PSF": _falling(chi2, c.chi2 + (c.chi2_growth * snr) ** 2, 4),
        "sharper than the PSF": _falling((1 - size) / np.hypot(c.size_error / np.maximum(snr, 1e-3), c.size_floor), c.sharp, 8),
        "extended": _falling(np.asarray(source["extendedness"]), c.extended, 12),
        "diffuse": _falling(around, c.diffuse, 8),
        "on suspect pixels": _falling(np.asarray(source["suspectFraction"]) / np.maximum(snr, 1e-3), 1 / c.suspect_snr, 8),
        "crowd of detections": _falling(np.asarray(source["crowd"], float), np.maximum(c.crowd, c.crowd_share * snr), 4),
        "dipole": np.where(source["isDipole"], c.dipole, 1.0),
    }


def reliability(source: Mapping[str, NDArray], config: ReliabilityConfig | None = None) -> NDArray[np.float32]:
    """Product of the factors, (n,)."""
    product = np.ones(len(source["flags"]))
    for factor in reliability_factors(source, config).values():
        product = product * factor
    return product.astype(np.float32)

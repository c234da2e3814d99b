"""Is a night's atmosphere fit for use? It must foretell spectra that it was not made of, in all colours, and be well measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from payloads.atmosphere import CENTRES, Atmosphere, Spectrum, bands, expected
from payloads.verification import Check

_DEPTH = 0.1  # of bands, beyond which a few per cent of their depth may be wrong


def judge(table: Mapping[str, Any], spectra: Sequence[Spectrum], standards: Mapping[str, Any]) -> list[Check]:
    """Checks of an `atmosphere` (docs/interfaces.md) by spectra that it was not made of."""
    a, errors = Atmosphere(**table["parameters"]), table["errors"]
    low, high = table["airmass"]
    foretold = "spectra that it was not made of are not as it foretells: another night's, or the fit is wrong"
    far = "no night is so: wrong stars, or a wrong catalogue of their spectra"
    few = "too few spectra, or airmasses too alike"
    checks = [
        Check(name="held_out_rms", amplifier="", value=_rms(table, a, spectra, standards), high=0.01, hint=foretold),
        Check(name="chi2", amplifier="", value=table["chi2"], high=3.0, hint="spectra do not agree within their errors"),
        Check(name="airmass_span", amplifier="", value=high - low, low=0.3, hint=few),
        Check(name="transmission_error", amplifier="", value=float(np.max(table["transmission_err"])), high=0.03, hint=few),
    ]
    ranges = {"aerosol": (0.001, 0.6), "exponent": (-0.5, 3.0), "ozone_atm_cm": (0.1, 0.6), "water_cm": (0.0, 5.0)}
    for name, (least, most) in ranges.items():
        checks.append(Check(name=name, amplifier="", value=getattr(a, name), low=least, high=most, hint=far))
        checks.append(Check(name=f"{name}_error", amplifier="", value=errors[name], decisive=False))
    return checks


def _rms(table: Mapping[str, Any], a: Atmosphere, spectra: Sequence[Spectrum], standards: Mapping[str, Any]) -> float:
    """Of the spectra over what it foretells, less a grey factor of each, in blocks of 25 nm away from deep bands."""
    worst = []
    for s in spectra:
        clear = bands(CENTRES, s.airmass, s.pressure_hpa, a.water_cm) > 1 - _DEPTH
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.log(s.signal) - np.log(np.asarray(table["throughput"])) - expected(s, standards[s.target], a)
        ratio = np.where(clear & np.isfinite(s.variance), ratio, np.nan)
        blocks = np.array([np.nanmean(b) for b in ratio.reshape(-1, 5) if np.isfinite(b).any()])
        worst.append(float(np.std(blocks)))
    return float(np.median(worst)) if worst else math.nan

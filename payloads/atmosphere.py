"""Transmission of the atmosphere: what it depends on, and the fit of a night's spectra of stars whose spectra are known.

The model is that of Bird & Riordan 1984 (SERI/TR-215-2436, 1986 J. Climate Appl. Meteor. 25, 87), some 5 to 20 nm coarse:
Rayleigh scattering by the pressure, aerosols by Angstrom's law, absorption by ozone, water and oxygen. Spectra at several
airmasses tell it from what telescope and detector let through (Bouguer's method; Burke et al. 2010, ApJ 720, 811): that is free
at each wavelength, and so is a grey factor of each exposure, for clouds and light beside the aperture. Both are linear in
logarithms, and taken out of the least squares by projection (Golub & Pereyra 1973, SIAM J. Numer. Anal. 10, 413).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import least_squares

Floats = NDArray[np.float64]

# nm; absorption coefficients of water (1/cm), ozone (1/atm-cm) and mixed gases, here oxygen: table 2-1 of the report.
_TABLE = np.array(
    [
        (380, 0, 0, 0), (440, 0, 0, 0), (450, 0, 0.003, 0), (460, 0, 0.006, 0), (470, 0, 0.009, 0), (480, 0, 0.014, 0),
        (490, 0, 0.021, 0), (500, 0, 0.030, 0), (510, 0, 0.040, 0), (520, 0, 0.048, 0), (530, 0, 0.063, 0), (540, 0, 0.075, 0),
        (550, 0, 0.085, 0), (570, 0, 0.120, 0), (593, 0.075, 0.119, 0), (610, 0, 0.120, 0), (630, 0, 0.090, 0),
        (656, 0, 0.065, 0), (667.6, 0, 0.051, 0), (690, 0.016, 0.028, 0.15), (710, 0.0125, 0.018, 0), (718, 1.8, 0.015, 0),
        (724.4, 2.5, 0.012, 0), (740, 0.061, 0.010, 0), (752.5, 0.0008, 0.008, 0), (757.5, 0.0001, 0.007, 0),
        (762.5, 0, 0.006, 4.0), (767.5, 0, 0.005, 0.35), (780, 0.0006, 0, 0), (800, 0.036, 0, 0), (816, 1.6, 0, 0),
        (823.7, 2.5, 0, 0), (831.5, 0.5, 0, 0), (840, 0.155, 0, 0), (860, 0, 0, 0), (880, 0.0026, 0, 0), (905, 7.0, 0, 0),
        (915, 5.0, 0, 0), (925, 5.0, 0, 0), (930, 27.0, 0, 0), (937, 55.0, 0, 0), (948, 45.0, 0, 0), (965, 4.0, 0, 0),
        (980, 1.48, 0, 0), (993.5, 0.1, 0, 0), (1040, 0, 0, 0),
    ]
)  # fmt: skip
PRESSURE_HPA = 1013.0
NM = np.arange(385.0, 1016.0)
"""Wavelengths that spectra are worked out at."""
EDGES = np.arange(400.0, 1001.0, 5.0)
"""Of the bins that are fitted."""
CENTRES = 0.5 * (EDGES[1:] + EDGES[:-1])
LEAST_SPAN = 0.3
EXPONENT, EXPONENT_ERROR = 1.3, 0.4
"""What is known of Angstrom's exponent beforehand: without colour, aerosols are as grey as clouds."""
_FLOOR, _BANDS = 1e-3, 0.02  # relative errors of any bin, and of the depth of a band


@dataclass(frozen=True, kw_only=True)
class Atmosphere:
    """Aerosol optical depth at 500 nm in the zenith, Angstrom's exponent, ozone in atm-cm, precipitable water in cm."""

    aerosol: float = 0.05
    exponent: float = 1.2
    ozone_atm_cm: float = 0.28
    water_cm: float = 0.4


NAMES = tuple(f.name for f in fields(Atmosphere))
_LOW, _HIGH = (0.0, -1.0, 0.0, 0.0), (1.0, 4.0, 1.0, 6.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Of one exposure: electrons per nm in the bins (120,) with their variance (infinite where there is none), and the
    `sigma_nm` that seeing blurs it by."""

    exposure: int
    target: str
    airmass: float
    pressure_hpa: float
    sigma_nm: float
    signal: Floats
    variance: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class AtmosphereFit:
    """`covariance` (4, 4) in the order of NAMES, `throughput` (120,) electrons per photon of the standards' unit, `grey` by
    exposure (logarithm; that of the first is 0), `residuals` (exposures, 120) of logarithms and their errors."""

    atmosphere: Atmosphere
    covariance: Floats
    throughput: Floats
    grey: dict[int, float]
    residuals: Floats
    errors: Floats

    @property
    def chi2(self) -> float:
        """Of a degree of freedom."""
        known = np.isfinite(self.errors)
        free = int(known.sum()) - len(NAMES) - len(CENTRES) - len(self.grey) + 1
        return float(((self.residuals / self.errors)[known] ** 2).sum()) / max(free, 1)


def _coefficients(nm: Floats) -> tuple[Floats, ...]:
    """Of water, ozone and mixed gases; at NM, where the fit asks thousands of times, worked out once."""
    return _AT_NM if nm is NM else tuple(np.interp(nm, _TABLE[:, 0], _TABLE[:, k]) for k in (1, 2, 3))


_AT_NM = tuple(np.interp(NM, _TABLE[:, 0], _TABLE[:, k]) for k in (1, 2, 3))


def bands(nm: Floats, airmass: float, pressure_hpa: float, water_cm: float) -> Floats:
    """Transmission of water and oxygen."""
    water, _, mixed = _coefficients(nm)
    wet, gas = water * water_cm * airmass, mixed * airmass * pressure_hpa / PRESSURE_HPA
    depth = 0.2385 * wet / (1 + 20.07 * wet) ** 0.45 + 1.41 * gas / (1 + 118.3 * gas) ** 0.45
    return np.asarray(np.exp(-depth))


def transmission(nm: Floats, airmass: float, pressure_hpa: float, a: Atmosphere) -> Floats:
    """Part of the light that arrives, at wavelengths (n,) of 380 to 1040 nm, and an airmass of a plane-parallel atmosphere."""
    um = nm / 1000
    rayleigh = pressure_hpa / PRESSURE_HPA / (um**4 * (115.6406 - 1.335 / um**2))
    depth = rayleigh + a.aerosol * (nm / 500) ** -a.exponent + a.ozone_atm_cm * _coefficients(nm)[1]
    return np.asarray(np.exp(-airmass * depth) * bands(nm, airmass, pressure_hpa, a.water_cm))


def transmission_error(nm: Floats, airmass: float, pressure_hpa: float, a: Atmosphere, covariance: Floats) -> Floats:
    """Standard error of `transmission` (n,) by the parameters' covariance."""
    here, slopes = transmission(nm, airmass, pressure_hpa, a), []
    for name in NAMES:
        step = 1e-4
        slopes.append((transmission(nm, airmass, pressure_hpa, replace(a, **{name: getattr(a, name) + step})) - here) / step)
    return np.asarray(np.sqrt(np.einsum("in,ij,jn->n", slopes, covariance, slopes)))


def binned(edges_nm: Floats, amounts: Floats) -> Floats:
    """Amounts per nm in the bins (120,), of amounts in cells (n,) between ascending `edges_nm` (n + 1,); NaN where none reach."""
    whole = np.concatenate([[0.0], np.cumsum(amounts)])
    mean = np.diff(np.interp(EDGES, edges_nm, whole)) / np.diff(EDGES)
    return np.where((EDGES[:-1] >= edges_nm[0]) & (EDGES[1:] <= edges_nm[-1]), mean, np.nan)


def expected(spectrum: Spectrum, standard: Floats, a: Atmosphere) -> Floats:
    """Logarithm of what arrives in the bins of a star's light (photons per nm at NM), as blurred as the spectrum."""
    light = standard * transmission(NM, spectrum.airmass, spectrum.pressure_hpa, a)
    blurred = gaussian_filter1d(light, spectrum.sigma_nm, mode="nearest")
    return np.asarray(np.log(binned(np.append(NM - 0.5, NM[-1] + 0.5), blurred)))


def fit_atmosphere(spectra: Sequence[Spectrum], standards: Mapping[str, Floats]) -> AtmosphereFit:
    """`standards`: by target, photons per nm at NM. ValueError where the airmasses are too alike to tell anything."""
    airmasses = [s.airmass for s in spectra]
    if len(spectra) < 4 or max(airmasses) - min(airmasses) < LEAST_SPAN:
        span = f"{min(airmasses):.2f} to {max(airmasses):.2f}" if airmasses else "none"
        raise ValueError(f"{len(spectra)} spectra of airmasses {span}: 4 are needed, and a span of {LEAST_SPAN}")
    with np.errstate(invalid="ignore", divide="ignore"):
        measured = np.log(np.stack([s.signal for s in spectra]))
        errors = np.stack([_errors(s) for s in spectra])
    errors[~np.isfinite(measured) | ~np.isfinite(errors)] = np.inf
    measured = np.where(np.isfinite(errors), measured, 0.0)
    weight = 1 / errors
    free = _nuisances(len(spectra))
    basis, upper = np.linalg.qr(free * weight.reshape(-1, 1))

    def wanting(values: Sequence[float]) -> Floats:
        a = Atmosphere(**dict(zip(NAMES, values, strict=True)))
        return measured - np.stack([expected(s, standards[s.target], a) for s in spectra])

    def residuals(values: Sequence[float]) -> Floats:
        flat = (weight * wanting(values)).ravel()
        prior = (values[NAMES.index("exponent")] - EXPONENT) / EXPONENT_ERROR
        return np.append(flat - basis @ (basis.T @ flat), prior)

    found = least_squares(residuals, astuple(Atmosphere()), bounds=(_LOW, _HIGH), x_scale=(0.01, 0.1, 0.02, 0.1))
    left = wanting(found.x)
    nuisance = solve_triangular(upper, basis.T @ (weight * left).ravel())
    fit = AtmosphereFit(
        atmosphere=Atmosphere(**dict(zip(NAMES, found.x.tolist(), strict=True))),
        covariance=np.linalg.pinv(found.jac.T @ found.jac),
        throughput=np.exp(nuisance[: len(CENTRES)]),
        grey=dict(zip((s.exposure for s in spectra), [0.0, *nuisance[len(CENTRES) :].tolist()], strict=True)),
        residuals=left - (free @ nuisance).reshape(left.shape),
        errors=errors,
    )
    # Where it fits worse than the errors foretell, they are larger.
    return AtmosphereFit(**{**vars(fit), "covariance": fit.covariance * max(1.0, fit.chi2)})


def _errors(s: Spectrum) -> Floats:
    depth = 1 - binned(np.append(NM - 0.5, NM[-1] + 0.5), bands(NM, s.airmass, s.pressure_hpa, Atmosphere().water_cm))
    return np.asarray(np.sqrt(s.variance / s.signal**2 + _FLOOR**2 + (_BANDS * depth) ** 2))


def _nuisances(count: int) -> Floats:
    """Columns of what is free: a number for each bin, and one for each exposure but the first; rows as spectra by bins."""
    bins = np.tile(np.eye(len(CENTRES)), (count, 1))
    exposures = np.repeat(np.eye(count), len(CENTRES), axis=0)[:, 1:]
    return np.hstack([bins, exposures])

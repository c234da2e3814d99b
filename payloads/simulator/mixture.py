"""Round light profiles as sums of Gaussians, so that convolution with the PSF and rendering are exact and fast.

The idea is Hogg & Lang 2013 (PASP 125, 719); the weights here come from non-negative least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, nnls
from scipy.special import gammaincinv


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A round profile of total flux 1: `weight` (k,) of Gaussians of `variance` (k,), in the profile's unit squared."""

    weight: NDArray[np.float64]
    variance: NDArray[np.float64]

    def surface_brightness(self, radius: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux per area at each radius (any shape)."""
        r2 = np.asarray(radius, dtype=np.float64)[..., None] ** 2
        return np.asarray((self.weight / (2 * np.pi * self.variance) * np.exp(-0.5 * r2 / self.variance)).sum(axis=-1))

    def fwhm(self) -> float:
        """Full width at half maximum."""
        peak = float(self.surface_brightness(np.zeros(1))[0])
        widest = float(np.sqrt(self.variance.max()))
        return 2 * float(brentq(lambda r: float(self.surface_brightness(np.array([r]))[0]) - peak / 2, 0.0, 10 * widest))

    def half_light(self) -> float:
        """Radius that holds half of the flux."""
        widest = float(np.sqrt(self.variance.max()))
        return float(
            brentq(lambda r: float((self.weight * -np.expm1(-0.5 * r * r / self.variance)).sum()) - 0.5, 0.0, 10 * widest)
        )


def _fit(radius: NDArray[np.float64], profile: NDArray[np.float64], sigma: NDArray[np.float64], keep: float) -> Mixture:
    basis = np.exp(-0.5 * (radius[:, None] / sigma) ** 2) / (2 * np.pi * sigma**2)
    # Weighting by sqrt(r * profile) lets every ring count by its share of the light's square root: core and wings both fit.
    scale = np.sqrt(np.gradient(radius) * radius / np.maximum(profile, profile.max() * 1e-9))
    weight, _ = nnls(basis * scale[:, None], profile * scale)
    used = weight > keep * weight.sum()
    return Mixture(weight=weight[used] / weight[used].sum(), variance=sigma[used] ** 2)


@lru_cache(maxsize=16)
def moffat(beta: float) -> Mixture:
    """A Moffat profile of FWHM exactly 1 as Gaussians; beyond 5 FWHM its wings are let go."""
    radius = np.linspace(0.004, 5.0, 1500)
    alpha = 0.5 / np.sqrt(2 ** (1 / beta) - 1)
    fitted = _fit(radius, (1 + (radius / alpha) ** 2) ** -beta, np.geomspace(0.27, 1.9, 6), 1e-3)
    return Mixture(weight=fitted.weight, variance=fitted.variance / fitted.fwhm() ** 2)


@lru_cache(maxsize=16)
def sersic(index: float) -> Mixture:
    """A Sersic profile of half-light radius 1 as Gaussians, cut smoothly at 4 (n = 1) to 6 (n = 4) half-light radii."""
    b = float(gammaincinv(2 * index, 0.5))
    cut = 4.0 if index < 2 else 6.0
    radius = np.geomspace(0.002, cut, 1500)
    profile = np.exp(-b * radius ** (1 / index))
    fitted = _fit(radius, profile, np.geomspace(0.02 if index > 2 else 0.15, cut / 2.5, 7), 1e-3)
    return Mixture(weight=fitted.weight, variance=fitted.variance / fitted.half_light() ** 2)

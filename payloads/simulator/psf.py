"""The point spread function over the focal plane: a Moffat whose size and ellipticity vary quadratically."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from payloads.simulator.config import SeeingConfig
from payloads.simulator.mixture import Mixture, moffat, sersic
from payloads.simulator.render import Gaussians
from payloads.simulator.streams import Stream, stream

_TERMS = 6  # 1, u, v, u², uv, v²


def polynomial(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 6) quadratic terms of the focal-plane position, in units of half its diagonal."""
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)


@dataclass(frozen=True, kw_only=True)
class PsfField:
    """The PSF of one exposure: `fwhm_px` at the boresight; coefficients (6, 3) of relative size and the two ellipticities."""

    fwhm_px: float
    beta: float
    coefficients: NDArray[np.float64]

    @property
    def profile(self) -> Mixture:
        """The round profile, FWHM 1."""
        return moffat(self.beta)

    def fwhm(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """FWHM in px of the circle of equal area, at focal-plane positions (n,)."""
        return self.fwhm_px * (polynomial(u, v) @ self.coefficients)[:, 0]

    def shape(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """(3, n) cxx, cxy, cyy in px² of a component of unit variance at focal-plane positions (n,).

        Size² times a shear of determinant 1, so that ellipticity leaves the area alone.
        """
        size, e1, e2 = (polynomial(u, v) @ self.coefficients).T
        scale = (self.fwhm_px * size) ** 2 / np.sqrt(1 - e1**2 - e2**2)
        return np.stack([scale * (1 + e1), scale * e2, scale * (1 - e1)])

    def points(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        flux: NDArray[np.float64],
        u: NDArray[np.float64],
        v: NDArray[np.float64],
    ) -> Gaussians:
        """Point sources at pixels `x`, `y` (n,), focal-plane positions `u`, `v`."""
        return self.extended(x, y, flux, u, v, np.zeros((3, len(x))), Mixture(weight=np.ones(1), variance=np.zeros(1)))

    def extended(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        flux: NDArray[np.float64],
        u: NDArray[np.float64],
        v: NDArray[np.float64],
        shape: NDArray[np.float64],
        profile: Mixture,
    ) -> Gaussians:
        """Sources of a `profile` whose unit radius is stretched to covariance `shape` (3, n) px², convolved with the PSF."""
        psf, sharp = self.profile, self.shape(u, v)
        weight = np.multiply.outer(psf.weight, profile.weight)[..., None] * flux
        cov = psf.variance[:, None, None] * sharp[:, None, None, :] + profile.variance[None, :, None] * shape[:, None, None, :]
        full = weight.shape
        return Gaussians(
            x=np.broadcast_to(x, full).ravel(),
            y=np.broadcast_to(y, full).ravel(),
            flux=weight.ravel(),
            cxx=cov[0].ravel(),
            cxy=cov[1].ravel(),
            cyy=cov[2].ravel(),
        )


def psf_field(config: SeeingConfig, seed: int, day_obs: int, seq_num: int) -> PsfField:
    """The PSF of one exposure: the telescope's fixed pattern, plus this exposure's seeing and wind shake."""
    rng = stream(seed, Stream.OPTICS)
    pattern = (
        rng.normal(size=(_TERMS, 3)) * np.array([config.field_variation, config.field_ellipticity, config.field_ellipticity]) / 2
    )
    pattern[0] = [1.0, 0.0, 0.0]
    pattern[3, 0] = pattern[5, 0] = config.field_variation  # the edge of a field is never sharper than its middle on the whole
    shot = stream(seed, Stream.EXPOSURE, day_obs, seq_num, 0)
    fwhm = config.median_px * np.exp(config.scatter_fraction * np.clip(shot.normal(), -2.5, 2.5))
    pattern[0, 1:] += config.wind_ellipticity * shot.normal(size=2)
    return PsfField(fwhm_px=float(fwhm), beta=config.moffat_beta, coefficients=pattern)


def galaxy_profile(spheroid: bool) -> Mixture:
    """Profile of half-light radius 1."""
    return sersic(4.0 if spheroid else 1.0)

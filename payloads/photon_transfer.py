"""Gain, read noise and linearity of amplifiers from pairs of flats (photon transfer).

The variance of the difference of two equal flats is photon noise and read noise alone, whatever the detector's structure, and
photon noise in ADU is the level over the gain (Janesick 2001, Scientific Charge-Coupled Devices, ch. 2; with brighter-fatter,
where it shows, as in Astier et al. 2019, A&A 629, A36, eq. 16). Linearity is how the level follows a monitored dose: a spline in
the level, zero at zero, is fitted together with the dose's unit, and level and variance are made linear before the gain is
fitted, as an amplifier that compresses its signal compresses the noise more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.interpolate import CubicSpline

from payloads.overscan import clipped_moments

Vector = NDArray[np.float64]
_CLIP = 5.0  # of the difference's pixels; takes 1.5e-5 off the variance of normal noise


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two flats of one dose in one amplifier: mean `level` ADU, `variance` ADU² of one frame, `dose` in any unit, `pixels`."""

    level: float
    variance: float
    dose: float
    pixels: int


@dataclass(frozen=True, kw_only=True)
class Linearity:
    """true = read * (1 + c(read)): knots `adu` from 0 up to the largest level and `correction` there; `rms` of what is left."""

    adu: Vector
    correction: Vector
    rms: float

    def correct(self, level: Vector) -> Vector:
        """Linear level."""
        return np.asarray(level * (1 + np.interp(level, self.adu, self.correction)))

    def slope(self, level: Vector) -> Vector:
        """Of the linear level by the level as read."""
        step = 0.5 * float(self.adu[1] - self.adu[0])
        above, below = np.minimum(level + step, self.adu[-1]), np.maximum(level - step, 0)
        return np.asarray((self.correct(above) - self.correct(below)) / (above - below))


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Of one amplifier: `gain` electron/ADU, `read_noise` electron, each with its standard error; `a00` 1/electron (0 where
    brighter-fatter does not show); the largest level in ADU that keeps to the curve; reduced chi² of `n_pairs`."""

    gain: float
    gain_err: float
    read_noise: float
    read_noise_err: float
    a00: float
    full_well_adu: float
    chi2: float
    n_pairs: int


def pair_of(
    first: NDArray[np.float32], second: NDArray[np.float32], *, good: NDArray[np.bool_], doses: tuple[float, float]
) -> Pair | None:
    """Moments of two frames (any shape alike, ADU above bias) at `good` pixels; None where there is no signal to speak of."""
    a, b = (frame[good & np.isfinite(first) & np.isfinite(second)].astype(np.float64) for frame in (first, second))
    if len(a) < 1000 or a.mean() <= 0 or b.mean() <= 0:
        return None
    ratio = a.mean() / b.mean()
    difference = a - ratio * b
    _, width = clipped_moments(difference, clip=_CLIP, at_most=len(a))
    # Each has variance level/gain + r²: that of a - q b is (1 + q) level/gain + (1 + q²) r², and q is 1 to a few per cent.
    return Pair(
        level=float(0.5 * (a.mean() + b.mean())),
        variance=float(width**2 / (1 + ratio) * (1 + 1 / ratio) / 2),
        dose=0.5 * (doses[0] + doses[1]),
        pixels=len(a),
    )


def fit_linearity(pairs: Sequence[Pair], *, knots: int = 6, dose_error: float = 3e-4, points: int = 65) -> Linearity | None:
    """The curve from levels and doses; None with fewer than six pairs, which determine none.

    `dose_error` is the relative error of a dose; natural cubic splines on `knots` intervals of equal length.
    """
    if len(pairs) < 6:
        return None
    level, dose = (np.array([getattr(p, name) for p in pairs]) for name in ("level", "dose"))
    error = np.hypot(dose_error * level, np.sqrt([p.variance / (2 * p.pixels) for p in pairs]))
    grid = np.linspace(0, level.max(), min(knots, len(pairs) // 3) + 1)
    basis = np.stack([CubicSpline(grid, row, bc_type="natural")(level) for row in np.eye(len(grid))[1:]], axis=1)
    # level * (1 + basis c) = unit * dose, linear in (unit, c).
    terms = np.column_stack([dose, -level[:, None] * basis])
    solution, *_ = np.linalg.lstsq(terms / error[:, None], level / error, rcond=None)
    residual = (level - terms @ solution) / level
    adu = np.linspace(0, level.max(), points)
    curve = CubicSpline(grid, np.concatenate([[0.0], solution[1:]]), bc_type="natural")(adu)
    return Linearity(adu=adu, correction=curve, rms=float(np.sqrt(np.mean(residual**2))))


def fit_transfer(
    pairs: Sequence[Pair], *, read_noise_adu: float, read_noise_err_adu: float, linearity: Linearity | None = None
) -> Transfer | None:
    """Gain from the curve whose zero point is the read noise (ADU, of one pixel); None with fewer than two pairs."""
    if len(pairs) < 2:
        return None
    level, variance, pixels = (np.array([getattr(p, name) for p in pairs]) for name in ("level", "variance", "pixels"))
    if linearity is not None:
        variance = variance * linearity.slope(level) ** 2
        level = linearity.correct(level)
    error = variance * np.sqrt(2 / pixels)
    photons = variance - read_noise_adu**2
    use = _below_full_well(level, photons)
    inverse, inverse_err, a00 = _curve(level[use], photons[use], error[use])
    model = _astier(level[use], inverse, a00)
    freedom = max(1, int(use.sum()) - 1 - (a00 != 0))
    gain = 1 / inverse
    return Transfer(
        gain=gain,
        gain_err=inverse_err * gain**2,
        read_noise=read_noise_adu * gain,
        read_noise_err=float(np.hypot(read_noise_err_adu * gain, read_noise_adu * inverse_err * gain**2)),
        a00=a00,
        full_well_adu=float(max(p.level for p, kept in zip(pairs, use, strict=True) if kept)),
        chi2=float((((photons[use] - model) / error[use]) ** 2).sum() / freedom),
        n_pairs=int(use.sum()),
    )


def _below_full_well(level: Vector, photons: Vector) -> NDArray[np.bool_]:
    """Where a pixel is full its noise falls: pairs above the first whose noise is a tenth below the proportion are not used."""
    lower = level <= np.median(level)
    proportion = np.median(photons[lower] / level[lower])
    fallen = photons < 0.9 * proportion * level
    limit = level[fallen & ~lower].min() if (fallen & ~lower).any() else np.inf
    return np.asarray(level < limit)


def _astier(level: Vector, inverse: float, a00: float) -> Vector:
    """Photon variance in ADU² at a level in ADU; `inverse` of the gain, a00 in 1/electron (negative: variance lags)."""
    if a00 == 0:
        return level * inverse
    return np.asarray(np.expm1(2 * a00 * level / inverse) * inverse**2 / (2 * a00))


def _curve(level: Vector, photons: Vector, error: Vector) -> tuple[float, float, float]:
    """1/gain, its error, and a00 where it is significant (3 sigma), else 0."""
    weight = 1 / error**2
    inverse = float((weight * level * photons).sum() / (weight * level**2).sum())
    inverse_err = float((weight * level**2).sum() ** -0.5)
    if len(level) < 5:
        return inverse, inverse_err, 0.0

    def model(x: Vector, inv: float, a00_micro: float) -> Vector:
        return _astier(x, inv, 1e-6 * a00_micro)

    fitted, covariance = optimize.curve_fit(model, level, photons, p0=(inverse, -0.1), sigma=error, absolute_sigma=True)
    if abs(fitted[1]) > 3 * covariance[1, 1] ** 0.5:
        return float(fitted[0]), float(covariance[0, 0] ** 0.5), 1e-6 * float(fitted[1])
    return inverse, inverse_err, 0.0

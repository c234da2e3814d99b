"""The PSF of a frame: a stamp whose pixels are polynomials in position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize

SPLINE_ORDER = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class PsfModel:
    """Pixel-basis PSF: `coefficients` (n_terms, size, size), one image per polynomial term of position, size odd.

    The terms are those of `terms(order)` in u = (x - x0) / scale, v = (y - y0) / scale. Stamps are centred on their middle
    pixel and sum to 1.
    """

    coefficients: NDArray[np.float64]
    x0: float
    y0: float
    scale: float

    @classmethod
    def constant(cls, stamp: ArrayLike) -> PsfModel:
        """A PSF that is the same everywhere; `stamp` is square with an odd side."""
        image = np.asarray(stamp, dtype=np.float64)
        return cls(coefficients=(image / image.sum())[None], x0=0.0, y0=0.0, scale=1.0)

    @property
    def size(self) -> int:
        """Side of the stamp in pixels, odd."""
        return int(self.coefficients.shape[1])

    @property
    def order(self) -> int:
        """Degree of the polynomials."""
        return round((np.sqrt(8 * len(self.coefficients) + 1) - 3) / 2)

    @cached_property
    def fwhm_px(self) -> float:
        """Full width at half maximum at the middle of the frame: of the disc whose area is that above half of the peak."""
        return stamp_fwhm(self.at(self.x0, self.y0))

    @cached_property
    def splines(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Quintic spline coefficients of each term (n_terms, size, size), and the terms' sums (n_terms,)."""
        filtered = ndimage.spline_filter1d(self.coefficients, SPLINE_ORDER, axis=1)
        filtered = ndimage.spline_filter1d(filtered, SPLINE_ORDER, axis=2)
        return np.ascontiguousarray(filtered), self.coefficients.sum(axis=(1, 2))

    def at(self, x: float, y: float) -> NDArray[np.float64]:
        """The PSF at pixel (x, y), (size, size), centred on the middle pixel, sum 1."""
        return self.stamps(np.array([x]), np.array([y]))[0]

    def stamps(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """PSFs at many places: (n, size, size), each centred and of sum 1."""
        basis = polynomial(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), self)
        flat = basis @ self.coefficients.reshape(len(self.coefficients), -1)
        return (flat / flat.sum(axis=1, keepdims=True)).reshape(-1, self.size, self.size)

    def to_ccddata(self) -> CCDData:
        """As an image cube for storage; `from_ccddata` is the inverse."""
        meta = {"PSFX0": self.x0, "PSFY0": self.y0, "PSFSCALE": self.scale, "PSFORDER": self.order, "PSFFWHM": self.fwhm_px}
        return CCDData(self.coefficients.astype(np.float32), unit=u.dimensionless_unscaled, meta=meta)

    @classmethod
    def from_ccddata(cls, stored: Any) -> PsfModel:
        """From what `to_ccddata` gave."""
        return cls(
            coefficients=np.asarray(stored.data, dtype=np.float64),
            x0=float(stored.meta["PSFX0"]),
            y0=float(stored.meta["PSFY0"]),
            scale=float(stored.meta["PSFSCALE"]),
        )


def terms(order: int) -> list[tuple[int, int]]:
    """Exponents of (u, v), the constant first: 1, u, v, u2, uv, v2 and so on."""
    return [(total - b, b) for total in range(order + 1) for b in range(total + 1)]


def polynomial(x: NDArray[np.float64], y: NDArray[np.float64], model: PsfModel) -> NDArray[np.float64]:
    """Values (n, n_terms) of the model's polynomial terms at positions; kept to the frame, since polynomials run away outside."""
    a, b = np.clip((x - model.x0) / model.scale, -1.2, 1.2), np.clip((y - model.y0) / model.scale, -1.2, 1.2)
    return np.stack([a**i * b**j for i, j in terms(model.order)], axis=1)


def stamp_fwhm(stamp: NDArray[np.floating]) -> float:
    """FWHM in pixels of a stamp: diameter of the disc of the area above half of its peak, on a 9 times finer spline grid."""
    fine = ndimage.zoom(np.asarray(stamp, dtype=np.float64), 9, order=5, grid_mode=True, mode="nearest")
    return float(2.0 * np.sqrt((fine > 0.5 * fine.max()).sum() / np.pi) / 9.0)


def spline_weights(shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quintic B-spline weights (n, 6) for sampling prefiltered data at -shift, |shift| <= 1, taps at -3 … 3 around the pixel.

    Returned as (n, 7): taps -3, -2, …, 3, so that shifts of either sign need no branch.
    """
    distance = np.abs(np.arange(-3, 4)[None, :] + shift[:, None])
    inner, middle, outer = (np.clip(limit - distance, 0, None) ** 5 for limit in (1.0, 2.0, 3.0))
    return (outer - 6 * middle + 15 * inner) / 120.0


def shifted(stamps: NDArray[np.float64], dx: NDArray[np.float64], dy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stamps (n, size, size) moved by sub-pixel (dx, dy) in [-1, 1] with quintic splines, zero outside; what ndimage.shift does,
    for all at once."""
    coefficients = ndimage.spline_filter1d(ndimage.spline_filter1d(stamps, SPLINE_ORDER, axis=1), SPLINE_ORDER, axis=2)
    for axis, shift in ((2, dx), (1, dy)):
        weights = spline_weights(np.asarray(shift, dtype=np.float64))
        padding = [(0, 0)] * 3
        padding[axis] = (3, 3)
        padded = np.pad(coefficients, padding)
        size = stamps.shape[axis]
        parts = (weights[:, tap, None, None] * np.take(padded, range(tap, tap + size), axis=axis) for tap in range(7))
        coefficients = sum(parts, np.zeros_like(stamps))
    return coefficients


def fit_psf(
    stamps: NDArray[np.floating],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    shape: tuple[int, int],
    *,
    error: NDArray[np.floating] | None = None,
    order: int = 2,
    stars_per_term: int = 8,
    iterations: int = 4,
) -> tuple[PsfModel, NDArray[np.bool_]]:
    """Least-squares PSF of centred, sky-free star stamps (n, size, size), scaled alike, at (x, y) on a frame of `shape` (ny, nx).

    `error` (n,) is each stamp's, relative to its flux; None: all are equal.

    The order is lowered until there are `stars_per_term` stars to each term. Stars whose residual, in units of their flux,
    exceeds 3 times the median of the others' are left out and the fit repeated. Returns the model and which stars it kept.
    ValueError without any star.
    """
    count, size = len(stamps), stamps.shape[1]
    if not count:
        raise ValueError("no star to build a PSF from")
    while order and len(terms(order)) * stars_per_term > count:
        order -= 1
    ny, nx = shape
    frame = PsfModel(
        coefficients=np.zeros((len(terms(order)), size, size)), x0=(nx - 1) / 2, y0=(ny - 1) / 2, scale=max(nx, ny) / 2
    )
    flat = stamps.reshape(count, -1)
    basis = polynomial(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), frame)
    weight = np.ones(count) if error is None else np.min(error) / np.asarray(error, dtype=np.float64)
    start = np.median(flat, axis=0)
    good = _small(weight**2 * ((flat - start) ** 2).sum(axis=1))
    for _ in range(iterations):
        solution = np.linalg.lstsq((weight[:, None] * basis)[good], (weight[:, None] * flat)[good], rcond=None)[0]
        kept = _small(weight**2 * ((flat - basis @ solution) ** 2).sum(axis=1))
        if kept.sum() < max(1, len(basis.T)) or np.array_equal(kept, good):
            break
        good = kept
    coefficients = solution.reshape(-1, size, size)
    model = PsfModel(coefficients=coefficients / coefficients[0].sum(), x0=frame.x0, y0=frame.y0, scale=frame.scale)
    return model, good


def smooth_wings(model: PsfModel, radius_px: float) -> PsfModel:
    """The model with what lies beyond `radius_px` put in order, and its sum made 1.

    There a PSF from few stars is noise and leftover sky, which over hundreds of pixels decide its sum, and with it every flux.
    The medians of rings around the centre are fitted by a Moffat profile and a constant; the constant, leftover sky, is taken
    off, and the wings are the profile's, without variation over the frame; a step of 1 px width joins them. Where the fit
    fails, only rings' medians smooth the wings.
    """
    half = model.size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    radius = np.hypot(x, y)
    mean = model.coefficients[0] / model.coefficients[0].max()
    rings = np.arange(half + 1, dtype=np.float64)
    which = np.rint(radius).astype(np.int64)
    profile = np.array([np.median(mean[which == k]) for k in range(half + 1)])
    where = np.array([radius[which == k].mean() for k in range(half + 1)])
    outer = (radius > radius_px) & (which <= half)
    noise = max(1.4826 * float(np.median(np.abs(mean - np.append(profile, 0.0)[np.minimum(which, half + 1)])[outer])), 1e-5)
    # A ring's median is as good as the number of its pixels; 2 %, because no star is a Moffat profile exactly.
    error = np.hypot(0.02 * np.maximum(profile, 0.0), noise / np.sqrt(np.maximum(2.0 * np.pi * rings, 1.0)))
    try:
        found, _ = optimize.curve_fit(
            _moffat_and_sky, where, profile, p0=(1.0, radius_px / 2.0, 3.0, 0.0), sigma=error,
            bounds=((0.2, 0.3, 1.5, -0.05), (3.0, 4.0 * radius_px, 12.0, 0.05)),
        )  # fmt: skip
        sky, wings = found[3], _moffat_and_sky(radius, *found[:3], 0.0)
    except RuntimeError:
        sky, wings = 0.0, np.interp(radius, where, np.maximum(profile, 0.0))
    inner = np.clip(radius_px + 0.5 - radius, 0.0, 1.0)
    coefficients = model.coefficients * inner
    coefficients[0] = model.coefficients[0].max() * ((mean - sky) * inner + wings * (1.0 - inner))
    return PsfModel(coefficients=coefficients / coefficients[0].sum(), x0=model.x0, y0=model.y0, scale=model.scale)


def _moffat_and_sky(radius: NDArray[np.float64], peak: float, width: float, beta: float, sky: float) -> NDArray[np.float64]:
    return peak * (1.0 + (radius / width) ** 2) ** -beta + sky


def _small(residual: NDArray[np.float64]) -> NDArray[np.bool_]:
    return residual <= 9.0 * np.median(residual)

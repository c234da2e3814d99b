"""PSF and aperture fluxes of known sources, with errors, for all sources at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

from payloads.compiled import point_source
from payloads.psf import PsfModel, polynomial


@dataclass(frozen=True, kw_only=True)
class PsfFit:
    """Per source (n,): fitted position and flux with standard errors, reduced chi square, and whether the fit holds."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x_err: NDArray[np.float64]
    y_err: NDArray[np.float64]
    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    chi2: NDArray[np.float64]
    good: NDArray[np.bool_]


def fit_psf_flux(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    psf: PsfModel,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    rounds: int = 3,
    move: bool = True,
    own_flux: NDArray[np.float64] | None = None,
) -> PsfFit:
    """Fit flux and position (or, without `move`, flux at the position given) of each source in background-subtracted `data`.

    Linear least squares in flux and, by the PSF's derivatives, in position, iterated `rounds` times; within 1.5 FWHM of the
    source (at least 3 px); weights are those of the sky's noise alone, since weights that follow the data make faint fluxes
    too small. The errors come from the `variance` plane, photon noise included. Pixels `unusable` are left out; good is False
    with less than half of the PSF's weight left, or when the position ran away, and the start position stays. With `own_flux`,
    `data` is a frame from which all sources were subtracted, and each is fitted with its own PSF of that flux, at its start
    position, put back.
    """
    n = len(x)
    # One more pixel than is fitted: the circle's rim.
    half = min(psf.size // 2, max(3, int(np.ceil(1.5 * psf.fwhm_px))) + 1)
    found = np.zeros((n, 9))
    start = [np.ascontiguousarray(c, np.float64) for c in (x, y, np.zeros(n) if own_flux is None else own_flux)]
    point_source.fit(
        np.ascontiguousarray(data, np.float32),
        np.ascontiguousarray(variance, np.float32),
        np.ascontiguousarray(unusable),
        *psf.splines,
        polynomial(start[0], start[1], psf),
        *start,
        half,
        half - 0.5,
        rounds,
        move,
        found,
    )
    dx, dy, flux, *variances, weight, chi2, count = found.T
    error = np.sqrt(np.maximum(variances, 0.0))
    good = (weight > 0.5) & np.isfinite(flux) & (error[0] > 0)
    if move:
        good &= (np.abs(dx) < 1.0) & (np.abs(dy) < 1.0)
    scale = np.where(flux > 0, flux, np.nan)
    return PsfFit(
        x=np.where(good, np.rint(start[0]) + dx, x),
        y=np.where(good, np.rint(start[1]) + dy, y),
        x_err=error[1] / scale,
        y_err=error[2] / scale,
        flux=flux,
        flux_err=error[0],
        chi2=chi2 / np.maximum(count - 3, 1),
        good=good,
    )


def cut_stamps(
    image: NDArray[np.generic], column: NDArray[np.int64], row: NDArray[np.int64], half: int, outside: float
) -> NDArray[np.generic]:
    """Stamps (n, 2 half + 1, 2 half + 1) around pixels; `outside` beyond the frame."""
    ny, nx = image.shape
    offsets = np.arange(-half, half + 1)
    rows, columns = row[:, None] + offsets, column[:, None] + offsets
    stamps = image[np.clip(rows, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :]]
    inside = ((rows >= 0) & (rows < ny))[:, :, None] & ((columns >= 0) & (columns < nx))[:, None, :]
    return stamps if inside.all() else np.where(inside, stamps, np.asarray(outside, dtype=image.dtype))


def add_sources(
    image: NDArray[np.float32], psf: PsfModel, x: NDArray[np.float64], y: NDArray[np.float64], flux: NDArray[np.float64]
) -> None:
    """Add point sources to `image` (ny, nx) in place; what falls outside is lost."""
    px, py, f = (np.ascontiguousarray(c, np.float64) for c in (x, y, flux))
    point_source.add(image, *psf.splines, polynomial(px, py, psf), px, py, f, psf.size // 2)


def aperture_flux(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius_px: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Flux and error (n,) in circles; masked pixels are replaced by the circle's mean (sep)."""
    flux, error, _ = sep.sum_circle(
        np.ascontiguousarray(data), x, y, radius_px, var=np.ascontiguousarray(variance), mask=unusable, subpix=5
    )
    return flux, error


def psf_aperture_fraction(psf: PsfModel, radius_px: float) -> float:
    """Part of the PSF's flux within a circle around its centre, at the middle of the frame."""
    stamp = np.ascontiguousarray(psf.at(psf.x0, psf.y0))
    flux, _, _ = sep.sum_circle(stamp, [psf.size // 2], [psf.size // 2], radius_px, subpix=5)
    return float(flux[0])

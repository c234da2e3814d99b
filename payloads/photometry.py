"""PSF and aperture fluxes of known sources, with errors, for all sources at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

from payloads.psf import PsfModel, shifted

_BATCH = 2048  # stamps in hand at one time: some tens of MB


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
    parts = [
        _fit_batch(
            data,
            variance,
            unusable,
            psf,
            x[k : k + _BATCH],
            y[k : k + _BATCH],
            rounds,
            move,
            None if own_flux is None else own_flux[k : k + _BATCH],
        )
        for k in range(0, len(x), _BATCH)
    ]
    if not parts:
        empty = np.zeros(0)
        return PsfFit(
            **dict.fromkeys(("x", "y", "x_err", "y_err", "flux", "flux_err", "chi2"), empty), good=np.zeros(0, dtype=bool)
        )
    return PsfFit(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


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
    ny, nx = image.shape
    half = psf.size // 2
    offsets = np.arange(-half, half + 1)
    for k in range(0, len(x), _BATCH):
        px, py = x[k : k + _BATCH], y[k : k + _BATCH]
        column, row = np.rint(px).astype(np.int64), np.rint(py).astype(np.int64)
        stamps = shifted(psf.stamps(px, py), px - column, py - row) * flux[k : k + _BATCH, None, None]
        rows, columns = np.broadcast_arrays((row[:, None] + offsets)[:, :, None], (column[:, None] + offsets)[:, None, :])
        inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
        np.add.at(image, (rows[inside], columns[inside]), stamps[inside].astype(np.float32))


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


def _fit_batch(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    psf: PsfModel,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rounds: int,
    move: bool,
    own_flux: NDArray[np.float64] | None,
) -> dict[str, NDArray[np.generic]]:
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    # One more pixel than is fitted: for the derivatives, and for splines' edges.
    half = min(psf.size // 2, max(3, int(np.ceil(1.5 * psf.fwhm_px))) + 1)
    values = cut_stamps(data, column, row, half, 0.0).astype(np.float64)
    spread = cut_stamps(variance, column, row, half, 0.0).astype(np.float64)
    radius = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    usable = ~cut_stamps(unusable, column, row, half, True) & (radius <= half - 0.5)
    whole = psf.stamps(x, y)
    total = (whole**2).sum(axis=(1, 2))
    # Splines and derivatives reach three pixels beyond what is fitted; the rest of the stamp need not be moved.
    margin = min(psf.size // 2, half + 3)
    middle, crop = slice(psf.size // 2 - margin, psf.size // 2 + margin + 1), slice(margin - half, margin + half + 1)
    base = np.ascontiguousarray(whole[:, middle, middle])
    dx, dy = x - column, y - row
    if own_flux is not None:
        values += own_flux[:, None, None] * shifted(base, dx, dy)[:, crop, crop]
    flux = np.zeros(len(x))
    covariance = np.zeros((len(x), 3, 3))
    for _ in range(rounds if move else 1):
        model = shifted(base, dx, dy)
        basis = np.stack([model, -np.gradient(model, axis=2), -np.gradient(model, axis=1)], axis=1)[:, :, crop, crop]
        basis = np.where(usable[:, None], basis, 0.0).reshape(len(x), 3, -1)
        flux, step, covariance = _solve(basis, values.reshape(len(x), -1), spread.reshape(len(x), -1), move)
        if move:
            # A PSF wide is the most that a linear step can be trusted for.
            dx, dy = (np.clip(d + np.clip(s, -0.5, 0.5), -1.0, 1.0) for d, s in zip((dx, dy), step, strict=True))
    weight = (np.where(usable, base[:, crop, crop], 0.0) ** 2).sum(axis=(1, 2)) / total
    error = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0.0)).T
    good = (weight > 0.5) & np.isfinite(flux) & (error[0] > 0)
    if move:
        good &= (np.abs(dx) < 1.0) & (np.abs(dy) < 1.0)
    residual = (values - flux[:, None, None] * shifted(base, dx, dy)[:, crop, crop]) ** 2 / np.maximum(spread, 1e-12)
    chi2 = np.where(usable, residual, 0.0).sum(axis=(1, 2)) / np.maximum(usable.sum(axis=(1, 2)) - 3, 1)
    scale = np.where(flux > 0, flux, np.nan)
    return {
        "x": np.where(good, column + dx, x),
        "y": np.where(good, row + dy, y),
        "x_err": error[1] / scale,
        "y_err": error[2] / scale,
        "flux": flux,
        "flux_err": error[0],
        "chi2": chi2,
        "good": good,
    }


def _solve(
    basis: NDArray[np.float64], values: NDArray[np.float64], variance: NDArray[np.float64], move: bool
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]], NDArray[np.float64]]:
    """Uniformly weighted least squares per source; errors by the sandwich with the pixels' variance. Basis (n, 3, pixels)."""
    if not move:
        basis = basis.copy()
        basis[:, 1:] = 0.0
    normal = np.einsum("nip,njp->nij", basis, basis)
    # A source without pixels, or without derivatives, has a singular matrix: a unit on its diagonal gives zeros instead.
    diagonal = np.diagonal(normal, axis1=1, axis2=2)
    normal += np.where(diagonal <= 0, 1.0, 1e-12 * diagonal)[:, :, None] * np.eye(3)
    inverse = np.linalg.inv(normal)
    solution = np.einsum("nij,njp,np->ni", inverse, basis, values, optimize=True)
    middle = np.einsum("nip,njp->nij", basis * variance[:, None, :], basis)
    covariance = inverse @ middle @ inverse
    flux = solution[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = [np.nan_to_num(np.where(flux > 0, solution[:, k] / flux, 0.0)) for k in (1, 2)]
    return flux, step, covariance

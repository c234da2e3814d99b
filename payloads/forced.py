"""Fluxes at known places: one least-squares fit of all sources' PSFs to an image, so that neighbours share their light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from payloads.compiled.point_source import fit as fit_points
from payloads.kernel_field import KernelField, polynomial
from payloads.mask import UNUSABLE, Mask, any_set
from payloads.psf import PsfModel, shifted, stamp_fwhm

NJY_ZEROPOINT_MAG = 31.4
_BATCH = 2048  # stamps in hand at one time
_LARGEST_GROUP = 400  # of touching sources whose covariance is inverted; beyond, errors are those of sources on their own
_TOUCHING = 0.05  # overlap of two PSFs (1: in one place) from which on their errors are told together
_REACH_FWHM = 2.0


@dataclass(frozen=True, kw_only=True)
class ForcedFluxes:
    """Per place (n,): PSF flux and its standard error in the image's unit, and mask bits within the PSF's core.

    NaN where less than half of the PSF falls on usable pixels.
    """

    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    bits: NDArray[np.uint32]

    @property
    def good(self) -> NDArray[np.bool_]:
        """Where there is a flux."""
        return np.isfinite(self.flux)


def njy(zeropoint_mag: float) -> float:
    """Factor from an image's unit, of AB magnitude `zeropoint_mag`, to nJy."""
    return float(10 ** (0.4 * (NJY_ZEROPOINT_MAG - zeropoint_mag)))


def forced_fluxes(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.uint32] | None,
    psf: PsfModel,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
) -> ForcedFluxes:
    """Fit the PSF at every place (x, y), positions fixed, to background-subtracted `data` (ny, nx).

    Unweighted least squares (weights that follow the data would make faint fluxes too small); errors are propagated from the
    `variance` plane, photon noise and the covariance of neighbours included.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not x.size:
        empty = np.zeros(0)
        return ForcedFluxes(flux=empty, flux_err=empty, bits=np.zeros(0, np.uint32))
    usable = ~any_set(mask, UNUSABLE, data.shape) & np.isfinite(variance) & np.isfinite(data)
    inside = (x > -0.5) & (x < data.shape[1] - 0.5) & (y > -0.5) & (y < data.shape[0] - 0.5)
    design, kept = _design(psf, x, y, usable)
    good = inside & (kept > 0.5)
    flux, error = np.full(x.size, np.nan), np.full(x.size, np.nan)
    where = np.flatnonzero(good)
    if where.size:
        columns = csc_array(design[:, where])
        flux[where], error[where] = _solve(columns, np.where(usable, data, 0), np.where(usable, variance, 0))
    return ForcedFluxes(flux=flux, flux_err=error, bits=_core_bits(mask, x, y, inside))


def lone_fluxes(
    data: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.uint32] | None,
    psf: KernelField,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
) -> ForcedFluxes:
    """The same for places that do not share light, as those on a difference do not: each is fitted alone, some 20 us each.

    `psf` varies as a `KernelField`, as a difference's does.
    """
    x, y = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64)
    unusable = any_set(mask, UNUSABLE, data.shape)
    terms = PsfModel(coefficients=psf.coefficients, x0=0.0, y0=0.0, scale=1.0)
    half = min(psf.half_size_px, int(np.ceil(_REACH_FWHM * stamp_fwhm(psf.at(*_middle(data.shape))[0]))))
    found = np.zeros((x.size, 9))
    fit_points(
        np.ascontiguousarray(data, np.float32),
        np.ascontiguousarray(variance, np.float32),
        unusable,
        *terms.splines,
        polynomial(x, y, psf.order, data.shape) if x.size else np.zeros((0, len(psf.coefficients))),
        x,
        y,
        np.zeros(x.size),
        half,
        half + 0.5,
        1,
        False,
        found,
    )
    inside = (x > -0.5) & (x < data.shape[1] - 0.5) & (y > -0.5) & (y < data.shape[0] - 0.5)
    good = inside & (found[:, 6] > 0.5) & (found[:, 3] > 0)
    return ForcedFluxes(
        flux=np.where(good, found[:, 2], np.nan),
        flux_err=np.where(good, np.sqrt(np.maximum(found[:, 3], 0)), np.nan),
        bits=_core_bits(mask, x, y, inside),
    )


def _middle(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([shape[1] / 2]), np.array([shape[0] / 2])


def _design(
    psf: PsfModel, x: NDArray[np.float64], y: NDArray[np.float64], usable: NDArray[np.bool_]
) -> tuple[csc_array, NDArray[np.float64]]:
    """Matrix (pixels, sources) of unit-flux PSFs on usable pixels, and each source's share of squared PSF that is left."""
    ny, nx = usable.shape
    half = min(psf.size // 2, int(np.ceil(_REACH_FWHM * psf.fwhm_px)))
    offsets = np.arange(-half, half + 1)
    middle = slice(psf.size // 2 - half, psf.size // 2 + half + 1)
    values, pixels, kept = [], [], []
    for k in range(0, x.size, _BATCH):
        px, py = x[k : k + _BATCH], y[k : k + _BATCH]
        column, row = np.rint(px).astype(np.int64), np.rint(py).astype(np.int64)
        stamps = shifted(psf.stamps(px, py), px - column, py - row)[:, middle, middle]
        rows, columns = np.broadcast_arrays((row[:, None] + offsets)[:, :, None], (column[:, None] + offsets)[:, None, :])
        on = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
        rows, columns = np.where(on, rows, 0), np.where(on, columns, 0)
        on &= usable[rows, columns]
        left = np.where(on, stamps, 0.0)
        kept.append((left**2).sum(axis=(1, 2)) / (stamps**2).sum(axis=(1, 2)))
        values.append(left.reshape(len(px), -1))
        pixels.append((rows * nx + columns).reshape(len(px), -1))
    number = (2 * half + 1) ** 2
    pointer = np.arange(x.size + 1) * number
    flat = (np.concatenate(values).ravel(), np.concatenate(pixels).ravel(), pointer)
    return csc_array(flat, shape=(ny * nx, x.size)), np.concatenate(kept)


def _solve(
    design: csc_array, data: NDArray[np.floating], variance: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    design.sum_duplicates()
    normal = csc_array(design.T @ design)
    # Two sources in one place: a ridge far below any noise keeps the matrix regular; their errors say the rest.
    normal = csc_array(normal + diags_array(1e-9 * normal.diagonal()))
    right = design.T @ data.ravel().astype(np.float64)
    spread = csr_array(design.T @ design.multiply(variance.reshape(-1, 1)).tocsc())
    return splu(normal).solve(right), np.sqrt(_diagonal_of_covariance(csr_array(normal), spread))


def _diagonal_of_covariance(normal: csr_array, spread: csr_array) -> NDArray[np.float64]:
    """Diagonal of N^-1 S N^-1, group by group of sources that touch."""
    own = normal.diagonal()
    result: NDArray[np.float64] = spread.diagonal() / own**2
    pairs = normal.tocoo()
    touching = np.abs(pairs.data) > _TOUCHING * np.sqrt(own[pairs.row] * own[pairs.col])
    links = coo_array((touching[touching], (pairs.row[touching], pairs.col[touching])), shape=normal.shape)
    count, group_of = connected_components(links, directed=False)
    size = np.bincount(group_of, minlength=count)
    order = np.argsort(group_of, kind="stable")
    begin = np.concatenate([[0], np.cumsum(size)])
    for group in np.flatnonzero((size > 1) & (size <= _LARGEST_GROUP)):
        members = order[begin[group] : begin[group + 1]]
        inverse = np.linalg.inv(normal[members][:, members].toarray())
        result[members] = np.einsum("ij,jk,ki->i", inverse, spread[members][:, members].toarray(), inverse, optimize=True)
    return result


def _core_bits(
    mask: NDArray[np.uint32] | None, x: NDArray[np.float64], y: NDArray[np.float64], inside: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    """Bits of the 3 x 3 pixels around each place; NO_DATA off the frame."""
    bits = np.zeros(x.size, np.uint32)
    if mask is not None:
        column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                bits |= mask[np.clip(row + dy, 0, mask.shape[0] - 1), np.clip(column + dx, 0, mask.shape[1] - 1)]
    bits[~inside] = np.uint32(Mask.NO_DATA)
    return bits


def on_frame(
    wcs: Any, ra_deg: NDArray[np.floating], dec_deg: NDArray[np.floating], shape: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Which places fall on a frame of `shape`, and their pixels: (indices, x, y).

    Places more than a right angle from the frame would come through the tangent plane from behind: they are left out.
    """
    ra, dec = np.radians(np.asarray(ra_deg, float)), np.radians(np.asarray(dec_deg, float))
    ra0, dec0 = np.radians(wcs.pixel_to_world_values((shape[1] - 1) / 2, (shape[0] - 1) / 2))
    ahead = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0) > 0.9
    near = np.flatnonzero(ahead)
    x, y = wcs.wcs_world2pix(np.degrees(ra[near]), np.degrees(dec[near]), 0)
    # Without distortion first: inverting it far off the frame need not converge.
    margin = 0.2 * max(shape)
    close = (x > -margin) & (x < shape[1] + margin) & (y > -margin) & (y < shape[0] + margin)
    near = near[close]
    x, y = (np.asarray(c, float) for c in wcs.world_to_pixel_values(np.degrees(ra[near]), np.degrees(dec[near])))
    inside = (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)
    return near[inside], x[inside], y[inside]

"""Flats of light of one wavelength, and the flat of any light through a filter that is made of them (DMS-REQ-0063, -0130).

A broadband flat is right for the spectrum of the lamp it was taken with; the cube of monochromatic flats, weighted by a source's
photons, the filter's transmission and the response at each wavelength, gives the flat that is right for that source (Stubbs &
Tonry 2006, ApJ 646, 1436; LDM-151 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from backbone.errors import PermanentError

Image = NDArray[np.float32]
Spectrum = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_HC_OVER_K_NM_K = 1.438776877e7  # h c / k in nm K


class CubeError(PermanentError):
    """A cube that does not cover what is asked of it."""


def wavelength_weights(
    wavelengths_nm: NDArray[np.float64],
    response: NDArray[np.float64],
    spectrum: Spectrum,
    transmission: Sequence[tuple[float, float]],
) -> NDArray[np.float64]:
    """What each plane counts (sum 1): photons(nm) x transmission x response x the plane's share of the axis (trapezoids).

    `transmission` are (nm, fraction) in ascending order, linear between, 0 outside. CubeError where the cube ends inside it.
    """
    nm, fraction = np.array(transmission, dtype=np.float64).T
    inside = nm[fraction > 0]
    step = float(np.max(np.diff(wavelengths_nm))) if len(wavelengths_nm) > 1 else np.inf
    if inside.min() < wavelengths_nm[0] - step or inside.max() > wavelengths_nm[-1] + step:
        raise CubeError(
            f"the cube covers {wavelengths_nm[0]:g} to {wavelengths_nm[-1]:g} nm, the filter passes {inside.min():g} to"
            f" {inside.max():g} nm: take monochromatic flats there"
        )
    share = np.gradient(wavelengths_nm) if len(wavelengths_nm) > 1 else np.ones(1)
    weights = spectrum(wavelengths_nm) * np.interp(wavelengths_nm, nm, fraction, left=0.0, right=0.0) * response * share
    if not weights.sum() > 0:
        raise CubeError("no plane of the cube lies where source and filter have light: take flats at a finer step")
    return np.asarray(weights / weights.sum())


def synthesise(cube: NDArray[np.float32], weights: NDArray[np.float64]) -> Image:
    """The flat (ny, nx), median 1, of the planes (n, ny, nx; each of median 1) by weight; planes of no weight are not touched."""
    flat = np.zeros(cube.shape[1:], dtype=np.float32)
    for k in np.flatnonzero(weights):
        flat += np.float32(weights[k]) * cube[k]
    return np.asarray(flat / np.float32(np.nanmedian(flat)), dtype=np.float32)


def line_fringes(cube: NDArray[np.float32], lines: NDArray[np.float64], continuum: NDArray[np.float64]) -> Image:
    """The fringe pattern (mean 0, fraction of the sky) of emission lines, by the weights of the planes for them and for the
    continuum that the frames are flat-fielded with."""
    ratio = synthesise(cube, lines) / synthesise(cube, continuum)
    return np.asarray(ratio - np.median(ratio), dtype=np.float32)


def even_photons(_: NDArray[np.float64]) -> NDArray[np.float64]:
    """A source of as many photons at every wavelength."""
    return np.ones_like(_)


def black_body(temperature_k: float) -> Spectrum:
    """Photons of a black body, in arbitrary units."""

    def photons(nm: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((500.0 / nm) ** 4 / np.expm1(_HC_OVER_K_NM_K / (nm * temperature_k)))

    return photons


def tabulated(points: Sequence[tuple[float, float]]) -> Spectrum:
    """Photons from (nm, value), linear between, 0 outside."""
    nm, value = np.array(points, dtype=np.float64).T
    return lambda at: np.interp(at, nm, value, left=0.0, right=0.0)

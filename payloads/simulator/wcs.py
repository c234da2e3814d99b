"""Gnomonic world coordinates: what the header says, what is true, and where a pixel lies on the focal plane.

Pixels are those of the trimmed detector, the first one's centre at (0, 0). North is at +y and east at -x for rotation 0, as
`payloads.camera` has it for a camera that is not mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from payloads.camera import Detector


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """Where the boresight is: ICRS degrees, position angle of +y east of north, and the scale at the boresight."""

    ra_deg: float
    dec_deg: float
    rotation_deg: float
    scale_arcsec: float


def reference_pixel(detector: Detector, nominal_scale_arcsec: float) -> tuple[float, float]:
    """(x, y) of the boresight in the detector's pixels: fixed by the focal plane, so the nominal scale counts."""
    ny, nx = detector.shape
    dx, dy = detector.offset_arcsec
    return (nx - 1) / 2 - dx / nominal_scale_arcsec, (ny - 1) / 2 - dy / nominal_scale_arcsec


def detector_wcs(pointing: Pointing, detector: Detector, nominal_scale_arcsec: float) -> WCS:
    """The TAN WCS of one detector."""
    x, y = reference_pixel(detector, nominal_scale_arcsec)
    angle, scale = np.deg2rad(pointing.rotation_deg), pointing.scale_arcsec / 3600
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = [pointing.ra_deg, pointing.dec_deg]
    wcs.wcs.crpix = [x + 1, y + 1]
    # +y points to position angle `angle`: (xi, eta) = (sin, cos); +x points west for angle 0.
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.set()
    return wcs


def cards(wcs: WCS) -> fits.Header:
    """The WCS as FITS cards, CD matrix in full."""
    header = fits.Header()
    for axis in (1, 2):
        header[f"CTYPE{axis}"] = wcs.wcs.ctype[axis - 1]
        header[f"CUNIT{axis}"] = "deg"
        header[f"CRVAL{axis}"] = float(wcs.wcs.crval[axis - 1])
        header[f"CRPIX{axis}"] = float(wcs.wcs.crpix[axis - 1])
    for i in (1, 2):
        for j in (1, 2):
            header[f"CD{i}_{j}"] = float(wcs.wcs.cd[i - 1, j - 1])
    header["RADESYS"] = "ICRS"
    return header


def focal_position(
    detector: Detector, scale_arcsec: float, radius_arcsec: float, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(u, v) on the focal plane of pixels `x`, `y`, in units of `radius_arcsec`."""
    x0, y0 = reference_pixel(detector, scale_arcsec)
    return (x - x0) * scale_arcsec / radius_arcsec, (y - y0) * scale_arcsec / radius_arcsec


def tangent_to_sky(
    ra_deg: float, dec_deg: float, east_arcsec: NDArray[np.float64], north_arcsec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS degrees of offsets in the plane that touches the sky at (`ra_deg`, `dec_deg`)."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.cdelt = [1 / 3600, 1 / 3600]
    ra, dec = wcs.wcs_pix2world(np.asarray(east_arcsec), np.asarray(north_arcsec), 0)
    return np.asarray(ra), np.asarray(dec)


def separation_arcsec(
    ra1: NDArray[np.float64], dec1: NDArray[np.float64], ra2: NDArray[np.float64], dec2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Angle between positions in degrees (haversine: right for small angles)."""
    a1, d1, a2, d2 = (np.deg2rad(np.asarray(a)) for a in (ra1, dec1, ra2, dec2))
    h = np.sin((d2 - d1) / 2) ** 2 + np.cos(d1) * np.cos(d2) * np.sin((a2 - a1) / 2) ** 2
    return np.asarray(np.rad2deg(2 * np.arcsin(np.sqrt(h))) * 3600)

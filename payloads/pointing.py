"""Where on the sky a frame lies, before any astrometry: nominal WCS and regions."""

from __future__ import annotations

import math

import numpy as np
from astropy.wcs import WCS
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d
from numpy.typing import NDArray

from payloads.camera import Camera


def nominal_wcs(camera: Camera, detector: int, ra_deg: float, dec_deg: float, rotation_deg: float = 0.0) -> WCS:
    """TAN WCS of the trimmed frame from pointing, plate scale and the detector's place in the focal plane.

    `rotation_deg` is the position angle of +y, east of north. Without mirroring east is then at −x: the CD matrix is
    s [[−cos, sin], [sin, cos]]; with it the first column changes sign.
    """
    sensor = camera.detector(detector)
    ny, nx = sensor.shape
    s, angle = camera.pixel_scale_arcsec / 3600.0, math.radians(rotation_deg)
    east = 1.0 if camera.mirrored else -1.0
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    dx, dy = (offset / camera.pixel_scale_arcsec for offset in sensor.offset_arcsec)
    wcs.wcs.crpix = [(nx + 1) / 2.0 - dx, (ny + 1) / 2.0 - dy]
    wcs.wcs.cd = s * np.array([[east * math.cos(angle), math.sin(angle)], [-east * math.sin(angle), math.cos(angle)]])
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def corners(wcs: WCS, shape: tuple[int, int], margin_px: float = 0.0) -> NDArray[np.float64]:
    """(4, 2) ra, dec in degrees of the outer corners of an image of `shape` (ny, nx), grown by a margin."""
    ny, nx = shape
    low, x, y = -0.5 - margin_px, nx - 0.5 + margin_px, ny - 0.5 + margin_px
    return np.stack(wcs.pixel_to_world_values([low, x, x, low], [low, low, y, y]), axis=-1)


def polygon(points_deg: NDArray[np.float64]) -> ConvexPolygon:
    """Convex hull on the sphere of (n, 2) ra, dec in degrees."""
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(float(ra), float(dec))) for ra, dec in points_deg])

"""The dia_source table: measurements in pixels and electrons turned into places on the sky, nJy and ids."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from payloads.ids import source_id
from payloads.reliability import ReliabilityConfig, reliability

_NEAR_PX = 20.0  # within which other sources are neighbours
NJY_AT_MAG_0 = 10 ** (31.4 / 2.5)
_FLUXES = ("starFlux", *(f"{kind}Flux{end}" for kind in ("psf", "ap", "science", "template") for end in ("", "Err")))


def njy_per_electron(zeropoint_mag: float) -> float:
    """Flux in nJy of one electron in the exposure, from the AB magnitude that has."""
    return float(NJY_AT_MAG_0 * 10 ** (-0.4 * zeropoint_mag))


def dia_source_table(
    measured: Table,
    *,
    shape: tuple[int, int],
    wcs: WCS,
    zeropoint_mag: float,
    visit: int,
    detector: int,
    band: str,
    midpoint_mjd_tai: float,
    processed_mjd_tai: float,
    release: int = 0,
) -> Table:
    """Columns of dia_source (docs/interfaces.md) from the table of payloads.dia_sources.detect.

    Sources whose centre is off the frame of `shape` (ny, nx) are left out. Errors of positions are on the sky: raErr has cos dec.
    """
    x, y = np.asarray(measured["x"], float), np.asarray(measured["y"], float)
    table = measured[(x >= -0.5) & (y >= -0.5) & (x < shape[1] - 0.5) & (y < shape[0] - 0.5)]
    xy = np.column_stack([table["x"], table["y"]]).astype(float).reshape(-1, 2)
    table["neighbours"], table["crowd"] = (_neighbours(xy, radius) for radius in (_NEAR_PX, ReliabilityConfig().crowd_px))
    table["reliability"] = reliability(table)
    n = len(table)
    table["diaSourceId"] = np.array([source_id(release, visit, detector, k + 1) for k in range(n)], np.int64)
    constants: dict[str, tuple[Any, Any]] = {
        "visit": (visit, np.int64),
        "detector": (detector, np.int32),
        "midpointMjdTai": (midpoint_mjd_tai, np.float64),
        "timeProcessedMjdTai": (processed_mjd_tai, np.float64),
        "band": (band, f"U{max(len(band), 1)}"),
    }
    for name, (value, kind) in constants.items():
        table[name] = np.full(n, value, kind)
    _sky(table, xy, wcs)
    scale = njy_per_electron(zeropoint_mag)
    for name in _FLUXES:
        table[name] = (np.asarray(table[name], float) * scale).astype(np.float64)
    pixel_arcsec = 3600 * float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    table["trailLength"] = (np.asarray(table["trailLengthPx"]) * pixel_arcsec).astype(np.float32)
    table.remove_column("trailLengthPx")
    return table


def _neighbours(xy: NDArray[np.float64], radius_px: float) -> NDArray[np.int64]:
    if not len(xy):
        return np.zeros(0, np.int64)
    return np.asarray(cKDTree(xy).query_ball_point(xy, radius_px, return_length=True), np.int64) - 1


def _sky(table: Table, xy: NDArray[np.float64], wcs: WCS) -> None:
    """Positions and their errors, through the local Jacobian."""
    x, y = xy[:, 0], xy[:, 1]
    ra, dec = (np.asarray(c, float) for c in wcs.pixel_to_world_values(x, y))
    cosine = np.cos(np.radians(dec))
    steps = []
    for dx, dy in ((1.0, 0.0), (0.0, 1.0)):
        ra1, dec1 = (np.asarray(c, float) for c in wcs.pixel_to_world_values(x + dx, y + dy))
        steps.append((((ra1 - ra + 180) % 360 - 180) * cosine, dec1 - dec))
    x_error, y_error = np.asarray(table["xErr"], float), np.asarray(table["yErr"], float)
    table["ra"], table["dec"] = ra % 360, dec
    table["raErr"] = np.hypot(steps[0][0] * x_error, steps[1][0] * y_error)
    table["decErr"] = np.hypot(steps[0][1] * x_error, steps[1][1] * y_error)
    table["ra_dec_Cov"] = (steps[0][0] * steps[0][1] * x_error**2 + steps[1][0] * steps[1][1] * y_error**2).astype(np.float32)

"""Bodies on two-body orbits around the Sun, seen from the observatory.

Elements are osculating, heliocentric, on the ecliptic of J2000 (obliquity 84,381.448 arcsec); positions are topocentric
astrometric ICRS (light time, no aberration: the frame of catalogue stars). Earth and Sun come from astropy's builtin (ERFA)
ephemeris, which needs no download. Two-body formulae: e.g. Murray & Dermott 1999, chapter 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import erfa
import numpy as np
from astropy import units as u
from astropy.coordinates import get_body_barycentric
from astropy.time import Time
from numpy.typing import NDArray

from payloads.camera import Observatory

GAUSS_K = 0.01720209895  # square root of the Sun's GM in au^1.5 / day
LIGHT_AU_PER_DAY = 173.144632674
_OBLIQUITY = np.deg2rad(84_381.448 / 3600)
ECLIPTIC_TO_ICRS = np.array(
    [[1, 0, 0], [0, np.cos(_OBLIQUITY), -np.sin(_OBLIQUITY)], [0, np.sin(_OBLIQUITY), np.cos(_OBLIQUITY)]]
)
_PULL_AU_D2 = 2e-8  # of the planets on a body of the main belt, in the Sun's frame, rms; of trans-Neptunians and most others less
_PHASE_MAG_PER_DEG = 0.035  # linear phase law, typical of the main belt away from the opposition surge

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Orbits:
    """Orbital elements (n,): au, degrees; `epoch_mjd` TDB at which `mean_anomaly_deg` holds; `absolute_mag` in any one band."""

    id: NDArray[np.int64]
    semi_major_axis_au: Array
    eccentricity: Array
    inclination_deg: Array
    node_deg: Array
    perihelion_deg: Array
    mean_anomaly_deg: Array
    epoch_mjd: Array
    absolute_mag: Array

    def at(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """Some of them."""
        return type(self)(**{name: values[rows] for name, values in vars(self).items()})


def solve_kepler(mean_anomaly: Array, eccentricity: Array) -> Array:
    """Eccentric anomaly (rad) by Newton's method, to 1e-13 for eccentricities up to 0.99.

    From |m| + e, or pi where that is less, it comes down to the solution without ever passing it (the equation is convex there).
    """
    m = np.remainder(mean_anomaly + np.pi, 2 * np.pi) - np.pi
    e = np.copysign(np.minimum(np.abs(m) + eccentricity, np.pi), m)
    for _ in range(50):
        step = (e - eccentricity * np.sin(e) - m) / (1 - eccentricity * np.cos(e))
        e = e - step
        if not np.abs(step).max(initial=0.0) > 1e-9:  # what is left is its square
            break
    return np.asarray(e)


def heliocentric(orbits: Orbits, mjd_tdb: Array | float) -> Array:
    """(n, 3) positions from the Sun in au, ICRS axes, at `mjd_tdb` (scalar or (n,))."""
    a, e = orbits.semi_major_axis_au, orbits.eccentricity
    mean = np.deg2rad(orbits.mean_anomaly_deg) + GAUSS_K * a**-1.5 * (mjd_tdb - orbits.epoch_mjd)
    ecc = solve_kepler(mean, e)
    x, y = a * (np.cos(ecc) - e), a * np.sqrt(1 - e**2) * np.sin(ecc)
    node, peri, inc = (np.deg2rad(v) for v in (orbits.node_deg, orbits.perihelion_deg, orbits.inclination_deg))
    cn, sn, cw, sw, ci, si = np.cos(node), np.sin(node), np.cos(peri), np.sin(peri), np.cos(inc), np.sin(inc)
    p = np.stack([cn * cw - sn * sw * ci, sn * cw + cn * sw * ci, sw * si])
    q = np.stack([-cn * sw - sn * cw * ci, -sn * sw + cn * cw * ci, cw * si])
    return np.asarray((ECLIPTIC_TO_ICRS @ (p * x + q * y)).T)


def tdb_of_tai(mjd_tai: float) -> float:
    """TDB from TAI (TT; the periodic 2 ms between TT and TDB moves no main-belt asteroid)."""
    return mjd_tai + 32.184 / 86_400


def sun_and_observer(mjd_tai: float, observatory: Observatory) -> tuple[Array, Array]:
    """Barycentric positions (3,) in au of the Sun and of the observatory (UT1 taken as UTC: 0.4 km at most)."""
    time = Time(mjd_tai, format="mjd", scale="tai")
    sun, earth = (get_body_barycentric(name, time, ephemeris="builtin").xyz.to_value(u.au) for name in ("sun", "earth"))
    site = np.array(
        erfa.gd2gc(1, np.deg2rad(observatory.longitude_deg), np.deg2rad(observatory.latitude_deg), observatory.height_m)
    )
    angle = sidereal_angle(mjd_tai)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) @ site
    # Of date to ICRS: precession-nutation, transposed.
    to_icrs = erfa.pnm06a(2_400_000.5, tdb_of_tai(mjd_tai)).T
    return np.asarray(sun), np.asarray(earth + to_icrs @ turned / 1.495978707e11)


def sidereal_angle(mjd_tai: float) -> float:
    """Greenwich apparent sidereal time in radians, with UT1 taken as UTC."""
    utc = Time(mjd_tai, format="mjd", scale="tai").utc.mjd
    return float(erfa.gst06a(2_400_000.5, utc, 2_400_000.5, tdb_of_tai(mjd_tai)))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Where orbits appear (n,): ICRS degrees, magnitude in the band of the absolute one, distances in au."""

    ra: Array
    dec: Array
    mag: Array
    sun_au: Array
    observer_au: Array


def observe(orbits: Orbits, mjd_tai: float, observatory: Observatory) -> Seen:
    """Astrometric topocentric positions and magnitudes at one time."""
    sun, observer = sun_and_observer(mjd_tai, observatory)
    tdb = tdb_of_tai(mjd_tai)
    delay = np.zeros(len(orbits.id))
    for _ in range(3):  # light time converges by v/c = 1e-4 per round
        helio = heliocentric(orbits, tdb - delay)
        line = helio + sun - observer
        distance = np.linalg.norm(line, axis=1)
        delay = distance / LIGHT_AU_PER_DAY
    ra = np.rad2deg(np.arctan2(line[:, 1], line[:, 0])) % 360
    dec = np.rad2deg(np.arcsin(line[:, 2] / distance))
    r = np.linalg.norm(helio, axis=1)
    phase = np.rad2deg(np.arccos(np.clip((helio * line).sum(axis=1) / (r * distance), -1, 1)))
    mag = orbits.absolute_mag + 5 * np.log10(r * distance) + _PHASE_MAG_PER_DEG * phase
    return Seen(ra=ra, dec=dec, mag=mag, sun_au=r, observer_au=distance)


def drift_arcsec(days: Array | float, observer_au: Array) -> Array:
    """How far planets have drawn bodies from their two-body places (n,), rms, `days` from the epoch: half the pull times the
    square of the time, seen from `observer_au`. 0.1 arcsec after ten days in the main belt; encounters with planets are more."""
    return np.asarray(np.rad2deg(0.5 * _PULL_AU_D2 * days**2 / observer_au) * 3600)

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, get_body_barycentric, get_body_barycentric_posvel
from astropy.time import Time
from astropy.utils import iers

from payloads.camera import Observatory
from payloads.orbits import (
    GAUSS_K,
    LIGHT_AU_PER_DAY,
    Orbits,
    drift_arcsec,
    heliocentric,
    observe,
    solve_kepler,
    sun_and_observer,
    tdb_of_tai,
)
from payloads.simulator.wcs import separation_arcsec

SITE = Observatory(longitude_deg=-70.7367, latitude_deg=-30.2406, height_m=2715)
MJD = 59_494.2


def elements_of(position: np.ndarray, velocity: np.ndarray, epoch_mjd: float) -> Orbits:
    """Elements from a heliocentric state on ICRS axes (au, au/day), by vectors: nothing shared with the code under test."""
    obliquity = np.deg2rad(84_381.448 / 3600)
    turn = np.array([[1, 0, 0], [0, np.cos(obliquity), np.sin(obliquity)], [0, -np.sin(obliquity), np.cos(obliquity)]])
    r, v, mu = turn @ position, turn @ velocity, GAUSS_K**2
    h = np.cross(r, v)
    ecc = np.cross(v, h) / mu - r / np.linalg.norm(r)
    node = np.cross([0, 0, 1], h)
    e = np.linalg.norm(ecc)
    a = 1 / (2 / np.linalg.norm(r) - v @ v / mu)
    big_e = np.arctan2(r @ v / np.sqrt(mu * a), 1 - np.linalg.norm(r) / a)
    normal = h / np.linalg.norm(h)
    along = node / np.linalg.norm(node)
    values = {
        "id": 1,
        "semi_major_axis_au": a,
        "eccentricity": e,
        "inclination_deg": np.rad2deg(np.arccos(normal[2])),
        "node_deg": np.rad2deg(np.arctan2(node[1], node[0])),
        "perihelion_deg": np.rad2deg(np.arctan2(ecc @ np.cross(normal, along), ecc @ along)),
        "mean_anomaly_deg": np.rad2deg(big_e - e * np.sin(big_e)),
        "epoch_mjd": epoch_mjd,
        "absolute_mag": 0.0,
    }
    return Orbits(**{key: np.array([value]) for key, value in values.items()})


@pytest.mark.parametrize("eccentricity", [0.0, 0.1, 0.5, 0.85, 0.99])
def test_kepler_equation_is_solved(eccentricity: float):
    mean = np.concatenate([np.linspace(-10, 10, 101), np.geomspace(1e-12, 1, 50), np.pi * np.arange(-2, 3)])
    ecc = solve_kepler(mean, np.full(len(mean), eccentricity))
    residual = ecc - eccentricity * np.sin(ecc) - mean
    assert np.abs(np.remainder(residual + np.pi, 2 * np.pi) - np.pi).max() < 1e-12


@pytest.mark.parametrize("planet", ["mars", "jupiter", "venus"])
def test_an_orbit_with_a_planets_elements_moves_as_astropys_planet_does(planet: str):
    start, later = (Time(tdb, format="mjd", scale="tdb") for tdb in (MJD, MJD + 10))
    state = [get_body_barycentric_posvel(name, start, ephemeris="builtin") for name in (planet, "sun")]
    position = (state[0][0] - state[1][0]).xyz.to_value(u.au)
    velocity = (state[0][1] - state[1][1]).xyz.to_value(u.au / u.day)
    orbit = elements_of(position, velocity, MJD)
    np.testing.assert_allclose(heliocentric(orbit, MJD)[0], position, atol=1e-9)
    true = get_body_barycentric(planet, later, ephemeris="builtin") - get_body_barycentric("sun", later, ephemeris="builtin")
    moved = np.linalg.norm(true.xyz.to_value(u.au) - position)
    # Ten days of perturbations, of the planet's own mass and of the series' velocity: below 1e-3 of the path.
    assert np.linalg.norm(heliocentric(orbit, MJD + 10)[0] - true.xyz.to_value(u.au)) < 1e-3 * moved


@pytest.mark.parametrize(("days", "arcsec"), [(0.0, 0.05), (1.0, 0.1)])
def test_a_planet_is_seen_where_light_time_and_parallax_put_it(days: float, arcsec: float):
    now = MJD + days
    time = Time(now, format="mjd", scale="tai")
    with iers.conf.set_temp("auto_download", False):
        site = EarthLocation.from_geodetic(SITE.longitude_deg, SITE.latitude_deg, SITE.height_m)
        geo = site.get_gcrs_posvel(time)[0].xyz.to_value(u.au)
    observer = get_body_barycentric("earth", time, ephemeris="builtin").xyz.to_value(u.au) + geo
    assert np.linalg.norm(sun_and_observer(now, SITE)[1] - observer) * 1.495978707e8 < 1.0  # km
    epoch = tdb_of_tai(MJD)
    state = [get_body_barycentric_posvel(n, Time(epoch, format="mjd", scale="tdb"), ephemeris="builtin") for n in ("mars", "sun")]
    orbit = elements_of(
        (state[0][0] - state[1][0]).xyz.to_value(u.au), (state[0][1] - state[1][1]).xyz.to_value(u.au / u.day), epoch
    )
    delay = 0.0
    for _ in range(5):
        left = Time(tdb_of_tai(now) - delay, format="mjd", scale="tdb")
        line = get_body_barycentric("mars", left, ephemeris="builtin").xyz.to_value(u.au) - observer
        delay = np.linalg.norm(line) / LIGHT_AU_PER_DAY
    ra, dec = np.rad2deg(np.arctan2(line[1], line[0])) % 360, np.rad2deg(np.arcsin(line[2] / np.linalg.norm(line)))
    seen = observe(orbit, now, SITE)
    assert separation_arcsec(seen.ra, seen.dec, np.array([ra]), np.array([dec]))[0] < arcsec


PLANETS = {"mars": 3_098_708, "jupiter": 1047.3486, "saturn": 3497.898}
"""By the Sun's mass over theirs; and Earth and Venus."""
PLANETS |= {"earth": 328_900.56, "venus": 408_523.71}


def drawn_by_planets(orbits: Orbits, days: int) -> np.ndarray:
    """Heliocentric places after some days in the field of Sun and planets (astropy's), by Runge and Kutta's steps of a day."""
    start = float(orbits.epoch_mjd[0])
    times = Time(start + 0.5 * np.arange(2 * days + 1), format="mjd", scale="tdb")
    sun = get_body_barycentric("sun", times, ephemeris="builtin").xyz.to_value(u.au).T
    places = {n: get_body_barycentric(n, times, ephemeris="builtin").xyz.to_value(u.au).T - sun for n in PLANETS}

    def pull(x: np.ndarray, k: int) -> np.ndarray:
        total = -x / np.linalg.norm(x, axis=1, keepdims=True) ** 3
        for name, p in places.items():
            line = p[k] - x
            total += (line / np.linalg.norm(line, axis=1, keepdims=True) ** 3 - p[k] / np.linalg.norm(p[k]) ** 3) / PLANETS[name]
        return GAUSS_K**2 * total

    x, h = heliocentric(orbits, start), 1e-3
    v = (heliocentric(orbits, start + h) - heliocentric(orbits, start - h)) / (2 * h)
    for k in range(0, 2 * days, 2):
        a = pull(x, k)
        b = pull(x + v / 2, k + 1)
        c = pull(x + v / 2 + a / 4, k + 1)
        d = pull(x + v + b / 2, k + 2)
        x, v = x + v + (a + b + c) / 6, v + (a + 2 * b + 2 * c + d) / 6
    return x


def main_belt(n: int, epoch_mjd: float) -> Orbits:
    rng = np.random.default_rng(5)
    angles = {name: rng.uniform(0, 360, n) for name in ("node_deg", "perihelion_deg", "mean_anomaly_deg")}
    return Orbits(
        id=np.arange(1, n + 1),
        semi_major_axis_au=rng.uniform(2.1, 3.3, n),
        eccentricity=rng.uniform(0, 0.25, n),
        inclination_deg=rng.rayleigh(8, n),
        **angles,
        epoch_mjd=np.full(n, epoch_mjd),
        absolute_mag=np.full(n, 15.0),
    )


@pytest.mark.parametrize("days", [10, 40])
def test_error_that_is_claimed_for_old_elements_is_that_of_planets_left_out(days: int):
    orbits = main_belt(300, MJD)
    away = np.linalg.norm(drawn_by_planets(orbits, days) - heliocentric(orbits, MJD + days), axis=1)
    claimed = np.deg2rad(drift_arcsec(float(days), np.ones(300)) / 3600)
    assert 0.6 < np.sqrt((away**2).mean()) / claimed[0] < 1.2
    assert (away < 3 * claimed).mean() > 0.95

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, get_body_barycentric, get_body_barycentric_posvel
from astropy.time import Time
from astropy.utils import iers

from payloads.simulator.config import AsteroidsConfig, ObservatoryConfig
from payloads.simulator.orbits import (
    GAUSS_K,
    LIGHT_AU_PER_DAY,
    Orbits,
    heliocentric,
    observe,
    orbits_through,
    solve_kepler,
    sun_and_observer,
    tdb_of_tai,
)
from payloads.simulator.wcs import separation_arcsec

SITE = ObservatoryConfig()
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
        "colour": 0.6,
    }
    return Orbits(**{key: np.array([value]) for key, value in values.items()})


@pytest.mark.parametrize("eccentricity", [0.0, 0.1, 0.5, 0.85])
def test_kepler_equation_is_solved(eccentricity: float):
    mean = np.linspace(-10, 10, 101)
    ecc = solve_kepler(mean, np.full(101, eccentricity))
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


def test_a_planet_is_seen_where_light_time_and_parallax_put_it():
    time = Time(MJD, format="mjd", scale="tai")
    with iers.conf.set_temp("auto_download", False):
        site = EarthLocation.from_geodetic(SITE.longitude_deg, SITE.latitude_deg, SITE.height_m)
        geo = site.get_gcrs_posvel(time)[0].xyz.to_value(u.au)
    observer = get_body_barycentric("earth", time, ephemeris="builtin").xyz.to_value(u.au) + geo
    assert np.linalg.norm(sun_and_observer(MJD, SITE)[1] - observer) * 1.495978707e8 < 1.0  # km
    epoch = tdb_of_tai(MJD)
    state = [get_body_barycentric_posvel(n, Time(epoch, format="mjd", scale="tdb"), ephemeris="builtin") for n in ("mars", "sun")]
    orbit = elements_of(
        (state[0][0] - state[1][0]).xyz.to_value(u.au), (state[0][1] - state[1][1]).xyz.to_value(u.au / u.day), epoch
    )
    delay = 0.0
    for _ in range(5):
        line = get_body_barycentric("mars", Time(epoch - delay, format="mjd", scale="tdb"), ephemeris="builtin").xyz.to_value(
            u.au
        )
        line = line - observer
        delay = np.linalg.norm(line) / LIGHT_AU_PER_DAY
    ra, dec = np.rad2deg(np.arctan2(line[1], line[0])) % 360, np.rad2deg(np.arcsin(line[2] / np.linalg.norm(line)))
    seen = observe(orbit, MJD, SITE)
    assert separation_arcsec(seen.ra, seen.dec, np.array([ra]), np.array([dec]))[0] < 0.05


def test_orbits_pass_where_and_as_bright_as_they_must():
    rng = np.random.default_rng(1)
    n = 200
    ra, dec = rng.uniform(5, 20, n), rng.uniform(-5, 12, n)
    mag = rng.uniform(18, 23, n)
    orbits = orbits_through(ra, dec, mag, MJD, AsteroidsConfig(), SITE, rng, 10)
    seen = observe(orbits, MJD, SITE)
    assert separation_arcsec(seen.ra, seen.dec, ra, dec).max() < 0.05
    np.testing.assert_allclose(seen.mag, mag, atol=1e-6)
    assert orbits.semi_major_axis_au.min() > 2.0
    assert orbits.eccentricity.max() < 0.26
    perihelion = orbits.semi_major_axis_au * (1 - orbits.eccentricity)
    aphelion = orbits.semi_major_axis_au * (1 + orbits.eccentricity)
    assert np.all((seen.sun_au > perihelion - 1e-9) & (seen.sun_au < aphelion + 1e-9))


def test_main_belt_at_opposition_moves_west_at_its_usual_rate():
    rng = np.random.default_rng(2)
    n = 300
    orbits = orbits_through(rng.uniform(9, 14, n), rng.uniform(2, 7, n), np.full(n, 20.0), MJD, AsteroidsConfig(), SITE, rng, 10)
    a, b = observe(orbits, MJD, SITE), observe(orbits, MJD + 1 / 24, SITE)
    rate = separation_arcsec(a.ra, a.dec, b.ra, b.dec)
    # Jedicke 1996 (AJ 111, 970): main-belt objects at opposition move 20 to 60 arcsec an hour, nearly all along the ecliptic.
    assert np.mean((rate > 20) & (rate < 60)) > 0.97
    assert 30 < np.median(rate) < 45
    assert np.mean(b.ra < a.ra) > 0.99


def test_near_the_pole_the_inclination_reaches_the_field():
    rng = np.random.default_rng(3)
    orbits = orbits_through(np.array([40.0]), np.array([60.0]), np.array([20.0]), MJD, AsteroidsConfig(), SITE, rng, 1)
    seen = observe(orbits, MJD, SITE)
    assert separation_arcsec(seen.ra, seen.dec, np.array([40.0]), np.array([60.0]))[0] < 0.05
    assert orbits.inclination_deg[0] > 30  # the ecliptic latitude is 42 deg from here, less from the Sun

from __future__ import annotations

import numpy as np

from payloads.orbits import observe
from payloads.simulator.config import AsteroidsConfig, ObservatoryConfig
from payloads.simulator.orbits import orbits_through
from payloads.simulator.wcs import separation_arcsec

SITE = ObservatoryConfig()
MJD = 59_494.2


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

"""Minor planets of a survey: orbits drawn so that they pass through its fields."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from payloads.orbits import ECLIPTIC_TO_ICRS, LIGHT_AU_PER_DAY, Array, Orbits, observe, solve_kepler, sun_and_observer, tdb_of_tai
from payloads.simulator.config import AsteroidsConfig, ObservatoryConfig


@dataclass(frozen=True, kw_only=True)
class Asteroids(Orbits):
    """Orbits with `absolute_mag` in r and `colour` g-r."""

    colour: Array


def orbits_through(
    ra_deg: Array,
    dec_deg: Array,
    mag: Array,
    mjd_tai: float,
    config: AsteroidsConfig,
    observatory: ObservatoryConfig,
    rng: np.random.Generator,
    first_id: int,
) -> Asteroids:
    """Orbits that pass the given positions (n,) at `mjd_tai` with the given magnitudes in r.

    Size, shape and phase of the orbit are drawn; distance and orientation then follow from where it must be seen. The
    inclination is the least that reaches the ecliptic latitude, plus a Rayleigh deviate of 5 degrees, as in the main belt.
    """
    n = len(ra_deg)
    a = rng.uniform(*config.semi_major_axis_au, n)
    e = rng.uniform(0, config.max_eccentricity, n)
    ecc = solve_kepler(rng.uniform(-np.pi, np.pi, n), e)
    r = a * (1 - e * np.cos(ecc))
    sun, observer = sun_and_observer(mjd_tai, observatory)
    ra, dec = np.deg2rad(ra_deg), np.deg2rad(dec_deg)
    sight = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    start = observer - sun
    along = sight @ start
    distance = -along + np.sqrt(np.maximum(along**2 - start @ start + r**2, 0))
    where = (start + distance[:, None] * sight) @ ECLIPTIC_TO_ICRS / r[:, None]  # unit vectors on ecliptic axes
    latitude, longitude = np.arcsin(where[:, 2]), np.arctan2(where[:, 1], where[:, 0])
    inclination = np.minimum(np.abs(latitude) + np.deg2rad(rng.rayleigh(5.0, n)) + 1e-4, np.deg2rad(89.9))
    # sin(latitude) = sin(inclination) sin(argument): ascending or descending half of the orbit, by chance.
    argument = np.arcsin(np.clip(np.sin(latitude) / np.sin(inclination), -1, 1))
    argument = np.where(rng.random(n) < 0.5, argument, np.pi - argument)
    node = longitude - np.arctan2(np.cos(inclination) * np.sin(argument), np.cos(argument))
    true_anomaly = 2 * np.arctan2(np.sqrt(1 + e) * np.sin(ecc / 2), np.sqrt(1 - e) * np.cos(ecc / 2))
    orbits = Asteroids(
        id=first_id + np.arange(n),
        semi_major_axis_au=a,
        eccentricity=e,
        inclination_deg=np.rad2deg(inclination),
        node_deg=np.rad2deg(node) % 360,
        perihelion_deg=np.rad2deg(argument - true_anomaly) % 360,
        mean_anomaly_deg=np.rad2deg(ecc - e * np.sin(ecc)) % 360,
        # The light seen now left earlier: so the elements hold then.
        epoch_mjd=tdb_of_tai(mjd_tai) - distance / LIGHT_AU_PER_DAY,
        absolute_mag=np.zeros(n),
        colour=np.clip(rng.normal(0.6, 0.1, n), 0.3, 0.9),
    )
    return replace(orbits, absolute_mag=mag - observe(orbits, mjd_tai, observatory).mag)

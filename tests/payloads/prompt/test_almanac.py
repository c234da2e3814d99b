"""A night's almanac against every body computed exactly."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from payloads.association import unit_vectors
from payloads.camera import Observatory
from payloads.orbit_catalogue import Catalogue
from payloads.orbits import Orbits, drift_arcsec, observe
from payloads.prompt import almanac as module
from payloads.prompt.almanac import Almanac
from payloads.prompt.settings import PromptSettings

SITE = Observatory(longitude_deg=-70.7367, latitude_deg=-30.2406, height_m=2715)
MIDDLE = 61_000.2
N = 10_000


def random_orbits(n: int = N) -> Orbits:
    """Main belt, bodies that come near Earth or near the Sun, and some of the far ones; elements a week old."""
    rng = np.random.default_rng(3)
    near, far = rng.random(n) < 0.3, rng.random(n) < 0.05
    a = np.where(near, rng.uniform(0.8, 2, n), rng.uniform(2.1, 3.3, n))
    angles = {name: rng.uniform(0, 360, n) for name in ("node_deg", "perihelion_deg", "mean_anomaly_deg")}
    return Orbits(
        id=np.arange(1, n + 1),
        semi_major_axis_au=np.where(far, rng.uniform(20, 60, n), a),
        eccentricity=np.where(near, rng.uniform(0, 0.9, n), rng.uniform(0, 0.3, n)),
        inclination_deg=np.minimum(rng.rayleigh(8, n), 180),
        **angles,
        epoch_mjd=np.full(n, MIDDLE - 7.0),
        absolute_mag=rng.uniform(10, 24, n),
    )


def catalogue(orbits: Orbits, error_arcsec: float = 0.2) -> Catalogue:
    columns = {name: values for name, values in vars(orbits).items() if name != "id"}
    return Catalogue(pa.table({"ssObjectId": orbits.id, **columns, "error_arcsec": np.full(len(orbits.id), error_arcsec)}))


@pytest.fixture(scope="module")
def orbits() -> Orbits:
    return random_orbits()


@pytest.fixture(scope="module")
def almanac(orbits: Orbits) -> Almanac:
    return Almanac.of(
        catalogue(orbits), SITE, MIDDLE, PromptSettings(solar_system_faintest_mag=99, solar_system_error_arcsec=1e9)
    )


@pytest.mark.parametrize("at", [-0.5, -0.2, 0.0, 0.31, 0.5])
@pytest.mark.parametrize("radius_deg", [0.2, 8.0])
def test_exactly_the_bodies_that_stand_in_the_circle_are_found(orbits, almanac, at, radius_deg, monkeypatch):
    monkeypatch.setattr(module, "_STRIP", 3000)
    now = MIDDLE + at
    seen = observe(orbits, now, SITE)
    points = unit_vectors(seen.ra, seen.dec)
    closest = np.argsort(seen.observer_au)[:20]  # these move the most
    found_at_all = 0
    for centre in [*closest.tolist(), *range(0, N, 500)]:
        # Not in the middle of the circle: near its edge, on either side of it.
        dec = float(np.clip(seen.dec[centre] + radius_deg * 0.99, -90, 90))
        ra = float(seen.ra[centre])
        angle = np.degrees(2 * np.arcsin(np.linalg.norm(points - unit_vectors(np.array([ra]), np.array([dec])), axis=1) / 2))
        inside = np.flatnonzero(angle <= radius_deg)
        bodies = almanac.bodies(ra, dec, radius_deg, now)
        assert bodies.id.tolist() == orbits.id[inside].tolist()
        np.testing.assert_allclose(bodies.ra, seen.ra[inside], rtol=0, atol=1e-8)
        np.testing.assert_allclose(bodies.dec, seen.dec[inside], rtol=0, atol=1e-8)
        found_at_all += len(inside)
    assert found_at_all > 40


def test_few_are_computed_exactly_however_many_there_are(almanac):
    """Of bodies all over the ecliptic, about those within a degree of a small circle."""
    rows = [len(almanac.near(ra, 0.0, 0.2)) for ra in range(0, 360, 30)]
    assert np.mean(rows) < 0.01 * N


def test_what_is_kept_of_a_body_is_eighty_bytes(almanac):
    kept = [*(values for name, values in vars(almanac.orbits).items() if name != "epoch_mjd")]
    kept += [almanac.error_arcsec, almanac.place, almanac.reach]
    assert sum(values.nbytes for values in kept) <= 80 * N


def test_too_faint_and_too_uncertain_bodies_are_left_out_and_counted(orbits):
    settings = PromptSettings(solar_system_faintest_mag=22.0, solar_system_error_arcsec=1.0)
    made = Almanac.of(catalogue(orbits), SITE, MIDDLE, settings)
    seen = observe(orbits, MIDDLE, SITE)
    error = np.hypot(0.2, drift_arcsec(7.0, seen.observer_au))
    bright = seen.mag <= 22.0
    assert made.orbits.id.tolist() == orbits.id[bright & (error <= 1.0)].tolist()
    assert (made.too_faint, made.too_uncertain) == ((~bright).sum(), (bright & (error > 1.0)).sum())
    assert made.too_uncertain > 0
    np.testing.assert_allclose(made.error_arcsec, error[bright & (error <= 1.0)], rtol=1e-3)


def test_elements_of_last_season_predict_nothing_in_the_main_belt():
    belt = random_orbits(2000)
    belt = belt.at((belt.semi_major_axis_au > 2) & (belt.semi_major_axis_au < 4))
    kept = []
    for days in (0, 20, 100):
        old = Orbits(**{**vars(belt), "epoch_mjd": np.full(len(belt.id), MIDDLE - days)})
        kept.append(len(Almanac.of(catalogue(old), SITE, MIDDLE, PromptSettings(solar_system_faintest_mag=99)).error_arcsec))
    assert kept[0] == len(belt.id)
    assert kept[1] > 0.95 * kept[0]
    assert kept[2] == 0


def test_a_time_of_another_night_is_no_question_for_it(almanac):
    assert not almanac.covers(MIDDLE + 0.6)
    with pytest.raises(ValueError, match="not within half a day"):
        almanac.bodies(10.0, 0.0, 0.2, MIDDLE + 0.6)

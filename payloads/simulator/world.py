"""Everything of a survey that is the same for all its frames: sky, camera, schedule; from the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from payloads.camera import Camera
from payloads.simulator.camera import build_camera
from payloads.simulator.config import SurveyConfig
from payloads.simulator.exposures import Planned, schedule
from payloads.simulator.orbits import Asteroids, orbits_through
from payloads.simulator.sky import Galaxies, Stars, make_galaxies, make_stars
from payloads.simulator.streams import Stream, stream
from payloads.simulator.transients import Transients, make_transients, positions_in_detectors


@dataclass(frozen=True, kw_only=True)
class World:
    """A survey's sky, camera and schedule."""

    survey: SurveyConfig
    camera: Camera
    planned: list[Planned]
    stars: Stars
    galaxies: Galaxies
    transients: Transients
    asteroids: Asteroids

    def exposure(self, exposure: int) -> Planned:
        """The planned exposure of that id."""
        for planned in self.planned:
            if planned.id == exposure:
                return planned
        raise KeyError(f"the survey has no exposure {exposure}")


def _asteroids(survey: SurveyConfig, camera: Camera, planned: list[Planned]) -> Asteroids:
    """For every field and night, some orbits that stand on its detectors at the middle of its visits."""
    c = survey.asteroids
    parts: list[Asteroids] = []
    count = 0
    for night in range(survey.nights.count):
        for number, field in enumerate(survey.fields):
            visits = [e for e in planned if e.field == number and e.night == night]
            n = c.per_field_night if visits else 0
            rng = stream(survey.seed, Stream.ASTEROIDS, night, number)
            ra, dec = positions_in_detectors(survey, camera, field, n, rng)
            middle = 0.5 * (visits[0].mjd_mid + visits[-1].mjd_mid) if visits else planned[0].mjd_mid
            parts.append(orbits_through(ra, dec, rng.uniform(*c.mag, n), middle, c, survey.observatory, rng, 4_000_000 + count))
            count += n
    return Asteroids(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in Asteroids.__dataclass_fields__})


def make_world(survey: SurveyConfig) -> World:
    """The world of a survey; a function of its configuration and seed."""
    camera = build_camera(survey)
    planned = schedule(survey)
    galaxies = make_galaxies(survey)
    return World(
        survey=survey,
        camera=camera,
        planned=planned,
        stars=make_stars(survey),
        galaxies=galaxies,
        transients=make_transients(survey, camera, galaxies, planned),
        asteroids=_asteroids(survey, camera, planned),
    )

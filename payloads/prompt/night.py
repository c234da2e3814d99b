"""The almanac of a night, for workers and batch alike. Apart: what processes a frame needs no repository."""

from __future__ import annotations

import logging

from payloads.camera import Camera
from payloads.observations import day_row
from payloads.orbit_catalogue import Catalogue
from payloads.prompt.almanac import HALF_NIGHT_D, Almanac
from payloads.prompt.settings import PromptSettings

_LOG = logging.getLogger(__name__)


def night_almanac(catalogue: Catalogue | None, camera: Camera, day_obs: int, settings: PromptSettings) -> Almanac | None:
    """Of an observing day of a camera; None, with the reason in the log, where nothing can be predicted."""
    if camera.observatory is None:
        _LOG.warning("no body of the Solar System is predicted: the description of camera %s has no `observatory`", camera.name)
        return None
    if catalogue is None:
        _LOG.warning("no body of the Solar System is predicted: the repository has no orbits (`pachon orbits TABLE`)")
        return None
    middle = day_row(camera, day_obs)["timespan"].begin.tai.mjd + HALF_NIGHT_D
    almanac = Almanac.of(catalogue, camera.observatory, float(middle), settings)
    _LOG.log(
        logging.WARNING if almanac.too_uncertain > len(almanac.error_arcsec) else logging.INFO,
        "orbits of %d bodies; %d are too faint, and of %d the orbits are too old or too uncertain: newer ones are better",
        len(almanac.error_arcsec),
        almanac.too_faint,
        almanac.too_uncertain,
    )
    return almanac

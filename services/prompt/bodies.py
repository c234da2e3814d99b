"""Bodies of the Solar System for one night: the newest orbits of the repository, as an almanac for where the telescope stands."""

from __future__ import annotations

import pyarrow as pa
from lsst.daf.butler import Butler

from payloads.camera import Camera
from payloads.orbit_catalogue import newest_orbits
from payloads.prompt.almanac import Almanac
from payloads.prompt.night import night_almanac
from payloads.prompt.settings import PromptSettings


def almanac_of(butler: Butler, camera: Camera, day_obs: int, settings: PromptSettings) -> Almanac | None:
    """Of an observing day; None, with the reason in the log, where nothing can be predicted."""
    almanac = night_almanac(newest_orbits(butler), camera, day_obs, settings)
    pa.default_memory_pool().release_unused()  # it would keep as much as the catalogue for the worker's whole life
    return almanac

"""Bodies of the Solar System among the sources of a frame, where the repository has orbits."""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
from astropy.table import Table
from lsst.pex.config import Config, Field
from lsst.pipe.base import connectionTypes as cT

from payloads.camera import Camera
from payloads.orbit_catalogue import Catalogue
from payloads.prompt.almanac import Almanac
from payloads.prompt.known import name_frame
from payloads.prompt.night import night_almanac
from payloads.prompt.settings import PromptSettings
from payloads.repository import ORBITS

_LOG = logging.getLogger(__name__)
_DEFAULT = PromptSettings()
_kept: dict[tuple[Any, ...], Almanac | None] = {}
"""Of the night asked for last: a job's frames are mostly of one, and a catalogue may have a million orbits."""

ORBITS_INPUT = cT.PrerequisiteInput(
    doc="orbits of known bodies, the newest", name=ORBITS[0], storageClass=ORBITS[2], dimensions=(), minimum=0, deferLoad=True
)


class BodiesConfig(Config):
    """Which predictions are worth having, and how near is the same; as prompt workers have it."""

    radius_arcsec = Field[float](
        doc="a source nearer than this to a predicted body is that body", default=_DEFAULT.solar_system_radius_arcsec
    )
    faintest_mag = Field[float](doc="fainter bodies are not predicted", default=_DEFAULT.solar_system_faintest_mag)
    error_arcsec = Field[float](doc="bodies predicted worse (1 sigma) are left out", default=_DEFAULT.solar_system_error_arcsec)

    def settings(self) -> PromptSettings:
        """As the functions take them."""
        return PromptSettings(
            solar_system_radius_arcsec=self.radius_arcsec,
            solar_system_faintest_mag=self.faintest_mag,
            solar_system_error_arcsec=self.error_arcsec,
        )


def name_known(sources: Table, orbits: Any, camera: Camera, day_obs: int, settings: PromptSettings) -> int | None:
    """Name the bodies among a frame's sources, in place; `orbits` is a handle. How many they are; None: nothing is predicted."""
    almanac = _almanac(orbits, camera, day_obs, settings)
    if almanac is None:
        return None
    if len(sources) and not almanac.covers(float(sources["midpointMjdTai"][0])):
        _LOG.warning("MJD %.5f is not of day %d: no body is predicted", sources["midpointMjdTai"][0], day_obs)
        return None
    return name_frame(sources, almanac, settings)


def _almanac(orbits: Any, camera: Camera, day_obs: int, settings: PromptSettings) -> Almanac | None:
    key = orbits.ref.id, camera.name, camera.observatory, camera.day_obs_offset_h, day_obs, settings
    if key not in _kept:
        _kept.clear()
        _kept[key] = night_almanac(Catalogue(orbits.get(storageClass="ArrowTable")), camera, day_obs, settings)
        pa.default_memory_pool().release_unused()
    return _kept[key]

"""Where the bodies of a catalogue stand in one night: cheap to ask for a million of them, exact for those that are near."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from payloads.association import unit_vectors
from payloads.camera import Observatory
from payloads.orbit_catalogue import Catalogue
from payloads.orbits import GAUSS_K, Array, Orbits, drift_arcsec, observe, tdb_of_tai
from payloads.prompt.preloaded import Bodies
from payloads.prompt.settings import PromptSettings

HALF_NIGHT_D = 0.5
_OBSERVER_AU_D = 0.0179
"""Earth at perihelion, and its rotation at the equator."""
_FASTER_AU_D = 0.002
"""What the Sun adds to a body's speed in half a day, from 0.3 au outwards; nobody sees what is nearer to it."""
_STRIP = 1 << 15
"""Bodies looked at at a time: what that takes stays in the processor's cache."""
_ROUNDING = 1e-6
"""Radians; of places in single precision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Almanac:
    """The bodies that may be seen within half a day of `middle_mjd_tai` (n,): 80 bytes each.

    `orbits` have their epoch there. `place` (3, n) are unit vectors then, `reach` radians that no body leaves: the speeds of body
    and Earth added, over half a day, from the distance that it has. Left out are `too_faint` and `too_uncertain` others.
    """

    observatory: Observatory
    middle_mjd_tai: float
    orbits: Orbits
    error_arcsec: NDArray[np.float32]
    place: NDArray[np.float32]
    reach: NDArray[np.float32]
    too_faint: int
    too_uncertain: int

    @classmethod
    def of(cls, catalogue: Catalogue, observatory: Observatory, middle_mjd_tai: float, settings: PromptSettings) -> Almanac:
        """Of a catalogue that is not empty."""
        kept, too_faint, too_uncertain = 0, 0, 0
        # Of arrays as long as the catalogue what is not written to takes no memory; parts joined would leave gaps in the heap.
        columns: dict[str, NDArray[np.generic]] = {}
        for orbits, error in catalogue:
            part, faint, uncertain = _part(orbits, error, observatory, middle_mjd_tai, settings)
            too_faint, too_uncertain = too_faint + faint, too_uncertain + uncertain
            end = kept + len(part["id"])
            for name, values in part.items():
                if name not in columns:
                    columns[name] = np.empty((*values.shape[:-1], len(catalogue)), values.dtype)
                columns[name][..., kept:end] = values
            kept = end
        columns = {name: values[..., :kept] for name, values in columns.items()}
        own = {name: columns.pop(name) for name in ("error_arcsec", "place", "reach")}
        # One number for all of them, and no memory.
        epoch = np.broadcast_to(np.float64(tdb_of_tai(middle_mjd_tai)), kept)
        return cls(
            observatory=observatory,
            middle_mjd_tai=middle_mjd_tai,
            orbits=Orbits(**columns, epoch_mjd=epoch),
            **own,
            too_faint=too_faint,
            too_uncertain=too_uncertain,
        )

    def near(self, ra_deg: float, dec_deg: float, radius_deg: float) -> NDArray[np.intp]:
        """Rows of all bodies that are within a circle (ICRS) at any time of the night, and of some that are not."""
        point = unit_vectors(np.array([ra_deg]), np.array([dec_deg]))[0].astype(np.float32)
        radius, found = np.float32(np.radians(radius_deg)), [np.zeros(0, np.intp)]
        for first in range(0, len(self.reach), _STRIP):
            part = slice(first, first + _STRIP)
            away = np.square(self.place[:, part] - point[:, None]).sum(axis=0)
            found.append(np.flatnonzero(away <= np.square(self.reach[part] + radius)) + first)
        return np.concatenate(found)

    def covers(self, mjd_tai: float) -> bool:
        """Whether a time is of the night."""
        return abs(mjd_tai - self.middle_mjd_tai) <= HALF_NIGHT_D

    def bodies(self, ra_deg: float, dec_deg: float, radius_deg: float, mjd_tai: float) -> Bodies:
        """Predictions within a circle (ICRS) at a time of the night; ValueError for any other."""
        if not self.covers(mjd_tai):
            raise ValueError(f"MJD {mjd_tai} is not within half a day of {self.middle_mjd_tai}")
        rows = self.near(ra_deg, dec_deg, radius_deg)
        seen = observe(self.orbits.at(rows), mjd_tai, self.observatory)
        point = unit_vectors(np.array([ra_deg]), np.array([dec_deg]))
        chord = np.linalg.norm(unit_vectors(seen.ra, seen.dec) - point, axis=1)
        inside = chord <= 2 * np.sin(np.radians(min(radius_deg, 180.0)) / 2)
        rows = rows[inside]
        return Bodies(
            id=self.orbits.id[rows],
            ra=seen.ra[inside],
            dec=seen.dec[inside],
            error_arcsec=self.error_arcsec[rows].astype(float),
        )


def _part(
    orbits: Orbits, error: Array, observatory: Observatory, middle_mjd_tai: float, settings: PromptSettings
) -> tuple[dict[str, NDArray[np.generic]], int, int]:
    """Columns of those that are kept, and how many are too faint, or else too uncertain."""
    seen = observe(orbits, middle_mjd_tai, observatory)
    middle = tdb_of_tai(middle_mjd_tai)
    days = middle - orbits.epoch_mjd
    error = np.hypot(error, drift_arcsec(days, seen.observer_au))
    bright = seen.mag <= settings.solar_system_faintest_mag
    keep = bright & (error <= settings.solar_system_error_arcsec)
    a = orbits.semi_major_axis_au
    speed = GAUSS_K * np.sqrt(np.maximum(2 / seen.sun_au - 1 / a, 0)) + _OBSERVER_AU_D + _FASTER_AU_D
    part = speed * HALF_NIGHT_D / seen.observer_au
    reach = np.where(part < 1, np.arcsin(np.minimum(part, 1)), np.pi) + _ROUNDING
    mean = (orbits.mean_anomaly_deg + np.rad2deg(GAUSS_K * a**-1.5 * days)) % 360
    moved = replace(orbits, mean_anomaly_deg=mean).at(keep)
    columns = {name: value for name, value in vars(moved).items() if name != "epoch_mjd"}
    columns["absolute_mag"] = moved.absolute_mag.astype(np.float32)
    columns["error_arcsec"] = error[keep].astype(np.float32)
    columns["place"] = unit_vectors(seen.ra[keep], seen.dec[keep]).T.astype(np.float32)
    columns["reach"] = reach[keep].astype(np.float32)
    return columns, int((~bright).sum()), int((bright & ~keep).sum())

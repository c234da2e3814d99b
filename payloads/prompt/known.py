"""Sources of a visit against what is known of the sky: objects, and bodies of the Solar System, at night and in batch alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table, vstack
from scipy.spatial import cKDTree

from payloads.association import AssociationConfig, join, summarise, unit_vectors
from payloads.prompt.preloaded import Bodies, KnownObjects
from payloads.prompt.settings import PromptSettings

if TYPE_CHECKING:
    from payloads.prompt.almanac import Almanac

OF_BODIES = ("ssObjectId", "ephRa", "ephDec", "ephOffset")
"""Columns that sources get from predictions."""
_ARCSEC = np.radians(1 / 3600)


def associate_visit(sources: Table, known: KnownObjects, bodies: Bodies, settings: PromptSettings) -> Table:
    """Give the sources of one visit `ssObjectId` and `diaObjectId` (0: none), in place; returns the objects that they touch.

    A source that is a predicted body belongs to no object, and gets the prediction: `ephRa`, `ephDec` (ICRS degrees), `ephOffset`
    (arcsec from it); NaN for others. Objects are summarised anew from their history and these sources.
    """
    still = ~name_bodies(sources, bodies, settings.solar_system_radius_arcsec)
    config = AssociationConfig(radius_arcsec=settings.association_radius_arcsec, min_reliability=settings.association_reliability)
    names = np.asarray(known.objects["diaObjectId"], np.int64)
    objects = np.zeros(len(sources), np.int64)
    objects[still] = join(sources[still], names, known.tree, config)
    sources["diaObjectId"] = objects
    return touched(sources, known)


def name_frame(sources: Table, almanac: Almanac, settings: PromptSettings) -> int:
    """Give the sources of one frame the bodies that the night's almanac has at their time, in place; how many are bodies.

    Asked for is the circle around the sources in which a body can be one of them, which leaves out none that is.
    """
    bodies = Bodies.none()
    if len(sources):
        points = _points(sources)
        middle = points.mean(axis=0) / np.linalg.norm(points.mean(axis=0))
        reach_arcsec = settings.solar_system_radius_arcsec + 3.0 * settings.solar_system_error_arcsec
        radius = 2 * np.arcsin(np.linalg.norm(points - middle, axis=1).max() / 2) + reach_arcsec * _ARCSEC
        ra, dec = np.degrees(np.arctan2(middle[1], middle[0])) % 360, np.degrees(np.arcsin(middle[2]))
        bodies = almanac.bodies(ra, dec, float(np.degrees(radius)), float(sources["midpointMjdTai"][0]))
    return int(name_bodies(sources, bodies, settings.solar_system_radius_arcsec).sum())


def name_bodies(sources: Table, bodies: Bodies, radius_arcsec: float) -> np.ndarray:
    """Give the sources of one frame the columns OF_BODIES, in place; which of them are bodies."""
    body = bodies_of(sources, bodies, radius_arcsec)
    rows = np.flatnonzero(body >= 0)
    mine = body[rows]
    chord = np.linalg.norm(_points(sources)[rows] - unit_vectors(bodies.ra[mine], bodies.dec[mine]), axis=1)
    known = (bodies.id[mine], bodies.ra[mine], bodies.dec[mine], chord / _ARCSEC)
    _name_none(sources)
    for name, values in zip(OF_BODIES, known, strict=True):
        sources[name][rows] = values
    return body >= 0


def with_bodies(sources: Table) -> Table:
    """The table with the columns OF_BODIES: of frames that no prediction was made for, without any body."""
    if OF_BODIES[0] in sources.colnames:
        return sources
    sources = sources.copy(copy_data=False)
    _name_none(sources)
    return sources


def _name_none(sources: Table) -> None:
    for name in OF_BODIES:
        sources[name] = np.zeros(len(sources), np.int64) if name == "ssObjectId" else np.full(len(sources), np.nan)


def bodies_of(sources: Table, bodies: Bodies, radius_arcsec: float) -> np.ndarray:
    """Which of the bodies each source is (-1: none): each body's nearest source within the radius and three times the
    prediction's error."""
    result = np.full(len(sources), -1)
    if not len(sources) or not len(bodies.id):
        return result
    reach = radius_arcsec + 3.0 * bodies.error_arcsec
    distance, nearest = cKDTree(_points(sources)).query(unit_vectors(bodies.ra, bodies.dec))
    order = np.argsort(-distance)  # of several bodies at one source the nearest comes last, and stays
    close = order[distance[order] < reach[order] * _ARCSEC]
    result[nearest[close]] = close
    return result


def _points(sources: Table) -> np.ndarray:
    return unit_vectors(np.asarray(sources["ra"], float), np.asarray(sources["dec"], float))


def touched(sources: Table, known: KnownObjects) -> Table:
    """dia_object rows of the objects that these sources belong to, from their whole history."""
    mine = sources[np.asarray(sources["diaObjectId"]) != 0]
    if not len(mine):
        return summarise(mine, np.asarray(mine["diaObjectId"], np.int64))
    past = known.sources
    if len(past):
        past = past[np.isin(np.asarray(past["diaObjectId"], np.int64), np.asarray(mine["diaObjectId"], np.int64))]
        mine = vstack([past, mine], metadata_conflicts="silent", join_type="inner")
    return summarise(mine, np.asarray(mine["diaObjectId"], np.int64))

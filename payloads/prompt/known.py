"""Sources of a visit against what is known of the sky: objects, and bodies of the Solar System."""

from __future__ import annotations

import numpy as np
from astropy.table import Table, vstack
from scipy.spatial import cKDTree

from payloads.association import AssociationConfig, join, summarise, unit_vectors
from payloads.prompt.preloaded import Bodies, KnownObjects
from payloads.prompt.settings import PromptSettings

OF_BODIES = ("ssObjectId", "ephRa", "ephDec", "ephOffset")
"""Columns that sources get from predictions."""
_ARCSEC = np.radians(1 / 3600)


def associate_visit(sources: Table, known: KnownObjects, bodies: Bodies, settings: PromptSettings) -> Table:
    """Give the sources of one visit `ssObjectId` and `diaObjectId` (0: none), in place; returns the objects that they touch.

    A source that is a predicted body belongs to no object, and gets the prediction: `ephRa`, `ephDec` (ICRS degrees), `ephOffset`
    (arcsec from it); NaN for others. Objects are summarised anew from their history and these sources.
    """
    body = bodies_of(sources, bodies, settings.solar_system_radius_arcsec)
    config = AssociationConfig(radius_arcsec=settings.association_radius_arcsec, min_reliability=settings.association_reliability)
    names = np.asarray(known.objects["diaObjectId"], np.int64)
    objects = np.zeros(len(sources), np.int64)
    still = body < 0
    objects[still] = join(sources[still], names, known.tree, config)
    _name_bodies(sources, bodies, body)
    sources["diaObjectId"] = objects
    return touched(sources, known)


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


def _name_bodies(sources: Table, bodies: Bodies, body: np.ndarray) -> None:
    rows = np.flatnonzero(body >= 0)
    mine = body[rows]
    chord = np.linalg.norm(_points(sources)[rows] - unit_vectors(bodies.ra[mine], bodies.dec[mine]), axis=1)
    known = (bodies.id[mine], bodies.ra[mine], bodies.dec[mine], chord / _ARCSEC)
    for name, values in zip(OF_BODIES, known, strict=True):
        sources[name] = np.zeros(len(sources), np.int64) if name == "ssObjectId" else np.full(len(sources), np.nan)
        sources[name][rows] = values


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

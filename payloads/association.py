"""DIASources seen at one place of the sky, at any time, are one DIAObject.

Sources are taken visit by visit in order of time, as the nightly processing meets them: a source joins the object that is its
mutual nearest neighbour within the radius, otherwise it founds a new one. An object therefore gets at most one source of a visit,
and a later night never renames an object of an earlier one: its id is that of the source that founded it (ids of sources never
repeat, and no other object can have that one). The order in which the tables come does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class AssociationConfig:
    """Which sources make objects, and how close is the same place."""

    radius_arcsec: float = 1.0
    min_reliability: float = 0.1  # less reliable sources neither found nor join objects


def unit_vectors(ra_deg: Floats, dec_deg: Floats) -> Floats:
    """Points (n, 3) on the unit sphere; chords between them are angles as long as angles are small."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def mutual_nearest(one: Floats, other: Floats, limit: float) -> tuple[Ints, Ints]:
    """Indices of pairs, one of each set of points (n, 3), (m, 3), that are each other's nearest and within `limit`."""
    if not len(one) or not len(other):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    tree = cKDTree(other)
    distance, there = tree.query(one, distance_upper_bound=limit)
    near = np.flatnonzero(np.isfinite(distance))
    _, back = cKDTree(one).query(other[there[near]])
    mutual = back == near
    return near[mutual], there[near[mutual]]


def associate(sources: Table, config: AssociationConfig | None = None) -> Ints:
    """Objects (diaObjectId) of every row of `sources` (0: too unreliable for any).

    Needs columns `diaSourceId visit ra dec reliability midpointMjdTai`.
    """
    config = config or AssociationConfig()
    n = len(sources)
    ids = np.asarray(sources["diaSourceId"], np.int64)
    founder = np.zeros(n, np.int64)
    if not n:
        return founder
    points = unit_vectors(np.asarray(sources["ra"], float), np.asarray(sources["dec"], float))
    limit = 2 * np.sin(np.radians(config.radius_arcsec / 3600) / 2)
    sums, counts, names = np.zeros((n, 3)), np.zeros(n, np.int64), np.zeros(n, np.int64)  # of objects, grown in place
    known = 0
    for rows in _visits(sources, config.min_reliability):
        mine, theirs = mutual_nearest(points[rows], sums[:known] / np.maximum(counts[:known, None], 1), limit)
        object_of = np.full(len(rows), -1)
        object_of[mine] = theirs
        new = np.flatnonzero(object_of < 0)
        object_of[new] = known + np.arange(len(new))
        names[known : known + len(new)] = ids[rows[new]]
        known += len(new)
        sums[object_of] += points[rows]
        counts[object_of] += 1
        founder[rows] = names[object_of]
    return founder


def join(sources: Table, names: Ints, tree: cKDTree | None, config: AssociationConfig | None = None) -> Ints:
    """Objects of the sources of one visit, given those known: `names` (m,) diaObjectId, `tree` of their unit vectors.

    What `associate` does with the last of many visits, without the others: the mutually nearest within the radius, else a new
    object with the source's own id; 0 for what is too unreliable. The cost grows with the sources, not with what is known.
    """
    config = config or AssociationConfig()
    result = np.zeros(len(sources), np.int64)
    rows = np.flatnonzero(np.asarray(sources["reliability"]) >= config.min_reliability)
    if not len(rows):
        return result
    result[rows] = np.asarray(sources["diaSourceId"], np.int64)[rows]
    if tree is None:
        return result
    points = unit_vectors(np.asarray(sources["ra"], float)[rows], np.asarray(sources["dec"], float)[rows])
    distance, there = tree.query(points, distance_upper_bound=2 * np.sin(np.radians(config.radius_arcsec / 3600) / 2))
    near = np.flatnonzero(np.isfinite(distance))
    _, back = cKDTree(points).query(tree.data[there[near]])
    mutual = near[back == near]
    result[rows[mutual]] = names[there[mutual]]
    return result


def _visits(sources: Table, min_reliability: float) -> Iterator[Ints]:
    """Rows of each visit, visits in order of time, rows in order of id."""
    usable = np.flatnonzero(np.asarray(sources["reliability"]) >= min_reliability)
    time, visit, ids = (np.asarray(sources[name])[usable] for name in ("midpointMjdTai", "visit", "diaSourceId"))
    starts = {int(v): float(time[visit == v].min()) for v in np.unique(visit)}
    first = np.array([starts[int(v)] for v in visit])
    order = np.lexsort((ids, visit, first))
    edges = np.flatnonzero(np.diff(visit[order])) + 1
    for group in np.split(usable[order], edges):
        if len(group):
            yield group


def summarise(sources: Table, object_ids: Ints) -> Table:
    """One row per object: `diaObjectId ra dec raErr decErr nDiaSources firstDiaSourceMjdTai lastDiaSourceMjdTai`, and per band
    `<band>_psfFluxMean …MeanErr …Sigma …Ndata …Min …Max …ErrMean` [nJy] (NaN, 0 where there is none).

    Positions and fluxes are means weighted by inverse variance.
    """
    known = np.flatnonzero(object_ids != 0)
    names, index = np.unique(object_ids[known], return_inverse=True)
    size = len(names)

    def total(values: Floats) -> Floats:
        return np.bincount(index, weights=values, minlength=size)

    def column(name: str) -> Floats:
        return np.asarray(sources[name], float)[known]

    table = Table({"diaObjectId": names.astype(np.int64)})
    ra0 = np.zeros(size)
    ra0[index[::-1]] = column("ra")[::-1]  # any source's: means are taken relative to it, so that 0h is no seam
    offset = (column("ra") - ra0[index] + 180) % 360 - 180
    for name, value, shift in (("ra", offset, ra0), ("dec", column("dec"), np.zeros(size))):
        weight = 1 / np.maximum(column(f"{name}Err"), 1e-9) ** 2
        table[name] = shift + total(value * weight) / total(weight)
        table[f"{name}Err"] = (1 / np.sqrt(total(weight))).astype(np.float32)
    table["ra"] %= 360
    time = column("midpointMjdTai")
    first, last = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(first, index, time)
    np.maximum.at(last, index, time)
    table["firstDiaSourceMjdTai"], table["lastDiaSourceMjdTai"] = first, last
    table["nDiaSources"] = np.bincount(index, minlength=size).astype(np.int32)
    bands = np.asarray(sources["band"], str)[known]
    for band in np.unique(bands):
        _band_statistics(table, band, index[bands == band], column("psfFlux")[bands == band], column("psfFluxErr")[bands == band])
    return table


def _band_statistics(table: Table, band: str, index: Ints, flux: Floats, error: Floats) -> None:
    """Adds a band's columns."""
    size = len(table)
    weight = 1 / np.maximum(error, 1e-9) ** 2
    count = np.bincount(index, minlength=size)
    some, several = count > 0, count > 1
    total = np.bincount(index, weights=weight, minlength=size)
    mean = np.divide(np.bincount(index, weights=flux * weight, minlength=size), total, out=np.full(size, np.nan), where=some)
    scatter = np.bincount(index, weights=(flux - mean[index]) ** 2, minlength=size)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, index, flux)
    np.maximum.at(high, index, flux)
    values = {
        "Mean": mean,
        "MeanErr": np.divide(1, np.sqrt(total), out=np.full(size, np.nan), where=some),
        "Sigma": np.sqrt(np.divide(scatter, count - 1, out=np.full(size, np.nan), where=several)),
        "Min": np.where(some, low, np.nan),
        "Max": np.where(some, high, np.nan),
        "ErrMean": np.divide(np.bincount(index, weights=error, minlength=size), count, out=np.full(size, np.nan), where=some),
    }
    for name, value in values.items():
        table[f"{band}_psfFlux{name}"] = value.astype(np.float32)
    table[f"{band}_psfFluxNdata"] = count.astype(np.int32)

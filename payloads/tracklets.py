"""Tracklets: DIASources of one night that move together along a straight line at a constant rate.

Pairs of sources of two exposures whose rate and brightness allow it are seeds (as in Kubica et al. 2007). Each seed grows
through all other exposures: a KD-tree of the exposure is asked for the source nearest to where the line fitted so far predicts
the body, and the fit is updated; all seeds do so at once. The sets that come out are tested by chi square in position (a great
circle at constant rate) and brightness, and taken the longest first, then the best fitting, each source in one tracklet only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import chi2 as chi2_distribution

from backbone.errors import PermanentError
from payloads.association import unit_vectors

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TrackletConfig:
    """What counts as one moving body."""

    min_rate_deg_day: float = 0.02
    max_rate_deg_day: float = 1.0
    min_sources: int = 3
    min_reliability: float = 0.5
    position_error_arcsec: float = 0.1  # added to each source's own, for the astrometry
    flux_error_fraction: float = 0.3  # scatter of a body's brightness, added to each source's own error
    chi2_probability: float = 1e-3  # a set less probable than this under its fit is not one body
    search_sigma: float = 4.0  # around a prediction
    seed_reach: int = 3  # a seed pairs an exposure with one of its next so many
    max_gap_day: float = 0.25  # … not farther apart in time
    max_seeds: int = 5_000_000


class TooManySeeds(PermanentError):
    """More pairs than memory allows: the rate limits, or the reliability cut, are too wide for these sources."""


def project(ra_deg: Floats, dec_deg: Floats, ra0_deg: Floats, dec0_deg: Floats) -> tuple[Floats, Floats]:
    """Gnomonic plane about (ra0, dec0), in degrees, x to the east: great circles become straight lines. All arrays broadcast."""
    ra, dec, dec0 = np.radians(ra_deg - ra0_deg), np.radians(dec_deg), np.radians(dec0_deg)
    cosine = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra)
    x = np.cos(dec) * np.sin(ra) / cosine
    y = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra)) / cosine
    return np.degrees(x), np.degrees(y)


def unproject(x_deg: Floats, y_deg: Floats, ra0_deg: Floats, dec0_deg: Floats) -> tuple[Floats, Floats]:
    """Inverse of `project`."""
    x, y, dec0 = np.radians(x_deg), np.radians(y_deg), np.radians(dec0_deg)
    ra = np.arctan2(x, np.cos(dec0) - y * np.sin(dec0))
    dec = np.arctan2((np.sin(dec0) + y * np.cos(dec0)) * np.cos(ra), np.cos(dec0) - y * np.sin(dec0))
    return (np.degrees(ra) + ra0_deg) % 360, np.degrees(dec)


@dataclass(frozen=True)
class _Night:
    """The usable sources of a night as arrays, and the rows of each exposure, exposures in order of time."""

    rows: Ints
    time: Floats
    ra: Floats
    dec: Floats
    error: Floats  # deg, both coordinates
    flux: Floats
    flux_error: Floats
    exposures: list[Ints]
    trees: list[cKDTree]

    @classmethod
    def of(cls, sources: Table, usable: Ints, config: TrackletConfig) -> _Night:
        def column(name: str) -> Floats:
            return np.asarray(sources[name], float)[usable]

        visit = np.asarray(sources["visit"])[usable]
        time, ra, dec, flux = column("midpointMjdTai"), column("ra"), column("dec"), column("psfFlux")
        names = sorted(np.unique(visit), key=lambda v: (time[visit == v].min(), v))
        exposures = [np.flatnonzero(visit == v) for v in names]
        points = unit_vectors(ra, dec)
        return cls(
            rows=usable,
            time=time,
            ra=ra,
            dec=dec,
            error=np.hypot(np.hypot(column("raErr"), column("decErr")) / np.sqrt(2), config.position_error_arcsec / 3600),
            flux=flux,
            flux_error=np.hypot(column("psfFluxErr"), config.flux_error_fraction * np.abs(flux)),
            exposures=exposures,
            trees=[cKDTree(points[rows]) for rows in exposures],
        )


class _Lines:
    """Straight lines at constant rate through growing sets of sources, all fitted at once.

    `members` (n_lines, n_exposures): a source's index or -1. Positions are in the tangent plane about each line's first source,
    times relative to it. The sums are those of weighted linear regression.
    """

    def __init__(self, night: _Night, first: Ints) -> None:
        self.night = night
        self.ra0, self.dec0, self.time0 = night.ra[first], night.dec[first], night.time[first]
        self.members = np.full((len(first), len(night.exposures)), -1)
        self.sums = np.zeros((7, len(first)))  # of w, wt, wtt, wx, wxt, wy, wyt
        self.flux = np.zeros((2, len(first)))  # of w f and w

    def add(self, lines: Ints, exposure: int, sources: Ints) -> None:
        """Source by source to line by line."""
        n = self.night
        self.members[lines, exposure] = sources
        t = n.time[sources] - self.time0[lines]
        x, y = project(n.ra[sources], n.dec[sources], self.ra0[lines], self.dec0[lines])
        w = 1 / n.error[sources] ** 2
        self.sums[:, lines] += w * np.array([np.ones_like(t), t, t * t, x, x * t, y, y * t])
        weight = 1 / n.flux_error[sources] ** 2
        self.flux[:, lines] += np.array([weight * n.flux[sources], weight])

    def fit(self, lines: Ints | slice = slice(None)) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """(x, y) at the line's time zero, rates (x, y) per day, determinant of the regression."""
        s, t, tt, x, xt, y, yt = self.sums[:, lines]
        det = np.maximum(s * tt - t * t, 1e-300)
        return (tt * x - t * xt) / det, (tt * y - t * yt) / det, (s * xt - t * x) / det, (s * yt - t * y) / det, det

    def extend(self, lines: Ints, exposure: int, config: TrackletConfig) -> None:
        """Give each of `lines` the source of an exposure nearest to its prediction, if one is near and bright enough."""
        n, rows = self.night, self.night.exposures[exposure]
        if not len(lines) or not len(rows):
            return
        x, y, vx, vy, det = self.fit(lines)
        t = float(np.median(n.time[rows])) - self.time0[lines]
        s, st, stt = self.sums[:3, lines]
        variance = (stt - 2 * t * st + t * t * s) / det
        ra, dec = unproject(x + vx * t, y + vy * t, self.ra0[lines], self.dec0[lines])
        limit = config.search_sigma * np.sqrt(variance.max() + n.error[rows].max() ** 2)
        distance, found = n.trees[exposure].query(unit_vectors(ra, dec), distance_upper_bound=np.radians(limit))
        near = np.flatnonzero(np.isfinite(distance))
        chosen = rows[found[near]]
        mean = self.flux[0, lines[near]] / self.flux[1, lines[near]]
        close = np.degrees(distance[near]) < config.search_sigma * np.sqrt(variance[near] + n.error[chosen] ** 2)
        alike = np.abs(n.flux[chosen] - mean) < config.search_sigma * np.hypot(
            n.flux_error[chosen], 1 / np.sqrt(self.flux[1, lines[near]])
        )
        keep = close & alike
        self.add(lines[near[keep]], exposure, chosen[keep])

    def chi2(self) -> tuple[Floats, Floats, Ints]:
        """(chi square of positions, chi square of fluxes, number of sources) of each line."""
        n = self.night
        x, y, vx, vy, _ = self.fit()
        mean = self.flux[0] / np.maximum(self.flux[1], 1e-300)
        place, bright = np.zeros(len(x)), np.zeros(len(x))
        for members in self.members.T:
            has = np.flatnonzero(members >= 0)
            i = members[has]
            t = n.time[i] - self.time0[has]
            px, py = project(n.ra[i], n.dec[i], self.ra0[has], self.dec0[has])
            place[has] += ((px - x[has] - vx[has] * t) ** 2 + (py - y[has] - vy[has] * t) ** 2) / n.error[i] ** 2
            bright[has] += ((n.flux[i] - mean[has]) / n.flux_error[i]) ** 2
        return place, bright, (self.members >= 0).sum(axis=1)


def link(sources: Table, config: TrackletConfig | None = None, static: NDArray[np.bool_] | None = None) -> tuple[Table, Table]:
    """Tracklets of one night's sources, and their membership.

    `sources` has the columns of dia_source; rows where `static` is set stay out, as do negative, unreliable and dipole ones.
    Returns `tracklet` (`trackletId ra0 dec0 mjd0 rate_ra_deg_day rate_dec_deg_day rate_ra_err rate_dec_err n chi2 dof mag magErr
    arc_day rms_arcsec`; ra rate is on the sky, cos dec included) and `tracklet_source` (`trackletId diaSourceId`).
    """
    config = config or TrackletConfig()
    fit_for_use = np.asarray(sources["reliability"]) >= config.min_reliability
    fit_for_use &= (
        ~np.asarray(sources["isNegative"], bool) & ~np.asarray(sources["isDipole"], bool) & (np.asarray(sources["psfFlux"]) > 0)
    )
    if static is not None:
        fit_for_use &= ~static
    night = _Night.of(sources, np.flatnonzero(fit_for_use), config)
    lines = _grown(night, config)
    chosen = _choose(lines, config)
    return _tables(lines, chosen, np.asarray(sources["diaSourceId"], np.int64)[night.rows])


def static_sources(sources: Table, object_ids: Ints, config: TrackletConfig | None = None) -> NDArray[np.bool_]:
    """Which sources belong to an object that stands still: seen on another night, or again this night where it was.

    `sources` may hold several nights; `object_ids` (0: none) per row. A slow body may be taken for one object by the association
    radius: its positions then scatter more than their errors, and it is not static.
    """
    config = config or TrackletConfig()
    names, index, count = np.unique(object_ids, return_inverse=True, return_counts=True)
    time, dec = np.asarray(sources["midpointMjdTai"], float), np.asarray(sources["dec"], float)
    ra = np.asarray(sources["ra"], float)
    first, last = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(first, index, time)
    np.maximum.at(last, index, time)
    start = np.zeros(len(names), np.int64)
    start[index[::-1]] = np.arange(len(index))[::-1]
    x, y = project(ra, dec, ra[start[index]], dec[start[index]])
    error = np.hypot(np.hypot(sources["raErr"], sources["decErr"]) / np.sqrt(2), config.position_error_arcsec / 3600)
    scatter = np.zeros(len(names))
    for value in (x, y):
        mean = np.bincount(index, weights=value) / count
        scatter += np.bincount(index, weights=((value - mean[index]) / error) ** 2)
    still = chi2_distribution.sf(scatter, np.maximum(2 * (count - 1), 1)) > config.chi2_probability
    return ((names != 0) & (count > 1) & ((last - first > 0.5) | still))[index]


def _seeds(night: _Night, config: TrackletConfig) -> tuple[Ints, Ints, Ints, Ints]:
    """Pairs: (source, its exposure's number, later source, its exposure's number)."""
    parts: list[tuple[Ints, Ints, Ints, Ints]] = []
    total = 0
    for a, earlier in enumerate(night.exposures):
        for b in range(a + 1, min(a + 1 + config.seed_reach, len(night.exposures))):
            later = night.exposures[b]
            gap = float(np.median(night.time[later]) - np.median(night.time[earlier]))
            if not 0 < gap <= config.max_gap_day:
                continue
            reach = np.radians(config.max_rate_deg_day * gap)
            near = night.trees[a].sparse_distance_matrix(night.trees[b], reach, output_type="ndarray")
            i, j = earlier[near["i"]], later[near["j"]]
            moved = np.degrees(near["v"]) >= config.min_rate_deg_day * (night.time[j] - night.time[i])
            alike = np.abs(night.flux[i] - night.flux[j]) < config.search_sigma * np.hypot(
                night.flux_error[i], night.flux_error[j]
            )
            keep = moved & alike
            total += int(keep.sum())
            if total > config.max_seeds:
                raise TooManySeeds(
                    f"more than {config.max_seeds} pairs of sources could be moving bodies: "
                    "raise min_reliability or lower max_rate_deg_day"
                )
            parts.append((i[keep], np.full(keep.sum(), a), j[keep], np.full(keep.sum(), b)))
    if not parts:
        return (np.zeros(0, np.int64),) * 4
    one, two, three, four = (np.concatenate(part) for part in zip(*parts, strict=True))
    return one, two, three, four


def _grown(night: _Night, config: TrackletConfig) -> _Lines:
    """All seeds, each taken forward, then through the exposures between its two, then backward."""
    i, a, j, b = _seeds(night, config)
    lines = _Lines(night, i)
    count = len(night.exposures)
    for number in range(count):
        for members, exposure in ((i, a), (j, b)):
            mine = np.flatnonzero(exposure == number)
            lines.add(mine, number, members[mine])
    for number in range(count):
        lines.extend(np.flatnonzero(b < number), number, config)
    for number in range(count):
        lines.extend(np.flatnonzero((a < number) & (number < b)), number, config)
    for number in reversed(range(count)):
        lines.extend(np.flatnonzero(number < a), number, config)
    return lines


def _choose(lines: _Lines, config: TrackletConfig) -> Ints:
    """Lines that pass, the longest first, then the most probable; none shares a source with one chosen before."""
    place, bright, n = lines.chi2()
    probability = chi2_distribution.sf(place, np.maximum(2 * n - 4, 1)) * (n > 2) + 1.0 * (n == 2)
    alike = chi2_distribution.sf(bright, np.maximum(n - 1, 1))
    _, _, vx, vy, _ = lines.fit()
    rate = np.hypot(vx, vy)
    good = (n >= config.min_sources) & (probability > config.chi2_probability) & (alike > config.chi2_probability)
    good &= (rate >= config.min_rate_deg_day) & (rate <= config.max_rate_deg_day)
    candidates = np.flatnonzero(good)
    if not len(candidates):
        return candidates
    _, once = np.unique(lines.members[candidates], axis=0, return_index=True)
    candidates = candidates[np.sort(once)]
    candidates = candidates[np.lexsort((place[candidates] / np.maximum(2 * n[candidates] - 4, 1), -n[candidates]))]
    used = np.zeros(len(lines.night.rows) + 1, bool)  # the last stands for "no source" and is never set
    chosen = []
    for candidate in candidates:
        members = lines.members[candidate]
        if not used[members].any():
            chosen.append(candidate)
            used[members[members >= 0]] = True
    return np.array(chosen, np.int64)


def _tables(lines: _Lines, chosen: Ints, ids: Ints) -> tuple[Table, Table]:
    night = lines.night
    x, y, vx, vy, det = (value[chosen] for value in lines.fit())
    s, st = lines.sums[:2, chosen]
    place, _, n = (value[chosen] for value in lines.chi2())
    middle = st / np.maximum(s, 1e-300)
    ra0, dec0 = unproject(x + vx * middle, y + vy * middle, lines.ra0[chosen], lines.dec0[chosen])
    members = lines.members[chosen]
    has = members >= 0
    time = np.where(has, night.time[members], np.nan)
    flux = lines.flux[0, chosen] / np.maximum(lines.flux[1, chosen], 1e-300)
    first = np.array([ids[row[row >= 0][0]] for row in members], np.int64)
    rms = np.sqrt(place / np.maximum(s, 1e-300)) * 3600
    rate_error = np.sqrt(s / det)
    tracklet = Table(
        {
            "trackletId": first,
            "ra0": ra0,
            "dec0": dec0,
            "mjd0": lines.time0[chosen] + middle,
            "rate_ra_deg_day": vx,
            "rate_dec_deg_day": vy,
            "rate_ra_err": rate_error,
            "rate_dec_err": rate_error,
            "n": n.astype(np.int32),
            "chi2": place,
            "dof": (2 * n - 4).astype(np.int32),
            "mag": 31.4 - 2.5 * np.log10(np.maximum(flux, 1e-30)),
            "magErr": 1.0857 / np.sqrt(np.maximum(lines.flux[1, chosen], 1e-300)) / np.maximum(flux, 1e-30),
            "arc_day": _span(time),
            "rms_arcsec": rms,
        }
    )
    which, exposure = np.nonzero(has)
    membership = Table({"trackletId": first[which], "diaSourceId": ids[members[which, exposure]]})
    return tracklet, membership


def _span(time: Floats) -> Floats:
    return np.nanmax(time, axis=1) - np.nanmin(time, axis=1) if len(time) else np.zeros(0)

"""Linking of made nights: completeness, purity, and what must not be linked."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table, vstack

from payloads.association import associate
from payloads.tracklets import TooManySeeds, TrackletConfig, link, project, static_sources, unproject

ERROR_DEG = 0.05 / 3600


def exposure(visit, mjd, x, y, flux, truth, rng, centre=(0.05, 30.0)):
    n = len(x)
    ra, dec = unproject(x + rng.normal(0, ERROR_DEG, n), y + rng.normal(0, ERROR_DEG, n), *centre)
    return Table(
        {
            "diaSourceId": visit * 100_000 + np.arange(n),
            "visit": np.full(n, visit),
            "midpointMjdTai": np.full(n, mjd),
            "ra": ra,
            "dec": dec,
            "raErr": np.full(n, ERROR_DEG),
            "decErr": np.full(n, ERROR_DEG),
            "psfFlux": flux * rng.normal(1, 0.05, n),
            "psfFluxErr": 0.05 * flux,
            "reliability": np.ones(n),
            "isNegative": np.zeros(n, bool),
            "isDipole": np.zeros(n, bool),
            "truth": truth,
        }
    )


def night(
    *, bodies=30, noise=40, still=40, exposures=4, gap_day=0.015, size_deg=0.5, seed=1, seen=1.0, first_visit=1, mjd0=60000.1
):
    """Bodies of 0.1 to 0.5 deg/day, sources that stand still (truth -1) and noise (truth -2)."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-size_deg / 2, size_deg / 2, (2, bodies))
    rate, angle = rng.uniform(0.1, 0.5, bodies), rng.uniform(0, 2 * np.pi, bodies)
    flux = rng.uniform(500, 5000, bodies)
    sx, sy = rng.uniform(-size_deg / 2, size_deg / 2, (2, still))
    tables = []
    for e in range(exposures):
        t = e * gap_day
        nx, ny = rng.uniform(-size_deg / 2, size_deg / 2, (2, noise))
        keep = rng.uniform(size=bodies) < seen
        bx, by = (x + rate * np.cos(angle) * t)[keep], (y + rate * np.sin(angle) * t)[keep]
        tables.append(
            exposure(
                first_visit + e,
                mjd0 + t,
                np.r_[bx, sx, nx],
                np.r_[by, sy, ny],
                np.r_[flux[keep], np.full(still, 1000.0), rng.uniform(500, 5000, noise)],
                np.r_[np.flatnonzero(keep), np.full(still, -1), np.full(noise, -2)],
                rng,
            )
        )
    return vstack(tables), rate, angle, flux


def members(sources, membership):
    truth = dict(zip(sources["diaSourceId"].tolist(), sources["truth"].tolist(), strict=True))
    found: dict[int, list[int]] = {}
    for tracklet, source in zip(membership["trackletId"].tolist(), membership["diaSourceId"].tolist(), strict=True):
        found.setdefault(tracklet, []).append(truth[source])
    return found


def test_projection_and_its_inverse_agree_across_the_seam_and_near_a_pole():
    ra, dec = np.array([359.9, 0.2, 10.0]), np.array([84.0, 85.0, 86.0])
    x, y = project(ra, dec, 0.0, 85.0)
    back_ra, back_dec = unproject(x, y, 0.0, 85.0)
    np.testing.assert_allclose(back_ra, ra, atol=1e-9)
    np.testing.assert_allclose(back_dec, dec, atol=1e-9)


def test_moving_bodies_are_linked_once_each_with_their_rates_and_nothing_else_is():
    sources, rate, angle, flux = night()
    static = static_sources(sources, associate(sources))
    assert static[np.array(sources["truth"]) == -1].mean() > 0.97
    assert not static[np.array(sources["truth"]) >= 0].any()
    tracklets, membership = link(sources, static=static)
    found = members(sources, membership)
    pure = {t: m[0] for t, m in found.items() if len(set(m)) == 1 and m[0] >= 0}
    assert sorted(pure.values()) == list(range(30))
    assert len(found) - len(pure) <= 1
    for row in tracklets:
        if row["trackletId"] not in pure:
            continue
        body = pure[row["trackletId"]]
        assert row["n"] == 4
        expected = rate[body] * np.cos(angle[body]), rate[body] * np.sin(angle[body])
        assert row["rate_ra_deg_day"] == pytest.approx(expected[0], abs=5 * row["rate_ra_err"])
        assert row["rate_dec_deg_day"] == pytest.approx(expected[1], abs=5 * row["rate_dec_err"])
        assert row["mag"] == pytest.approx(31.4 - 2.5 * np.log10(flux[body]), abs=0.4)
        assert row["arc_day"] == pytest.approx(0.045)


def test_no_source_is_in_two_tracklets():
    sources, *_ = night(noise=400, seed=3)
    _, membership = link(sources)
    ids = np.array(membership["diaSourceId"])
    assert len(np.unique(ids)) == len(ids)


def test_bodies_missed_in_an_exposure_are_still_linked_if_three_remain():
    sources, *_ = night(seen=0.8, exposures=5, noise=0, still=0)
    counts = np.bincount(np.array(sources["truth"]))
    _, membership = link(sources)
    linked = {m[0] for m in members(sources, membership).values() if len(set(m)) == 1}
    assert set(np.flatnonzero(counts >= 3)) <= linked


def test_pairs_are_tracklets_only_where_the_configuration_says_so():
    sources, *_ = night(exposures=2, noise=0, still=0, bodies=5)
    assert len(link(sources)[0]) == 0
    assert len(link(sources, TrackletConfig(min_sources=2))[0]) == 5


def test_rates_outside_the_limits_are_not_linked():
    sources, rate, *_ = night(noise=0, still=0)
    tracklets, _ = link(sources, TrackletConfig(min_rate_deg_day=0.3))
    assert len(tracklets) == (rate > 0.3).sum()


def test_brightness_that_changes_too_much_is_not_one_body():
    sources, *_ = night(noise=0, still=0, bodies=1)
    assert len(link(sources)[0]) == 1
    sources["psfFlux"][1] *= 30
    sources["psfFluxErr"][1] *= 30
    tracklets, _ = link(sources, TrackletConfig(flux_error_fraction=0.1))
    assert len(tracklets) == 1
    assert tracklets["n"][0] == 3


def test_negative_unreliable_and_dipole_sources_are_left_out():
    sources, *_ = night(noise=0, still=0, bodies=3)
    truth = np.array(sources["truth"])
    sources["isNegative"][truth == 0] = True
    sources["reliability"][truth == 1] = 0.1
    sources["isDipole"][truth == 2] = True
    assert len(link(sources)[0]) == 0


def test_order_of_rows_does_not_change_the_tracklets():
    sources, *_ = night(noise=200, seed=5)
    shuffled = sources[np.random.default_rng(1).permutation(len(sources))]
    one, other = (sorted(map(tuple, link(s)[1].iterrows())) for s in (sources, shuffled))
    assert one == other


def test_what_was_there_on_another_night_is_static():
    tonight, *_ = night(noise=0, bodies=0, still=5)
    before, *_ = night(noise=0, bodies=0, still=5, first_visit=11, mjd0=59990.0)
    one = vstack([tonight[:5], before[:5]])
    assert static_sources(one, associate(one)).all()


def test_no_source_makes_no_tracklet():
    sources, *_ = night(bodies=2, noise=0, still=0)
    tracklets, membership = link(sources[:0])
    assert len(tracklets) == len(membership) == 0
    assert {"trackletId", "ra0", "rate_ra_deg_day", "n", "chi2", "mag"} <= set(tracklets.colnames)


def test_limits_too_wide_for_memory_are_an_error_that_says_so():
    sources, *_ = night(noise=300)
    with pytest.raises(TooManySeeds, match="lower max_rate_deg_day"):
        link(sources, TrackletConfig(max_seeds=10))


def test_a_crowded_night_is_linked_in_seconds():
    sources, *_ = night(bodies=400, noise=3000, still=3000, size_deg=4.0, exposures=5, seed=7)
    static = static_sources(sources, associate(sources))
    _, membership = link(sources, static=static)
    good = [m for m in members(sources, membership).values() if len(set(m)) == 1 and m[0] >= 0]
    assert len(good) > 0.97 * 400

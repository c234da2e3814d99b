"""Objects from sources: one source per visit, names that stay, no dependence on order."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from payloads.association import AssociationConfig, associate, mutual_nearest, summarise, unit_vectors

ARCSEC = 1 / 3600


def table(rows):
    """Rows (id, visit, mjd, ra, dec[, flux[, band[, reliability]]])."""
    full = [(*row, *(100.0, "r", 1.0)[len(row) - 5 :]) for row in rows]
    ids, visits, times, ra, dec, flux, band, reliable = (list(c) for c in zip(*full, strict=True))
    n = len(full)
    return Table(
        {
            "diaSourceId": np.array(ids, np.int64),
            "visit": np.array(visits, np.int64),
            "midpointMjdTai": np.array(times, float),
            "ra": np.array(ra, float) % 360,
            "dec": np.array(dec, float),
            "raErr": np.full(n, 0.1 * ARCSEC),
            "decErr": np.full(n, 0.1 * ARCSEC),
            "psfFlux": np.array(flux, float),
            "psfFluxErr": np.full(n, 10.0),
            "band": np.array(band),
            "reliability": np.array(reliable, float),
        }
    )


def sky(seed=1, objects=60, visits=6, dec0=70.0):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(-0.2, 0.2, objects), dec0 + rng.uniform(-0.1, 0.1, objects)
    rows, truth = [], []
    for visit in range(visits):
        seen = np.flatnonzero(rng.uniform(size=objects) < 0.7)
        for k, which in enumerate(seen):
            jitter = rng.normal(0, 0.1 * ARCSEC, 2)
            rows.append(
                (
                    1000 * (visit + 1) + k,
                    visit,
                    60000.0 + visit,
                    ra[which] + jitter[0] / np.cos(np.radians(dec0)),
                    dec[which] + jitter[1],
                )
            )
            truth.append(which)
    return table(rows), np.array(truth)


def test_sources_at_one_place_are_one_object_across_the_seam_of_right_ascension():
    sources, truth = sky()
    ids = associate(sources)
    assert len(np.unique(ids)) == len(np.unique(truth))
    for which in np.unique(truth):
        assert len(np.unique(ids[truth == which])) == 1


def test_the_order_of_rows_does_not_matter():
    sources, _ = sky()
    ids = associate(sources)
    shuffled = np.random.default_rng(3).permutation(len(sources))
    np.testing.assert_array_equal(associate(sources[shuffled]), ids[shuffled])


def test_a_later_night_does_not_rename_objects():
    sources, _ = sky()
    early = np.array(sources["visit"]) < 3
    np.testing.assert_array_equal(associate(sources[early]), associate(sources)[early])


def test_an_object_is_named_after_its_first_source():
    ids = associate(table([(20, 2, 60001.0, 10, 0), (10, 1, 60000.0, 10, 0)]))
    assert ids.tolist() == [10, 10]


def test_an_object_gets_at_most_one_source_of_a_visit():
    close = 0.4 * ARCSEC
    sources = table([(1, 1, 60000.0, 10, 0), (2, 2, 60001.0, 10, 0), (3, 2, 60001.0, 10, close), (4, 2, 60001.0, 10, -close)])
    ids = associate(sources)
    assert ids[0] == ids[1] == 1
    assert len(set(ids.tolist())) == 3


def test_unreliable_sources_belong_to_no_object():
    sources = table([(1, 1, 60000.0, 10, 0, 100.0, "r", 0.01), (2, 2, 60001.0, 10, 0)])
    assert associate(sources, AssociationConfig(min_reliability=0.1)).tolist() == [0, 2]


def test_radius_decides_what_is_the_same_place():
    sources = table([(1, 1, 60000.0, 10, 0), (2, 2, 60001.0, 10, 1.5 * ARCSEC)])
    assert associate(sources).tolist() == [1, 2]
    assert associate(sources, AssociationConfig(radius_arcsec=2.0)).tolist() == [1, 1]


def test_pairs_are_mutual():
    one, other = unit_vectors(np.array([0.0, 1.0]), np.zeros(2)), unit_vectors(np.array([0.4, 0.9]), np.zeros(2))
    mine, theirs = mutual_nearest(one, other, 1.0)
    assert list(zip(mine, theirs, strict=True)) == [(0, 0), (1, 1)]
    assert mutual_nearest(one, other[:0], 1.0)[0].size == 0


def test_summary_has_weighted_means_per_band_and_the_times():
    sources = table(
        [
            (1, 1, 60000.0, 359.99999, 5, 100.0, "r"),
            (2, 2, 60002.0, 0.00001, 5, 200.0, "r"),
            (3, 3, 60004.0, 0.0, 5, 50.0, "i"),
            (4, 3, 60004.0, 20.0, 5, -7.0, "i"),
        ]
    )
    objects = summarise(sources, np.array([1, 1, 1, 4]))
    first = objects[0]
    assert first["diaObjectId"] == 1
    assert first["nDiaSources"] == 3
    assert min(first["ra"], 360 - first["ra"]) < 1e-5
    assert (first["firstDiaSourceMjdTai"], first["lastDiaSourceMjdTai"]) == (60000, 60004)
    assert first["r_psfFluxMean"] == pytest.approx(150)
    assert first["r_psfFluxMeanErr"] == pytest.approx(10 / np.sqrt(2))
    assert first["r_psfFluxSigma"] == pytest.approx(50 * np.sqrt(2))
    assert (first["r_psfFluxNdata"], first["i_psfFluxNdata"]) == (2, 1)
    assert np.isnan(first["i_psfFluxSigma"])
    assert np.isnan(objects[1]["r_psfFluxMean"])
    assert objects[1]["i_psfFluxMin"] == -7


def test_no_source_makes_no_object():
    sources, _ = sky()
    assert len(associate(sources[:0])) == 0
    assert len(summarise(sources[:0], np.zeros(0, np.int64))) == 0

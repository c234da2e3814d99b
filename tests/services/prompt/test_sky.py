"""What the prompt path remembers of the sky."""

import numpy as np
import pytest
from astropy.table import Table

from services.prompt.sky import Sky


def sources(first, ra, dec, mjd, objects):
    n = len(ra)
    return Table(
        {
            "diaSourceId": np.arange(first, first + n),
            "diaObjectId": np.asarray(objects, np.int64),
            "ra": np.asarray(ra, float),
            "dec": np.asarray(dec, float),
            "raErr": np.full(n, 1e-5),
            "decErr": np.full(n, 1e-5),
            "midpointMjdTai": np.full(n, float(mjd)),
            "band": ["r"] * n,
            "psfFlux": np.full(n, 100.0),
            "psfFluxErr": np.full(n, 5.0),
            "snr": np.full(n, np.nan),
        }
    )


@pytest.fixture
def sky(tmp_path):
    with Sky.open(tmp_path, "SimCam") as made:
        yield made


def test_objects_are_found_around_a_place_with_all_their_sources(sky):
    sky.add(sources(1, [10.0, 10.001], [0.0, 0.0], 60000, [1, 2]))
    sky.add(sources(11, [10.0, 80.0], [0.0, 0.0], 60001, [1, 12]))
    found = sky.around(10.0, 0.0, 0.05)
    assert sorted(found.objects["diaObjectId"]) == [1, 2]
    assert sorted(found.sources["diaSourceId"]) == [1, 2, 11]
    assert dict(zip(found.objects["diaObjectId"], found.objects["nDiaSources"], strict=True)) == {1: 2, 2: 1}
    assert np.isnan(found.sources["snr"]).all()


def test_the_same_sources_again_change_nothing(sky):
    table = sources(1, [10.0], [0.0], 60000, [1])
    assert (sky.add(table), sky.add(table)) == (1, 0)
    assert len(sky.around(10.0, 0.0, 0.05).sources) == 1


def test_what_belongs_to_no_object_or_is_older_than_a_year_is_left_out(sky):
    sky.add(sources(1, [10.0, 10.0], [0.0, 0.001], 60000, [1, 0]))
    sky.add(sources(11, [10.0], [0.002], 60400, [11]))
    assert list(sky.around(10.0, 0.0, 0.05).objects["diaObjectId"]) == [11]


def test_a_sky_of_which_nothing_is_known_is_empty(sky):
    assert len(sky.around(200.0, -80.0, 0.1).objects) == 0
    assert sky.add(sources(1, [], [], 60000, [])) == 0


def test_a_field_at_the_seam_of_right_ascension_is_one(sky):
    sky.add(sources(1, [359.999, 0.001], [10.0, 10.0], 60000, [1, 2]))
    assert len(sky.around(360.0, 10.0, 0.05).objects) == 2


def test_a_nights_sources_are_read_visit_by_visit_those_of_no_object_too(sky):
    sky.add(sources(1, [10.0, 200.0], [0.0, 5.0], 60000.5, [1, 0]))
    sky.add(sources(11, [10.0], [0.0], 60000.25, [1]))
    sky.add(sources(21, [10.0], [0.0], 60001.0, [1]))
    assert sky.moments(60000.0, 60001.0) == [60000.25, 60000.5]
    assert [list(sky.at(mjd)["diaSourceId"]) for mjd in (60000.25, 60000.5)] == [[11], [1, 2]]


def measured(visit, mjd, objects, flux):
    n = len(objects)
    return Table(
        {
            "diaObjectId": np.asarray(objects, np.int64),
            "visit": np.full(n, visit, np.int64),
            "detector": np.zeros(n, np.int32),
            "band": ["r"] * n,
            "midpointMjdTai": np.full(n, float(mjd)),
            "ra": np.full(n, 10.0),
            "dec": np.zeros(n),
            "x": np.zeros(n),
            "y": np.zeros(n),
            "psfFlux": np.asarray(flux, float),
            "psfFluxErr": np.full(n, 2.0),
        }
    )


def test_forced_photometry_of_objects_is_that_of_twelve_months_before_once(sky):
    for visit, mjd in ((1, 60000), (2, 60300), (3, 60400)):
        for _ in range(2):
            sky.add_forced(measured(visit, mjd, [1, 2, 3], [10.0 * visit, np.nan, 5.0]), 60500.0)
    found = sky.forced([1, 2], before_mjd=60400)
    assert list(zip(found["diaObjectId"], found["visit"], found["psfFlux"], strict=True)) == [(1, 2, 20.0)]
    assert list(sky.forced([3], before_mjd=60401)["midpointMjdTai"]) == [60300.0, 60400.0]
    assert len(sky.forced([], before_mjd=60401)) == len(sky.forced([2], before_mjd=60401)) == 0

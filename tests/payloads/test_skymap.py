"""Sky maps: deterministic, registered once, every place owned once."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from lsst.daf.butler import Butler
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d
from pydantic import ValidationError

from backbone.errors import ObjectAbsent
from payloads.skymap import SkyMap, SkyMapError
from payloads.skymap_cli import skymap as skymap_command


def box(ra: float, dec: float, side_deg: float) -> ConvexPolygon:
    half, across = side_deg / 2, side_deg / 2 / np.cos(np.radians(dec))
    corners = [(ra - across, dec - half), (ra + across, dec - half), (ra + across, dec + half), (ra - across, dec + half)]
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(a % 360, d)) for a, d in corners])


FIELD = [box(150.0, 2.0, 0.05), box(150.01, 2.005, 0.05), box(149.995, 2.01, 0.05)]


def make(regions=FIELD, **changes) -> SkyMap:
    return SkyMap.cover("test", regions, **({"pixel_scale_arcsec": 0.5, "patch_inner_px": 150, "patch_border_px": 20} | changes))


@pytest.fixture
def butler(tmp_path):
    Butler.makeRepo(str(tmp_path / "repo"))
    with Butler.from_config(str(tmp_path / "repo"), writeable=True) as made:
        yield made


def test_the_map_covers_all_regions():
    sky_map = make()
    assert len(sky_map.tracts) == 1
    tract = sky_map.tract_region(0)
    assert all(tract.contains(region) for region in FIELD)


def test_the_order_of_regions_does_not_matter():
    assert make(FIELD).digest == make(FIELD[::-1]).digest


def test_fields_far_apart_get_their_own_tracts():
    sky_map = make([*FIELD, box(210.0, -30.0, 0.05)])
    assert [round(t.ra_deg) for t in sky_map.tracts] == [150, 210]


def test_a_field_on_the_zero_meridian_is_one_tract():
    sky_map = make([box(359.98, 10.0, 0.05), box(0.02, 10.0, 0.05)])
    assert len(sky_map.tracts) == 1
    assert sky_map.tracts[0].ra_deg == pytest.approx(0, abs=1e-3)
    assert sky_map.tracts[0].patches_x < 10


def test_a_field_wider_than_a_tract_may_be_is_cut_into_tracts_that_cover_it():
    regions = [box(150 + 0.5 * k, 2.0, 0.5) for k in range(10)]
    sky_map = make(regions, max_tract_deg=2.0, patch_inner_px=1000, pixel_scale_arcsec=1.0)
    assert len(sky_map.tracts) == 3
    tracts = [sky_map.tract_region(t.id) for t in sky_map.tracts]
    for region in regions:
        assert all(any(tract.contains(corner) for tract in tracts) for corner in region.getVertices())


def test_every_place_is_owned_by_exactly_one_patch():
    sky_map = make([box(150 + 0.05 * k, 2.0, 0.05) for k in range(4)], max_tract_deg=0.12)
    assert len(sky_map.tracts) > 1
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(149.99, 150.16, 400), rng.uniform(1.98, 2.02, 400)
    owners = np.zeros(ra.size, int)
    for tract in sky_map.tracts:
        for patch in tract.patches:
            x, y = sky_map.patch_wcs(tract.id, patch).world_to_pixel_values(ra, dec)
            owners += sky_map.owned(tract.id, patch, x, y)
    assert np.all(owners == 1)


def test_patches_share_one_pixel_grid():
    sky_map = make()
    sky = sky_map.patch_wcs(0, 0).pixel_to_world(sky_map.patch_inner_px + sky_map.patch_border_px, 40)
    x, y = sky_map.patch_wcs(0, 1).world_to_pixel(sky)
    assert (float(x), float(y)) == pytest.approx((sky_map.patch_border_px, 40), abs=1e-6)


def test_pixels_have_the_scale_asked_for_and_east_is_left():
    wcs = make().patch_wcs(0, 0)
    (ra0, ra1), (dec0, dec1) = wcs.pixel_to_world_values([100, 101], [100, 100])
    assert (ra0 - ra1) * np.cos(np.radians(dec0)) * 3600 == pytest.approx(0.5, rel=1e-5)
    assert dec0 == pytest.approx(dec1, abs=1e-7)


def test_no_region_is_an_error_that_says_what_to_do():
    with pytest.raises(SkyMapError, match="ingest and define visits"):
        make([])


def test_too_many_patches_for_ids_is_an_error():
    with pytest.raises(SkyMapError, match="larger patches"):
        make([box(150, 2, 2.0)], pixel_scale_arcsec=0.1, patch_inner_px=32)


def test_unknown_patch_is_an_error_that_names_the_range():
    with pytest.raises(SkyMapError, match="has 0 to"):
        make().patch_wcs(0, 999)


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError):
        SkyMap.model_validate(make().model_dump() | {"rotation": 1})


def test_registering_twice_is_harmless_and_loads_back_equal(butler):
    assert make().register(butler) is True
    assert make().register(butler) is False
    assert SkyMap.load(butler, "test") == make()
    patches = butler.query_dimension_records("patch", skymap="test")
    assert len(patches) == len(make().tracts[0].patches)


def test_other_content_under_the_same_name_is_refused(butler):
    make().register(butler)
    with pytest.raises(SkyMapError, match="give the new map a new name"):
        make(patch_inner_px=200).register(butler)


def test_a_map_that_is_not_there_is_absent(butler):
    with pytest.raises(ObjectAbsent, match="skymap make"):
        SkyMap.load(butler, "nothing")


def insert_visit(butler: Butler, region: ConvexPolygon) -> None:
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": "Cam", "visit_max": 10**13, "exposure_max": 10**13, "detector_max": 2, "class_name": "x.Cam"})
    insert("detector", {"instrument": "Cam", "id": 0, "full_name": "d0"})
    insert("physical_filter", {"instrument": "Cam", "name": "r_01", "band": "r"})
    insert("day_obs", {"instrument": "Cam", "id": 20270101})
    visit = {"instrument": "Cam", "id": 1, "name": "1", "physical_filter": "r_01", "day_obs": 20270101, "seq_num": 1}
    insert("visit", visit | {"region": region})
    insert("visit_detector_region", {"instrument": "Cam", "visit": 1, "detector": 0, "region": region})


def test_the_command_makes_a_map_around_the_visits(butler, tmp_path):
    insert_visit(butler, FIELD[0])
    arguments = ["make", "--home", str(tmp_path), "--name", "cli", "--from-visits", "Cam"]
    arguments += ["--pixel-scale", "0.5", "--patch-px", "210"]
    first, second = (CliRunner().invoke(skymap_command, arguments) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert "made: 1 tract(s), 4 patch(es)" in first.output
    assert "was there already" in second.output
    with butler.query() as query:
        pairs = query.data_ids(["visit", "detector", "patch"]).where(skymap="cli", instrument="Cam")
        assert {pair["patch"] for pair in pairs} == {0, 1, 2, 3}


def test_the_command_says_that_there_are_no_visits(butler, tmp_path):
    result = CliRunner().invoke(skymap_command, ["make", "--home", str(tmp_path), "--name", "cli", "--from-visits", "Cam"])
    assert result.exit_code == 1
    assert "no visits here" in result.output

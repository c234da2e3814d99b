"""Warping: flux, places, noise and mask bits survive a change of grid."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from astropy.nddata import CCDData
from astropy.wcs import WCS
from reproject import reproject_exact
from scipy.special import erf

from payloads.mask import Mask
from payloads.warp import PixelMap, repair, warp_image, warp_pixels


def tan(ra: float, dec: float, scale_arcsec: float, side: int, rotation_deg: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [side / 2, side / 2]
    c, s = np.cos(np.radians(rotation_deg)), np.sin(np.radians(rotation_deg))
    wcs.wcs.cd = scale_arcsec / 3600 * np.array([[-c, s], [s, c]])
    wcs.wcs.set()
    return wcs


def star_field(wcs: WCS, side: int, ra, dec, flux, fwhm_px: float) -> np.ndarray:
    """Gaussian stars integrated over pixels."""
    sigma = fwhm_px / 2.3548
    pixels = np.arange(side)
    image = np.zeros((side, side))

    def profile(centre):
        return 0.5 * (erf((pixels - centre + 0.5) / sigma / 2**0.5) - erf((pixels - centre - 0.5) / sigma / 2**0.5))

    for x, y, f in zip(*wcs.world_to_pixel_values(ra, dec), flux, strict=True):
        image += f * np.outer(profile(y), profile(x))
    return image.astype(np.float32)


SIDE = 256
SOURCE = tan(150.0, 2.0, 0.25, SIDE)


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(5)
    x, y = np.meshgrid([60, 100, 140, 180], [60, 100, 140, 180])
    ra, dec = SOURCE.pixel_to_world_values(x.ravel() + rng.uniform(-2, 2, 16), y.ravel() + rng.uniform(-2, 2, 16))
    return ra, dec, rng.uniform(1e3, 1e5, 16)


@pytest.mark.parametrize("fwhm_px", [2.2, 3.5])
@pytest.mark.parametrize("scale", [0.25, 0.2])
def test_flux_to_two_in_a_thousand_and_centroid_to_a_hundredth_of_a_pixel(stars, fwhm_px, scale):
    ra, dec, flux = stars
    image = star_field(SOURCE, SIDE, ra, dec, flux, fwhm_px)
    side = int(SIDE * 0.25 / scale)
    target = tan(150.0003, 2.0002, scale, side, rotation_deg=7)
    warped = warp_image(image, None, None, SOURCE, target, (side, side)).data.astype(float)
    x, y = target.world_to_pixel_values(ra, dec)
    found, _, _ = sep.sum_circle(warped, x, y, 14.0, subpix=0)
    np.testing.assert_allclose(found, flux, rtol=2e-3)
    # For a centroid, not for the map's sake: sep's window is a Gaussian of the star's own width.
    width = np.full(x.size, fwhm_px * 0.25 / scale / 2.3548)
    found_x, found_y, _ = sep.winpos(warped, x, y, width)
    assert np.hypot(found_x - x, found_y - y).max() < 0.01


def test_it_agrees_with_exact_reprojection(stars):
    ra, dec, flux = stars
    image = star_field(SOURCE, SIDE, ra, dec, flux, 3.5)
    target = tan(150.0003, 2.0002, 0.25, SIDE, rotation_deg=7)
    warped = warp_image(image, None, None, SOURCE, target, (SIDE, SIDE))
    exact, _ = reproject_exact(CCDData(image, wcs=SOURCE, unit="electron"), target, shape_out=(SIDE, SIDE), parallel=False)
    x, y = target.world_to_pixel_values(ra, dec)
    ours, _, _ = sep.sum_circle(warped.data.astype(float), x, y, 14.0, subpix=0)
    theirs, _, _ = sep.sum_circle(np.nan_to_num(exact), x, y, 14.0, subpix=0)
    np.testing.assert_allclose(ours, theirs, rtol=3e-3)


def test_a_constant_stays_constant_per_area_of_sky():
    target = tan(150.0, 2.0, 0.5, 64)
    warped = warp_image(np.full((SIDE, SIDE), 3.0), None, None, SOURCE, target, (64, 64))
    np.testing.assert_allclose(warped.data[8:-8, 8:-8], 12.0, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.25, 0.2])
def test_the_variance_is_right_for_the_flux_of_a_source(scale):
    rng = np.random.default_rng(6)
    noise = rng.normal(0, 2.0, (SIDE, SIDE)).astype(np.float32)
    side = int(SIDE * 0.25 / scale)
    target = tan(150.0003, 2.0002, scale, side, rotation_deg=20)
    warped = warp_image(noise, np.full((SIDE, SIDE), 4.0), None, SOURCE, target, (side, side))
    inside = slice(side // 5, -side // 5)
    x, y = np.meshgrid(np.arange(side)[inside][6:-6:7], np.arange(side)[inside][6:-6:7])
    flux, error, _ = sep.sum_circle(
        warped.data.astype(float),
        x.ravel(),
        y.ravel(),
        5.0,
        subpix=0,
        var=np.where(np.isfinite(warped.variance), warped.variance, 0),
    )
    # 400 and more apertures: their scatter is known to 4 %; apertures this small see 5 % of the kernel's lost high frequencies.
    assert np.std(flux / error) == pytest.approx(1.0, abs=0.12)


def test_off_the_frame_is_no_data_and_near_its_border_edge():
    warped = warp_pixels(np.ones((40, 40)), np.ones((40, 40)), None, PixelMap.of_offset(-10.5, 0.0, (40, 60)))
    assert np.all(warped.mask[:, :10] == np.uint32(Mask.NO_DATA))
    assert np.all(warped.data[:, :10] == 0)
    assert np.all(np.isinf(warped.variance[:, :10]))
    assert np.all(warped.mask[5:-5, 11] & np.uint32(Mask.EDGE))
    assert np.all(warped.mask[5:-5, 15:45] == 0)
    assert np.all(warped.mask[:, 52:] == np.uint32(Mask.NO_DATA))


def test_mask_bits_go_to_every_pixel_whose_core_touches_them():
    mask = np.zeros((40, 40), np.uint32)
    mask[20, 20] = np.uint32(Mask.SAT)
    mask[20, 25] = np.uint32(Mask.SUSPECT)
    warped = warp_pixels(np.ones((40, 40)), None, mask, PixelMap.of_offset(0.5, 0.5, (40, 40)))
    assert set(zip(*np.nonzero(warped.mask & np.uint32(Mask.SAT)), strict=True)) == {(19, 19), (19, 20), (20, 19), (20, 20)}
    assert np.count_nonzero(warped.mask & np.uint32(Mask.SUSPECT)) == 4


def test_a_cosmic_ray_does_not_ring_into_its_neighbours():
    image = np.full((40, 40), 10.0)
    image[20, 20] = 1e6
    mask = np.zeros((40, 40), np.uint32)
    mask[20, 20] = np.uint32(Mask.CR)
    warped = warp_pixels(image, None, mask, PixelMap.of_offset(0.4, 0.3, (40, 40)))
    np.testing.assert_allclose(warped.data[5:-5, 5:-5], 10.0, rtol=1e-4)
    assert np.count_nonzero(warped.mask & np.uint32(Mask.CR)) == 4


def test_not_a_number_becomes_no_data_and_spreads_no_further():
    image = np.full((40, 40), 10.0)
    image[10:13, 10:13] = np.nan
    warped = warp_pixels(image, np.ones((40, 40)), None, PixelMap.of_offset(0.5, 0.0, (40, 40)))
    assert np.all(np.isfinite(warped.data))
    assert 12 <= np.count_nonzero(warped.mask[5:-5, 5:-5] & np.uint32(Mask.NO_DATA)) <= 16


def test_grids_on_opposite_sides_of_the_sky_share_nothing():
    warped = warp_image(np.ones((64, 64)), None, None, tan(150, 2, 0.25, 64), tan(330, -2, 0.25, 64), (64, 64))
    assert np.all(warped.mask == np.uint32(Mask.NO_DATA))


def test_identity_changes_nothing():
    rng = np.random.default_rng(7)
    image = rng.normal(size=(50, 70)).astype(np.float32)
    wcs = tan(10, 60, 0.3, 50)
    warped = warp_image(image, np.ones_like(image), None, wcs, wcs, (50, 70))
    np.testing.assert_allclose(warped.data, image, atol=2e-4)
    np.testing.assert_allclose(warped.variance, 1.0, rtol=1e-5)


def test_a_distorted_wcs_maps_to_a_thousandth_of_a_pixel():
    header = SOURCE.to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header.update({"A_ORDER": 3, "B_ORDER": 3, "A_2_0": 2e-6, "B_1_1": -3e-6, "A_3_0": 1e-9, "B_0_3": 1e-9})
    distorted = WCS(header, relax=True)
    target = tan(150.0003, 2.0002, 0.25, SIDE, rotation_deg=5)
    x, y, _ = PixelMap.between(distorted, target, (SIDE, SIDE)).rows(0, SIDE)
    v, u = np.mgrid[0:SIDE, 0:SIDE]
    exact = distorted.world_to_pixel_values(*target.pixel_to_world_values(u, v))
    assert np.nanmax(np.hypot(x - exact[0], y - exact[1])) < 1e-3


def test_unknown_kernel_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match="lanczos3"):
        warp_pixels(np.ones((4, 4)), None, None, PixelMap.of_offset(0, 0, (4, 4)), kernel="nearest")


def test_repair_fills_from_neighbours_and_leaves_the_lonely_at_zero():
    image = np.full((10, 10), 5.0)
    bad = np.zeros((10, 10), bool)
    bad[3, 3] = True
    image[3, 3] = 99
    repair(image, bad)
    assert image[3, 3] == pytest.approx(5)
    everything = np.ones((10, 10), bool)
    repair(image, everything)
    assert np.all(image == 0)

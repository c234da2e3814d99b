"""Objects: found on all bands together, measured at one place, each in the right units and class."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from payloads.coadd import NJY_PER_UNIT
from payloads.detection import SourceFlag
from payloads.mask import Mask
from payloads.objects import (
    BandImage,
    ObjectSettings,
    chi_threshold,
    detect_objects,
    matched_snr,
    measure_objects,
    weighted_moments,
)
from payloads.psf import PsfModel

SIDE, SIGMA = 300, 2.0
FWHM = {"g": 3.6, "r": 3.0}


def gaussian(side: int, sigma_px: float, x: float, y: float, axis_ratio: float = 1.0) -> np.ndarray:
    v, u = np.mgrid[0:side, 0:side]
    return np.exp(-0.5 * ((u - x) ** 2 + ((v - y) / axis_ratio) ** 2) / sigma_px**2) / (2 * np.pi * sigma_px**2 * axis_ratio)


def band_image(fwhm_px: float, x, y, flux, sizes, seed: int) -> BandImage:
    """Round Gaussian sources of intrinsic sigma `sizes` px seen through a Gaussian PSF."""
    sigma = fwhm_px / 2.3548
    image = np.zeros((SIDE, SIDE))
    for px, py, f, s in zip(x, y, flux, sizes, strict=True):
        image += f * gaussian(SIDE, float(np.hypot(sigma, s)), px, py)
    variance = SIGMA**2 + image / 50
    data = image + np.random.default_rng(seed).normal(0, np.sqrt(variance))
    psf = PsfModel.constant(gaussian(25, sigma, 12, 12))
    return BandImage(
        data=data.astype(np.float32), variance=variance.astype(np.float32), mask=np.zeros((SIDE, SIDE), np.uint32), psf=psf
    )


GRID = np.meshgrid(np.arange(30, 280, 40), np.arange(30, 280, 40))
X = GRID[0].ravel() + np.random.default_rng(1).uniform(-0.5, 0.5, GRID[0].size)
Y = GRID[1].ravel() + np.random.default_rng(2).uniform(-0.5, 0.5, GRID[0].size)
FLUX = 10 ** np.random.default_rng(3).uniform(2.6, 4.5, X.size)
COLOUR = np.random.default_rng(4).uniform(0.3, 2.0, X.size)
SIZES = np.where(np.arange(X.size) % 3 == 0, 3.0, 0.0)
STAR = SIZES == 0


@pytest.fixture(scope="module")
def bands():
    return {
        "g": band_image(FWHM["g"], X, Y, FLUX * COLOUR, SIZES, 5),
        "r": band_image(FWHM["r"], X, Y, FLUX, SIZES, 6),
    }


@pytest.fixture(scope="module")
def table(bands):
    return measure_objects(bands, ObjectSettings())


def match(table) -> np.ndarray:
    """Row of each true source, nearest within 1.5 px."""
    apart = np.hypot(table["x"][None, :] - X[:, None], table["y"][None, :] - Y[:, None])
    assert np.all(apart.min(axis=1) < 1.5)
    return np.argmin(apart, axis=1)


def test_every_source_is_found_once_and_nothing_else(table):
    assert len(np.unique(match(table))) == X.size
    assert len(table) <= X.size + 1


def test_fluxes_of_stars_are_in_nanojansky_with_honest_errors(table):
    rows = table[match(table)][STAR]
    for band, true in (("g", FLUX * COLOUR), ("r", FLUX)):
        for kind in ("psfFlux", "apFlux"):
            pull = (rows[f"{band}_{kind}"] - true[STAR] * NJY_PER_UNIT) / rows[f"{band}_{kind}Err"]
            assert abs(np.mean(pull)) < 0.6, (band, kind)
            assert np.std(pull) == pytest.approx(1.0, abs=0.45), (band, kind)


def test_a_galaxy_has_more_light_in_its_aperture_than_in_a_psf(table):
    rows = table[match(table)][~STAR]
    assert np.all(rows["r_kronFlux"] > rows["r_psfFlux"])
    np.testing.assert_allclose(rows["r_kronFlux"], FLUX[~STAR] * NJY_PER_UNIT, rtol=0.2)


def test_stars_and_galaxies_are_told_apart(table):
    rows = table[match(table)]
    bright = rows["snr"] > 40
    assert np.mean(rows["isStar"][STAR]) > 0.93
    assert np.mean(~rows["isStar"][bright & ~STAR]) == 1


def test_positions_are_as_good_as_their_errors(table):
    rows = table[match(table)][STAR]
    pull = (rows["x"] - X[STAR]) / rows["xErr"]
    assert np.std(pull) < 1.5
    assert np.hypot(rows["x"] - X[STAR], rows["y"] - Y[STAR]).max() < 0.5


def test_the_shape_of_a_star_is_that_of_the_psf(table):
    rows = table[match(table)][STAR]
    bright = rows["snr"] > 100
    expected = np.array([(FWHM[band] / 2.3548) ** 2 for band in rows["refBand"][bright]])
    np.testing.assert_allclose(rows["shapeXX"][bright], expected, rtol=0.15)


def test_moments_of_an_elongated_gaussian_are_exact():
    image = gaussian(61, 3.0, 30.2, 29.9, axis_ratio=0.6)
    xx, yy, xy = weighted_moments(image, np.array([30.2]), np.array([29.9]), 3.0)[0]
    assert (xx, yy, xy) == pytest.approx((9.0, 9.0 * 0.36, 0.0), rel=0.02, abs=1e-3)


def test_noise_alone_makes_almost_no_object():
    empty = {band: band_image(fwhm, [], [], [], [], seed) for seed, (band, fwhm) in enumerate(FWHM.items())}
    # 300 x 300 pixels hold 10,000 resolution elements: at 5 sigma 0.003 objects are expected.
    assert len(measure_objects(empty, ObjectSettings())) == 0


def test_an_empty_table_has_the_same_columns(table):
    empty = {band: band_image(fwhm, [], [], [], [], seed) for seed, (band, fwhm) in enumerate(FWHM.items())}
    none = measure_objects(empty, ObjectSettings())
    assert none.colnames == table.colnames
    assert [none[c].dtype.kind for c in none.colnames] == [table[c].dtype.kind for c in table.colnames]


def test_a_source_of_one_band_alone_is_found():
    images = {"g": band_image(3.6, [], [], [], [], 7), "r": band_image(3.0, [150.0], [150.0], [120.0], [0.0], 8)}
    table = measure_objects(images, ObjectSettings())
    assert len(table) == 1
    assert table["refBand"][0] == "r"
    assert abs(table["g_psfFlux"][0]) < 4 * table["g_psfFluxErr"][0]


def test_two_stars_two_fwhm_apart_are_two_objects_with_their_own_light():
    x, y, flux = [150.0, 156.5], [150.0, 150.0], [20_000.0, 8_000.0]
    image = band_image(3.0, x, y, flux, [0.0, 0.0], 9)
    table = measure_objects({"r": image}, ObjectSettings())
    assert len(table) == 2
    table.sort("x")
    np.testing.assert_allclose(table["r_psfFlux"], np.array(flux) * NJY_PER_UNIT, rtol=0.02)
    np.testing.assert_allclose(table["r_apFlux"], np.array(flux) * NJY_PER_UNIT, rtol=0.03)
    assert np.all(table["flags"] & SourceFlag.BLENDED)


def test_a_band_without_data_there_gives_nan_and_says_so():
    g, r = band_image(3.6, [150.0], [150.0], [5e3], [0.0], 10), band_image(3.0, [150.0], [150.0], [5e3], [0.0], 11)
    g.data[:], g.variance[:], g.mask[:] = 0, np.inf, np.uint32(Mask.NO_DATA)
    table = measure_objects({"g": g, "r": r}, ObjectSettings())
    assert len(table) == 1
    assert np.isnan(table["g_psfFlux"][0])
    assert table["g_flags"][0] & SourceFlag.NO_FIT
    assert table["r_psfFlux"][0] == pytest.approx(5e3 * NJY_PER_UNIT, rel=0.05)


def test_a_saturated_core_is_flagged():
    image = band_image(3.0, [150.0], [150.0], [5e4], [0.0], 12)
    image.mask[150, 150] = np.uint32(Mask.SAT)
    table = measure_objects({"r": image}, ObjectSettings())
    row = table[np.argmax(table["r_psfFlux"])]
    assert row["flags"] & SourceFlag.SATURATED


@pytest.mark.parametrize("n_bands", [1, 2, 6])
def test_the_threshold_keeps_the_chance_of_a_gaussian(n_bands):
    threshold = chi_threshold(2.0, n_bands)
    draws = np.random.default_rng(13).normal(size=(200_000, n_bands))
    chance = np.mean(np.sqrt((np.maximum(draws, 0) ** 2).sum(axis=1)) > threshold)
    assert chance == pytest.approx(stats.norm.sf(2.0), rel=0.05)


def test_a_very_bright_star_is_one_object():
    # Its photon noise is a hundred times the sky's: it must neither fall below a limit nor break up.
    table = measure_objects({"r": band_image(3.0, [150.3], [150.6], [3e6], [0.0], 15)}, ObjectSettings())
    assert len(table) == 1
    assert table["r_psfFlux"][0] == pytest.approx(3e6 * NJY_PER_UNIT, rel=0.01)


def test_matched_signal_to_noise_of_noise_has_scatter_one():
    snr = matched_snr(band_image(3.0, [], [], [], [], 14))
    assert np.std(snr[10:-10, 10:-10]) == pytest.approx(1.0, abs=0.05)


def test_detection_order_does_not_depend_on_the_order_of_bands(bands):
    one = detect_objects(bands, ObjectSettings())
    two = detect_objects(dict(reversed(bands.items())), ObjectSettings())
    np.testing.assert_allclose(np.sort(one.x), np.sort(two.x), atol=1e-3)

"""Forced photometry: unbiased, with honest errors, also where sources touch."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS

from payloads.forced import forced_fluxes, njy, on_frame
from payloads.mask import Mask
from payloads.psf import PsfModel

SIDE, SIGMA, FWHM = 400, 10.0, 3.2


def gaussian_stamp(side: int, fwhm_px: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    half = side // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1]
    sigma = fwhm_px / 2.3548
    return np.exp(-0.5 * ((u - x) ** 2 + (v - y) ** 2) / sigma**2) / (2 * np.pi * sigma**2)


PSF = PsfModel.constant(gaussian_stamp(25, FWHM))


def scene(x, y, flux, seed: int, noise: bool = True):
    """Gaussian stars with photon noise over a flat sky: data and variance."""
    image = np.zeros((SIDE, SIDE))
    for px, py, f in zip(x, y, flux, strict=True):
        i, j = round(px), round(py)
        image[j - 12 : j + 13, i - 12 : i + 13] += f * gaussian_stamp(25, FWHM, px - i, py - j)
    variance = SIGMA**2 + image
    data = image + (np.random.default_rng(seed).normal(0, np.sqrt(variance)) if noise else 0)
    return data.astype(np.float32), variance.astype(np.float32)


def places(count: int, seed: int):
    rng = np.random.default_rng(seed)
    return rng.uniform(15, SIDE - 16, count), rng.uniform(15, SIDE - 16, count), 10 ** rng.uniform(1.5, 4.5, count)


def test_pulls_of_a_crowded_field_are_normal():
    x, y, flux = places(1500, 1)
    data, variance = scene(x, y, flux, 2)
    found = forced_fluxes(data, variance, None, PSF, x, y)
    pull = (found.flux - flux) / found.flux_err
    assert found.good.all()
    # 1,500 of them: mean known to 0.026, scatter to 0.02.
    assert abs(np.mean(pull)) < 0.1
    assert np.std(pull) == pytest.approx(1.0, abs=0.08)


def test_two_stars_one_fwhm_apart_get_their_own_light():
    x, y, flux = np.array([100.2, 100.2 + FWHM]), np.array([100.4, 100.4]), np.array([50_000.0, 2_000.0])
    data, variance = scene(x, y, flux, 0, noise=False)
    found = forced_fluxes(data, variance, None, PSF, x, y)
    np.testing.assert_allclose(found.flux, flux, rtol=2e-3)
    alone = forced_fluxes(data, variance, None, PSF, x[:1], y[:1])
    assert found.flux_err[0] > alone.flux_err[0]


def test_the_error_of_a_faint_isolated_source_is_the_textbook_one():
    data, variance = scene([], [], [], 3)
    found = forced_fluxes(data, variance, None, PSF, np.array([200.0]), np.array([200.0]))
    assert found.flux_err[0] == pytest.approx(SIGMA / np.sqrt((PSF.at(0, 0) ** 2).sum()), rel=0.01)


def test_nothing_there_gives_zero_within_its_error():
    data, variance = scene([], [], [], 4)
    x, y, _ = places(300, 5)
    found = forced_fluxes(data, variance, None, PSF, x, y)
    assert abs(np.mean(found.flux / found.flux_err)) < 4 / np.sqrt(300) * 1.5


def test_a_source_under_bad_pixels_has_no_flux_and_says_why():
    x, y, flux = np.array([100.0, 300.0]), np.array([100.0, 300.0]), np.array([1e4, 1e4])
    data, variance = scene(x, y, flux, 6)
    mask = np.zeros(data.shape, np.uint32)
    mask[95:106, 95:106] = np.uint32(Mask.BAD)
    found = forced_fluxes(data, variance, mask, PSF, x, y)
    assert np.isnan(found.flux[0])
    assert found.bits[0] & np.uint32(Mask.BAD)
    assert found.flux[1] == pytest.approx(1e4, abs=5 * found.flux_err[1])
    assert found.bits[1] == 0


def test_a_few_bad_pixels_do_not_change_the_flux():
    x, y, flux = np.array([100.3]), np.array([100.1]), np.array([1e5])
    data, variance = scene(x, y, flux, 0, noise=False)
    mask = np.zeros(data.shape, np.uint32)
    data[100, 101], mask[100, 101] = 1e6, np.uint32(Mask.CR)
    found = forced_fluxes(data, variance, mask, PSF, x, y)
    assert found.flux[0] == pytest.approx(1e5, rel=2e-3)


def test_places_off_the_frame_have_no_flux():
    data, variance = scene([], [], [], 7)
    found = forced_fluxes(data, variance, None, PSF, np.array([-5.0, 1e4]), np.array([50.0, 50.0]))
    assert np.isnan(found.flux).all()
    assert np.all(found.bits == np.uint32(Mask.NO_DATA))


def test_variance_that_is_infinite_counts_as_no_pixel():
    x, y, flux = np.array([100.0]), np.array([100.0]), np.array([1e4])
    data, variance = scene(x, y, flux, 8)
    variance[:90], data[:90] = np.inf, 0
    found = forced_fluxes(data, variance, None, PSF, x, y)
    assert np.isfinite(found.flux_err[0])


def test_no_place_gives_no_row():
    data, variance = scene([], [], [], 9)
    assert forced_fluxes(data, variance, None, PSF, np.zeros(0), np.zeros(0)).flux.shape == (0,)


def test_nanojansky_are_ab():
    assert njy(31.4) == pytest.approx(1.0)
    assert 1e4 * njy(27.0) == pytest.approx(10 ** (-0.4 * (27.0 - 2.5 * 4 - 8.9)) * 1e9, rel=1e-6)


def test_places_behind_the_sky_are_not_on_the_frame():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [10.0, 20.0], [200.0, 200.0]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    index, x, y = on_frame(wcs, np.array([190.0, 10.0, 10.5]), np.array([-20.0, 20.0, 20.0]), (SIDE, SIDE))
    assert index.tolist() == [1]
    assert (x[0], y[0]) == pytest.approx((199.0, 199.0))

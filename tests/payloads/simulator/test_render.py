from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from payloads.simulator.mixture import moffat, sersic
from payloads.simulator.psf import PsfField
from payloads.simulator.render import Gaussians, add_gaussians


def one(x: float, y: float, flux: float, cxx: float, cxy: float, cyy: float) -> Gaussians:
    return Gaussians(**{k: np.array([v]) for k, v in {"x": x, "y": y, "flux": flux, "cxx": cxx, "cxy": cxy, "cyy": cyy}.items()})


def pixel_integral(n: int, centre: float, sigma: float) -> np.ndarray:
    edges = (np.arange(n + 1) - 0.5 - centre) / (np.sqrt(2) * sigma)
    return 0.5 * np.diff(erf(edges))


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("offset", [0.0, 0.31, 0.5])
def test_every_pixel_is_the_integral_of_the_gaussian_over_it(sigma: float, offset: float):
    image = np.zeros((81, 81), dtype=np.float32)
    add_gaussians(image, one(40 + offset, 40 - offset / 2, 1e5, sigma**2, 0.0, sigma**2), floor=1e-3)
    exact = 1e5 * np.outer(pixel_integral(81, 40 - offset / 2, sigma), pixel_integral(81, 40 + offset, sigma))
    assert np.abs(image - exact).max() < 1.5e-3 * exact.max()
    assert image.sum() == pytest.approx(1e5, rel=1e-3)


@pytest.mark.parametrize("flux", [1.0, 300.0, 1e6])
def test_flux_is_conserved_whether_faint_or_bright_round_or_not(flux: float):
    image = np.zeros((101, 101), dtype=np.float32)
    add_gaussians(image, one(50.2, 49.7, flux, 4.0, 1.5, 2.5))
    assert image.sum(dtype=np.float64) == pytest.approx(flux, rel=1e-3)


def test_second_moments_are_those_asked_for_plus_a_pixel():
    image = np.zeros((101, 101), dtype=np.float32)
    add_gaussians(image, one(50.2, 49.7, 1e6, 9.0, 2.5, 5.0))
    y, x = np.mgrid[0:101, 0:101]
    total = image.sum(dtype=np.float64)
    cx, cy = (image * x).sum(dtype=np.float64) / total, (image * y).sum(dtype=np.float64) / total
    assert (cx, cy) == pytest.approx((50.2, 49.7), abs=1e-3)
    moments = [
        (image * (x - cx) ** 2).sum() / total,
        (image * (x - cx) * (y - cy)).sum() / total,
        (image * (y - cy) ** 2).sum() / total,
    ]
    assert moments == pytest.approx([9 + 1 / 12, 2.5, 5 + 1 / 12], rel=5e-3)


def test_light_at_an_edge_is_cut_and_light_outside_is_lost():
    whole, part = np.zeros((80, 80), dtype=np.float32), np.zeros((40, 40), dtype=np.float32)
    add_gaussians(whole, one(39.5, 20.0, 1e4, 4.0, 0.5, 4.0))
    add_gaussians(part, one(39.5, 20.0, 1e4, 4.0, 0.5, 4.0))
    np.testing.assert_allclose(part, whole[:40, :40], atol=1e-3)
    add_gaussians(part, one(500.0, 20.0, 1e4, 4.0, 0.5, 4.0))
    np.testing.assert_allclose(part, whole[:40, :40], atol=1e-3)


@pytest.mark.parametrize("beta", [2.5, 3.5, 4.7])
def test_moffat_as_gaussians_follows_the_moffat_to_a_percent_of_its_peak(beta: float):
    mixture = moffat(beta)
    radius = np.linspace(0, 3, 200)
    alpha = 0.5 / np.sqrt(2 ** (1 / beta) - 1)
    exact = (beta - 1) / (np.pi * alpha**2) * (1 + (radius / alpha) ** 2) ** -beta
    assert mixture.fwhm() == pytest.approx(1.0, abs=1e-6)
    assert mixture.weight.sum() == pytest.approx(1.0)
    # The wings beyond 5 FWHM are let go: the rest is brighter by their share.
    kept = 1 - (1 + (5 / alpha) ** 2) ** (1 - beta)
    assert np.abs(mixture.surface_brightness(radius) * kept - exact).max() < 0.02 * exact[0]


@pytest.mark.parametrize("index", [1.0, 4.0])
def test_sersic_as_gaussians_has_half_its_light_within_one_and_follows_the_profile(index: float):
    mixture = sersic(index)
    assert mixture.half_light() == pytest.approx(1.0)
    radius = np.linspace(0.3, 2.5, 50)
    b = {1.0: 1.67835, 4.0: 7.66925}[index]
    ratio = mixture.surface_brightness(radius) / np.exp(-b * radius ** (1 / index))
    assert np.ptp(np.log(ratio)) < 0.35  # the cut moves the half-light radius a little; the shape stays


def test_psf_has_the_fwhm_and_ellipticity_of_its_place():
    coefficients = np.zeros((6, 3))
    coefficients[0] = [1.0, 0.1, -0.05]
    coefficients[3, 0] = 0.2  # size grows as u²
    field = PsfField(fwhm_px=4.0, beta=3.5, coefficients=coefficients)
    u, v = np.array([0.0, 1.0]), np.zeros(2)
    assert field.fwhm(u, v) == pytest.approx([4.0, 4.8])
    shape = field.shape(u, v)
    determinant = shape[0] * shape[2] - shape[1] ** 2
    assert determinant**0.25 == pytest.approx([4.0, 4.8])
    assert (shape[0] - shape[2]) / (shape[0] + shape[2]) == pytest.approx([0.1, 0.1])
    image = np.zeros((121, 121), dtype=np.float32)
    add_gaussians(image, field.points(np.array([60.0]), np.array([60.0]), np.array([1e6]), np.zeros(1), np.zeros(1)))
    assert image.sum(dtype=np.float64) == pytest.approx(1e6, rel=1e-3)

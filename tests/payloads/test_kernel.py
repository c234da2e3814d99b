"""The matching kernel against scenes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import fftconvolve

from payloads.kernel import KernelConfig, KernelError, basis, choose_stamps, solve_kernel
from payloads.kernel_field import KernelField, n_terms, polynomial, powers
from payloads.mask import Mask

SHAPE = (300, 320)


def gaussian(dx, dy, sigma):
    return np.exp(-0.5 * (dx**2 + dy**2) / sigma**2) / (2 * np.pi * sigma**2)


def stars(x, y, flux, sigma, shape=SHAPE):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for a, b, f, s in zip(x, y, flux, np.broadcast_to(sigma, x.shape), strict=True):
        rows, columns = slice(max(0, int(b) - 25), int(b) + 26), slice(max(0, int(a) - 25), int(a) + 26)
        image[rows, columns] += f * gaussian(xx[rows, columns] - a, yy[rows, columns] - b, s)
    return image


@pytest.fixture
def field():
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, SHAPE[1], 120), rng.uniform(0, SHAPE[0], 120)
    return rng, x, y, 10 ** rng.uniform(3.5, 5.3, 120)


def solve(source, target, x, y, noise=1.0, **config):
    variance = np.full(SHAPE, noise**2)
    mask = np.zeros(SHAPE, np.uint32)
    return solve_kernel(source, target, variance, variance, mask, x, y, 4.5, KernelConfig(**config))


def test_polynomial_of_lower_order_is_a_prefix_of_that_of_higher_order():
    assert powers(2)[: n_terms(1)] == powers(1)
    assert polynomial(np.array([0.0]), np.array([0.0]), 1, (10, 10)).tolist() == [[1.0, -1.0, -1.0]]


def test_first_basis_sums_to_one_and_all_others_to_zero():
    functions = basis(8, (1.0, 2.0), (4, 2))
    assert functions.shape == (15 + 6, 17, 17)
    np.testing.assert_allclose(functions.sum(axis=(1, 2)), [1] + [0] * 20, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 64), (97, 150)])
def test_convolution_by_tiles_equals_direct_convolution(shape):
    rng = np.random.default_rng(1)
    image = rng.normal(size=shape)
    kernel = rng.normal(size=(7, 7))
    ours = KernelField.constant(kernel, shape).convolve(image)
    np.testing.assert_allclose(ours, fftconvolve(image, kernel, mode="same"), atol=1e-4)


def test_convolution_of_some_rows_or_in_place_is_that_of_the_image():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(90, 75)).astype(np.float32)
    field = KernelField(rng.normal(size=(3, 7, 7)), 1, image.shape)
    whole = field.convolve(image)
    rows = field.convolve_rows(image[29:70], 29, (32, 66))
    np.testing.assert_array_equal(rows, whole[32:66])
    assert field.convolve(image, overwrite=True) is image
    np.testing.assert_array_equal(image, whole)


def test_varying_convolution_applies_at_each_place_the_kernel_of_that_place():
    shape = (120, 120)
    rng = np.random.default_rng(2)
    image = rng.normal(size=shape)
    terms = rng.normal(size=(6, 5, 5))
    terms[1:] *= 0.02  # a kernel of a real optics varies by some per cent over a frame
    field = KernelField(terms, 2, shape)
    result = field.convolve(image)
    for x, y in ((20, 31), (32, 64), (99, 7)):
        kernel = field.at(np.array([x]), np.array([y]))[0]
        window = image[y - 2 : y + 3, x - 2 : x + 3]
        assert result[y, x] == pytest.approx((window * kernel[::-1, ::-1]).sum(), abs=0.01 * np.abs(kernel).sum())


def test_samples_of_a_polynomial_field_give_the_field_back():
    field = KernelField(np.random.default_rng(3).normal(size=(6, 3, 3)), 2, (50, 60))
    x, y = field.grid()
    np.testing.assert_allclose(KernelField.from_samples(x, y, field.at(x, y), 2, (50, 60)).coefficients, field.coefficients)


def test_kernel_recovers_scale_background_and_shape(field):
    rng, x, y, flux = field
    source = stars(x, y, flux, 1.4) + rng.normal(0, 1, SHAPE)
    target = stars(x, y, 0.8 * flux, 1.9) + 7 + rng.normal(0, 1, SHAPE)
    kernel = solve(source, target, x, y)
    assert kernel.sum == pytest.approx(0.8, rel=0.003)
    np.testing.assert_allclose(kernel.background().mean(), 7, atol=0.3)
    width = np.sqrt(1.9**2 - 1.4**2)
    t = np.arange(-9, 10)
    expected = 0.8 * gaussian(t[None], t[:, None], width)
    half = kernel.field.half_size_px
    found = kernel.field.at(np.array([160.0]), np.array([150.0]))[0][half - 3 : half + 4, half - 3 : half + 4]
    np.testing.assert_allclose(found, expected[6:13, 6:13], atol=0.06 * expected.max())  # pixels are coarse for these widths


def test_backgrounds_that_no_plane_describes_do_not_change_the_scale(field):
    rng, x, y, _ = field
    flux = 10 ** rng.uniform(3.5, 4.0, len(x))  # bright stars alone would outweigh the waves
    source = stars(x, y, flux, 1.4) + rng.normal(0, 1, SHAPE)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    waves = 15 * np.sin(columns / 40) * np.sin(rows / 40)
    target = stars(x, y, 0.8 * flux, 1.9) + waves + rng.normal(0, 1, SHAPE)
    assert solve(source, target, x, y).sum == pytest.approx(0.8, rel=0.01)


def test_kernel_follows_a_psf_that_changes_over_the_field(field):
    rng, x, y, flux = field
    widths = 1.9 + 0.3 * (x / SHAPE[1] - 0.5)
    source = stars(x, y, flux, 1.3) + rng.normal(0, 1, SHAPE)
    target = stars(x, y, flux, widths) + rng.normal(0, 1, SHAPE)
    rms = {}
    for order in (0, 1):
        kernel = solve(source, target, x, y, order=order)
        rms[order] = (target - kernel.field.convolve(source) - kernel.background())[20:-20, 20:-20].std()
    assert rms[1] < 0.6 * rms[0]


def test_noise_of_the_source_does_not_make_the_kernel_smooth(field):
    """Errors in variables: equal PSFs and a noisy source would give a kernel that loses the stars' peaks."""
    rng, x, y, flux = field
    scene = stars(x, y, flux, 1.6)
    source, target = scene + rng.normal(0, 20, SHAPE), scene + rng.normal(0, 1, SHAPE)
    bright = scene > 2000
    loss = {}
    for removed in (0.0, 0.8):
        kernel = solve_kernel(
            source,
            target,
            np.full(SHAPE, 400.0),
            np.ones(SHAPE),
            np.zeros(SHAPE, np.uint32),
            x,
            y,
            3.8,
            KernelConfig(order=0, noise_removed=(removed,)),
        )
        loss[removed] = 1 - (kernel.field.convolve(scene)[bright] / scene[bright]).mean()
    assert loss[0.8] < 0.5 * loss[0.0]
    assert loss[0.8] < 0.02


def test_variable_stars_are_clipped_and_do_not_change_the_scale(field):
    rng, x, y, flux = field
    changed = flux.copy()
    changed[::10] *= 1.5
    source = stars(x, y, flux, 1.4) + rng.normal(0, 1, SHAPE)
    target = stars(x, y, changed, 1.9) + rng.normal(0, 1, SHAPE)
    kernel = solve(source, target, x, y, order=0)
    assert kernel.sum == pytest.approx(1, abs=0.005)
    assert kernel.n_used < kernel.n_stamps


def test_too_few_stars_is_an_error_that_says_what_to_do(field):
    _, x, y, flux = field
    image = stars(x, y, flux, 1.5)
    with pytest.raises(KernelError, match=r"only 2 stars .* coverage"):
        solve(image, image, np.array([100.0, 200.0]), np.array([100.0, 200.0]))


def test_stamps_are_bright_unsaturated_and_spread_over_the_image(field):
    rng, x, y, flux = field
    image = stars(x, y, flux, 1.6) + rng.normal(0, 3, SHAPE)
    mask = np.zeros(SHAPE, np.uint32)
    mask[:, :160] |= np.uint32(Mask.SAT)
    sx, sy = choose_stamps(image, np.full(SHAPE, 9.0), mask, 3.8, 14, KernelConfig(max_stamps=20))
    assert 3 < len(sx) <= 20
    assert sx.min() > 160
    assert np.ptp(sy) > 150
    distance = np.hypot(sx[:, None] - x, sy[:, None] - y).min(axis=1)
    assert (distance < 1.5).all()

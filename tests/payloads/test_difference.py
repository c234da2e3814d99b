"""Subtraction of made scenes: noise, photometry, masks, and the direction of convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from payloads.difference import (
    Difference,
    DifferenceConfig,
    Image,
    decorrelation_kernel,
    spread_mask,
    subtract,
    wings,
)
from payloads.kernel_field import KernelField
from payloads.mask import UNUSABLE, Mask, any_set
from payloads.template import merge_templates

SHAPE = (320, 320)
SKY = 400.0


def moffat(dx, dy, fwhm, beta=3.5):
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (beta - 1) / np.pi / alpha**2 * (1 + (dx**2 + dy**2) / alpha**2) ** -beta


def add(image, x, y, flux, fwhm):
    ny, nx = image.shape
    for a, b, f in zip(x, y, flux, strict=True):
        rows, columns = slice(max(0, int(b) - 40), min(ny, int(b) + 41)), slice(max(0, int(a) - 40), min(nx, int(a) + 41))
        yy, xx = np.mgrid[rows, columns]
        image[rows, columns] += f * moffat(xx - a, yy - b, fwhm)


@dataclass
class Scene:
    science: Image
    template: Image
    psf: KernelField
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray


def make_scene(science_fwhm=3.6, template_fwhm=2.8, depth=6.0, seed=1, scale=0.9):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SHAPE[1], 160), rng.uniform(0, SHAPE[0], 160)
    flux = np.minimum(1000 * (rng.pareto(0.8, 160) + 0.3), 3e5)
    new_x, new_y = np.meshgrid(np.linspace(35, 285, 5), np.linspace(35, 285, 5))
    new_x, new_y = new_x.ravel() + rng.uniform(-0.5, 0.5, 25), new_y.ravel() + rng.uniform(-0.5, 0.5, 25)
    new_flux = np.full(25, 3000.0)
    images = []
    for fwhm, factor, deep in ((science_fwhm, 1.0, 1.0), (template_fwhm, 1 / scale, depth)):
        image = np.zeros(SHAPE)
        add(image, x, y, flux * factor, fwhm)
        if deep == 1.0 and not images:
            add(image, new_x, new_y, new_flux, fwhm)
        variance = (image + SKY) / deep
        noisy = image + rng.normal(size=SHAPE) * np.sqrt(variance)
        mask = np.where(noisy > 50_000, np.uint32(Mask.SAT), np.uint32(0))
        images.append(Image(data=noisy, variance=variance, mask=mask, fwhm_px=fwhm))
    t = np.arange(-12, 13)
    stamp = moffat(t[None], t[:, None], science_fwhm)
    return Scene(*images, KernelField.constant(stamp / stamp.sum(), SHAPE), new_x, new_y, new_flux)


def forced(result: Difference, x, y):
    """PSF fluxes and errors at whole pixels with the shifted PSF of a constant field."""
    from payloads.dia_sources import shift

    px, py = np.round(x).astype(int), np.round(y).astype(int)
    stamps = shift(result.psf.at(x, y), x - px, y - py)
    half = stamps.shape[-1] // 2
    flux, error = [], []
    for a, b, stamp in zip(px, py, stamps, strict=True):
        cut = np.s_[b - half : b + half + 1, a - half : a + half + 1]
        weight = stamp / result.variance[cut]
        flux.append((weight * result.data[cut]).sum() / (weight * stamp).sum())
        error.append(1 / np.sqrt((weight * stamp).sum()))
    return np.array(flux), np.array(error)


def spread_of(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


@pytest.mark.parametrize(
    ("science_fwhm", "template_fwhm", "convolved"), [(3.6, 2.8, "template"), (2.8, 3.6, "science"), (3.2, 3.2, "template")]
)
def test_the_sharper_image_is_convolved_and_the_noise_is_what_the_variance_says(science_fwhm, template_fwhm, convolved):
    scene = make_scene(science_fwhm, template_fwhm)
    result = subtract(scene.science, scene.template, scene.psf)
    assert result.convolved == convolved
    assert result.kernel_sum == pytest.approx(0.9, rel=0.02)
    clean = (result.mask == 0) & (np.abs(result.matched_template) < 3 * np.sqrt(SKY))
    assert spread_of((result.data / np.sqrt(result.variance))[clean]) == pytest.approx(1, abs=0.03)
    assert np.median(result.data[clean]) == pytest.approx(0, abs=0.05 * np.sqrt(SKY))


def test_new_sources_have_their_flux_within_their_errors():
    pulls = []
    for seed in (1, 2):
        scene = make_scene(seed=seed)
        result = subtract(scene.science, scene.template, scene.psf)
        flux, error = forced(result, scene.x, scene.y)
        usable = ~any_set(result.mask, Mask.SAT | Mask.SUSPECT, SHAPE)[
            np.round(scene.y).astype(int), np.round(scene.x).astype(int)
        ]
        pulls.append(((flux - scene.flux) / error)[usable])
    pull = np.concatenate(pulls)
    assert abs(np.median(pull)) < 0.5
    assert 0.7 < spread_of(pull) < 1.4


def test_forced_fluxes_of_blank_sky_scatter_as_their_errors_say_only_with_decorrelation():
    """A template as noisy as the science image: its convolved noise is correlated, and errors would be too small."""
    scene = make_scene(3.8, 2.4, depth=1.0, seed=5)
    t = np.linspace(34, 286, 24)
    x, y = (g.ravel() for g in np.meshgrid(t, t))
    width = {}
    for decorrelate in (True, False):
        result = subtract(scene.science, scene.template, scene.psf, DifferenceConfig(decorrelate=decorrelate))
        blank = (result.matched_template < 20)[np.round(y).astype(int), np.round(x).astype(int)]
        flux, error = forced(result, x[blank], y[blank])
        width[decorrelate] = spread_of(flux / error)
    assert width[True] == pytest.approx(1, abs=0.12)
    assert width[False] > 1.12 * width[True]


@pytest.mark.parametrize(("science_fwhm", "template_fwhm"), [(5.0, 3.7), (3.7, 5.0)])
def test_bright_stars_leave_no_ring_of_their_wings(science_fwhm, template_fwhm):
    """Seeing changes the wings by a factor, far out: a kernel without them takes a fifth too much, or too little, off."""
    rng = np.random.default_rng(4)
    x, y = (40 + 60 * g.ravel() + rng.uniform(-0.5, 0.5, 25) for g in np.mgrid[:5, :5])
    images = []
    for fwhm in (science_fwhm, template_fwhm):
        light = np.zeros(SHAPE)
        add(light, x, y, np.full(25, 2e5), fwhm)
        noisy = light + rng.normal(size=SHAPE) * np.sqrt(light + 25)
        images.append(Image(data=noisy, variance=light + 25, mask=np.zeros(SHAPE, np.uint32), fwhm_px=fwhm))
    t = np.arange(-12, 13)
    psf = KernelField.constant(moffat(t[None], t[:, None], science_fwhm), SHAPE)
    result = subtract(*images, psf, DifferenceConfig(background_px=0))
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(rows - y[:, None, None], columns - x[:, None, None]).min(axis=0)
    ring = (distance > 13) & (distance < 17) & ~any_set(result.mask, UNUSABLE, SHAPE)
    assert abs(result.data[ring].mean()) < 0.06 * result.matched_template[ring].mean()


def test_decorrelation_kernel_whitens_noise_and_keeps_flux():
    rng = np.random.default_rng(8)
    t = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (t[None] ** 2 + t[:, None] ** 2) / 1.5**2)
    field = KernelField.constant(kernel / kernel.sum(), SHAPE)
    whiten = decorrelation_kernel(field, 4.0, 1.0)
    assert whiten.sum() == pytest.approx(1)
    noise = rng.normal(0, 1, SHAPE) - field.convolve(rng.normal(0, 2, SHAPE))
    white = KernelField.constant(whiten, SHAPE).convolve(noise)[20:-20, 20:-20]
    assert white.var() == pytest.approx(5, rel=0.03)
    assert abs((white[:, 1:] * white[:, :-1]).mean() / white.var()) < 0.02
    raw = noise[20:-20, 20:-20]
    assert abs((raw[:, 1:] * raw[:, :-1]).mean() / raw.var()) > 0.1


def test_wings_of_saturated_stars_are_suspect_farther_out_for_larger_stars():
    mask = np.zeros((200, 200), np.uint32)
    mask[50, 50] = np.uint32(Mask.SAT)
    mask[130:150, 130:150] = np.uint32(Mask.SAT)
    suspect = any_set(wings(mask, 3.0, DifferenceConfig()), Mask.SUSPECT, mask.shape)
    assert suspect[50, 50 + 7]
    assert not suspect[50, 50 + 12]
    assert suspect[140, 150 + 20]
    assert not suspect[140, 150 + 40]


def test_a_reflection_around_a_saturated_star_is_suspect_and_a_crowd_of_stars_is_none():
    y, x = np.mgrid[0:400, 0:400]
    radius = np.hypot(x - 205, y - 198)
    mask = np.where(np.hypot(x - 200, y - 200) < 6, np.uint32(Mask.SAT), np.uint32(0))
    rng = np.random.default_rng(3)
    sky = rng.normal(0, 1.0, mask.shape)
    shadow = (radius < 80) & (np.abs(radius - 45) > 4)
    reflection = sky + np.where(shadow, 1.5, 0.0)
    crowd = sky + ndimage.gaussian_filter(rng.exponential(60.0, mask.shape) * (rng.random(mask.shape) < 0.05), 1.5)
    reach = {}
    for name, light in (("sky", sky), ("reflection", reflection), ("crowd", crowd)):
        suspect = any_set(wings(mask, 3.0, DifferenceConfig(), light=light, noise=1.5), Mask.SUSPECT, mask.shape)
        reach[name] = np.sqrt(suspect.sum() / np.pi)
    assert reach["sky"] < 30
    assert reach["crowd"] < 40
    assert 80 < reach["reflection"] < 110


def test_missing_template_is_no_data_and_zero_in_the_difference():
    scene = make_scene()
    mask = scene.template.mask.copy()
    mask[:, :60] |= np.uint32(Mask.NO_DATA)
    data = scene.template.data.copy()
    data[:, :60] = np.nan
    variance = np.where(any_set(mask, Mask.NO_DATA, SHAPE), np.inf, scene.template.variance)
    template = Image(data=data, variance=variance, mask=mask, fwhm_px=scene.template.fwhm_px)
    result = subtract(scene.science, template, scene.psf)
    lost = any_set(result.mask, Mask.NO_DATA, SHAPE)
    assert lost[:, :60].all()
    assert not lost[:, 80:].any()
    assert (result.data[lost] == 0).all()
    assert np.isfinite(result.data).all()
    assert np.isfinite(result.variance).all()


def test_what_a_defect_of_the_convolved_image_holds_is_not_spread_as_light():
    scene = make_scene(2.8, 3.6)
    mask = scene.science.mask.copy()
    mask[150, 150] |= np.uint32(Mask.BAD)
    results = []
    for value in (0.0, 1e5):
        data = scene.science.data.copy()
        data[150, 150] = value
        science = Image(data=data, variance=scene.science.variance, mask=mask, fwhm_px=scene.science.fwhm_px)
        results.append(subtract(science, scene.template, scene.psf))
        assert data[150, 150] == value
    assert results[0].convolved == "science"
    np.testing.assert_allclose(results[1].data, results[0].data, atol=1e-3)


def test_flags_of_the_template_spread_as_far_as_the_kernel_weighs():
    mask = np.zeros((60, 60), np.uint32)
    mask[30, 30] = np.uint32(Mask.BAD)
    mask[30, 10] = np.uint32(Mask.DETECTED)
    t = np.arange(-5, 6)
    kernel = np.exp(-0.5 * (t[None] ** 2 + t[:, None] ** 2) / 1.2**2)
    spread = spread_mask(mask, KernelField.constant(kernel / kernel.sum(), mask.shape), 0.05)
    bad = any_set(spread, Mask.BAD, mask.shape)
    assert bad[30, 31]
    assert not bad[30, 33]
    assert not any_set(spread, Mask.DETECTED, mask.shape).any()
    assert any_set(spread, Mask.EDGE, mask.shape)[4, 30]
    assert not any_set(spread, Mask.EDGE, mask.shape)[5, 30]


def test_patches_fill_each_others_gaps_and_what_none_has_is_no_data():
    left, right = np.ones((4, 6), np.float32), np.full((4, 6), 2, np.float32)
    yes = np.full((4, 6), np.uint32(Mask.NO_DATA))
    left_mask, right_mask = yes.copy(), yes.copy()
    left_mask[:, :3], right_mask[:, 2:5] = 0, 0
    data, _, mask = merge_templates([(left, left, left_mask), (right, right, right_mask)])
    assert data[0, :5].tolist() == [1, 1, 1, 2, 2]
    assert any_set(mask, Mask.NO_DATA, mask.shape)[0].tolist() == [False] * 5 + [True]

"""The PSF model: what it stores, how well it is measured, and that its shifts are exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from payloads.psf import PsfModel, fit_psf, shifted, smooth_wings, stamp_fwhm, terms

SIZE = 25


def _moffat(dx: np.ndarray, dy: np.ndarray, fwhm: float, beta: float = 3.5) -> np.ndarray:
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (beta - 1) / (np.pi * alpha**2) * (1 + (dx**2 + dy**2) / alpha**2) ** -beta


def _stamp(fwhm: float, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[-(SIZE // 2) : SIZE // 2 + 1, -(SIZE // 2) : SIZE // 2 + 1]
    return _moffat(x - dx, y - dy, fwhm)


def test_storage_gives_back_the_same_model() -> None:
    rng = np.random.default_rng(1)
    coefficients = np.stack([_stamp(3.0), *(0.01 * rng.normal(size=(SIZE, SIZE)) for _ in range(5))])
    model = PsfModel(coefficients=coefficients, x0=255.5, y0=200.0, scale=256.0)
    image = model.to_ccddata()
    assert image.data.shape == (6, SIZE, SIZE)
    back = PsfModel.from_ccddata(image)
    assert back.order == 2
    np.testing.assert_allclose(back.at(30, 400), model.at(30, 400), atol=1e-7)


def test_a_constant_psf_is_the_same_everywhere_and_of_sum_one() -> None:
    model = PsfModel.constant(7.0 * _stamp(3.0))
    assert model.at(0, 0).sum() == pytest.approx(1.0)
    assert np.array_equal(model.at(0, 0), model.at(1000, 2000))
    assert model.order == 0


@pytest.mark.parametrize("fwhm", [2.0, 3.4, 6.0])
def test_fwhm_is_that_of_the_profile(fwhm: float) -> None:
    assert stamp_fwhm(_stamp(fwhm)) == pytest.approx(fwhm, rel=0.03)


def test_many_shifts_at_once_equal_scipys_one_by_one() -> None:
    rng = np.random.default_rng(2)
    stamps = np.stack([_stamp(f) for f in (2.5, 3.0, 4.0)])
    dx, dy = rng.uniform(-0.9, 0.9, (2, 3))
    moved = shifted(stamps, dx, dy)
    for k in range(3):
        expected = ndimage.shift(stamps[k], (dy[k], dx[k]), order=5, mode="mirror")
        np.testing.assert_allclose(moved[k, 4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-6)


def test_a_shifted_star_is_the_star_at_the_other_place() -> None:
    moved = shifted(_stamp(3.0)[None], np.array([0.3]), np.array([-0.45]))[0]
    np.testing.assert_allclose(moved[3:-3, 3:-3], _stamp(3.0, 0.3, -0.45)[3:-3, 3:-3], atol=3e-4)


def test_terms_count_from_the_constant() -> None:
    assert terms(2) == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]


def _stars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, 492, (2, count))
    stamps = np.stack([_stamp(3.0 + (a - 256) / 512) for a in x])
    return stamps + rng.normal(0, 2e-4, stamps.shape), x, y


def test_a_psf_that_varies_over_the_frame_is_followed() -> None:
    stamps, x, y = _stars(120, 3)
    model, kept = fit_psf(stamps, x, y, (512, 512))
    assert model.order == 2
    assert kept.sum() > 110
    for place in (30, 256, 480):
        truth = _stamp(3.0 + (place - 256) / 512)
        np.testing.assert_allclose(model.at(place, 256), truth / truth.sum(), atol=0.01 * truth.max())


def test_order_falls_with_the_number_of_stars() -> None:
    stamps, x, y = _stars(30, 4)
    assert fit_psf(stamps, x, y, (512, 512))[0].order == 1
    assert fit_psf(stamps[:7], x[:7], y[:7], (512, 512))[0].order == 0


def test_a_blended_star_and_a_galaxy_are_left_out() -> None:
    stamps, x, y = _stars(60, 5)
    stamps[10] += 0.5 * _stamp(3.0, 6.0, 2.0)
    stamps[20] = _stamp(7.0)
    _, kept = fit_psf(stamps, x, y, (512, 512))
    assert not kept[10]
    assert not kept[20]


def test_leftover_sky_in_the_wings_is_taken_off() -> None:
    clean = _stamp(3.0)
    model = smooth_wings(PsfModel.constant(clean + 3e-5), 6.0)
    truth = clean / clean.sum()
    assert model.at(0, 0).sum() == pytest.approx(1.0)
    # The sky made the core 2 % too faint in a stamp of sum one.
    core = np.s_[8:17, 8:17]
    assert model.at(0, 0)[core].sum() == pytest.approx(truth[core].sum(), rel=0.004)
    assert PsfModel.constant(clean + 3e-5).at(0, 0)[core].sum() < 0.985 * truth[core].sum()


def test_without_stars_there_is_no_psf() -> None:
    with pytest.raises(ValueError, match="no star"):
        fit_psf(np.zeros((0, SIZE, SIZE)), np.zeros(0), np.zeros(0), (512, 512))

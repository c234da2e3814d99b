"""Coadds: depth, photometric scale, what moved is gone, what stands stays, and the PSF is that of the stars."""

from __future__ import annotations

import numpy as np
import pytest
import sep

from payloads.coadd import CoaddSettings, InputPsf, Stack, best_seeing, coadd_psf, combine, warp_to_patch
from payloads.mask import Mask
from payloads.psf import PsfModel
from payloads.warp import PixelMap, Warped

SIDE = 120
RNG_SEED = 11
STARS = [(30.3, 30.7, 40_000.0), (80.2, 40.9, 6_000.0), (45.5, 85.1, 900.0), (90.8, 92.4, 15_000.0)]


def gaussian(side: int, x: float, y: float, fwhm_px: float) -> np.ndarray:
    v, u = np.mgrid[0:side, 0:side]
    sigma = fwhm_px / 2.3548
    return np.exp(-0.5 * ((u - x) ** 2 + (v - y) ** 2) / sigma**2) / (2 * np.pi * sigma**2)


def stamp(fwhm_px: float) -> PsfModel:
    return PsfModel.constant(gaussian(25, 12, 12, fwhm_px))


def frame(fwhm_px: float, seed: int, *, zeropoint_mag: float = 27.0, sigma: float = 5.0, offset: float = 0.0, mover=None):
    """One exposure in electrons, its variance and mask; the sky's flux is on AB 27."""
    scale = 10 ** (-0.4 * (27.0 - zeropoint_mag))
    image = np.random.default_rng(seed).normal(0, sigma, (SIDE, SIDE))
    for x, y, flux in STARS + ([mover] if mover else []):
        image += flux * scale * gaussian(SIDE, x - offset, y, fwhm_px)
    return image.astype(np.float32), np.full((SIDE, SIDE), sigma**2, np.float32), np.zeros((SIDE, SIDE), np.uint32)


def warped(fwhm_px: float, seed: int, *, zeropoint_mag: float = 27.0, offset: float = 0.3, **more) -> Warped:
    image, variance, mask = frame(fwhm_px, seed, zeropoint_mag=zeropoint_mag, offset=offset, **more)
    return warp_to_patch(image, variance, mask, PixelMap.of_offset(-offset, 0.0, (SIDE, SIDE)), zeropoint_mag)


def coadd_of(inputs, **settings):
    with Stack((SIDE, SIDE)) as stack:
        for k, one in enumerate(inputs):
            stack.add(one, SEEING[k])
        return combine(stack, CoaddSettings(**settings))


def fluxes(data: np.ndarray, radius_px: float = 8.0) -> np.ndarray:
    return sep.sum_circle(data.astype(float), [s[0] for s in STARS], [s[1] for s in STARS], radius_px, subpix=0)[0]


TRUE = np.array([s[2] for s in STARS])
SEEING = [3.0, 3.4, 2.8, 4.0, 3.2]


@pytest.mark.parametrize("statistic", ["clipped", "mean"])
def test_fluxes_are_on_the_common_zero_point_whatever_the_inputs_were(statistic):
    zeropoints = [27.0, 26.5, 27.4, 26.8, 27.2]
    result = coadd_of(
        [warped(f, k, zeropoint_mag=z) for k, (f, z) in enumerate(zip(SEEING, zeropoints, strict=True))], statistic=statistic
    )
    noise = np.sqrt(np.median(result.variance) * np.pi * 8.0**2)
    assert np.all(np.abs(fluxes(result.data) - TRUE) < 4 * noise + 2e-3 * TRUE)


def test_five_inputs_have_the_noise_of_five():
    result = coadd_of([warped(f, k, offset=0.0) for k, f in enumerate(SEEING)])
    sky = result.data[5:-5, 5:20]
    assert np.std(sky) == pytest.approx(5 / np.sqrt(5), rel=0.06)
    assert np.median(result.variance) == pytest.approx(5.0, rel=0.02)
    assert np.all(result.n_inputs[5:-5, 5:-5] >= 4)


def test_the_clipped_mean_of_stars_in_varying_seeing_is_not_clipped():
    result = coadd_of([warped(f, k) for k, f in enumerate(SEEING)])
    for x, y, _ in STARS:
        core = result.n_inputs[int(y) - 2 : int(y) + 4, int(x) - 2 : int(x) + 4]
        assert np.all(core == 5)


def test_not_even_bright_stars_in_seeing_that_doubles_are_clipped():
    # Else a template has cores of some inputs in wings of others, and no kernel can match that.
    fwhm = [2.7, 3.8, 4.3, 4.7, 5.4]
    with Stack((SIDE, SIDE)) as stack:
        for k, f in enumerate(fwhm):
            stack.add(warped(f, k, sigma=0.3), f)
        result = combine(stack, CoaddSettings())
    assert not np.any(result.mask & np.uint32(Mask.CLIPPED))


def test_a_moving_source_disappears_and_is_said_to_be_clipped():
    movers = [(20.0 + 12 * k, 62.0, 3_000.0) for k in range(5)]
    clipped = coadd_of([warped(f, k, mover=m) for k, (f, m) in enumerate(zip(SEEING, movers, strict=True))])
    plain = coadd_of([warped(f, k, mover=m) for k, (f, m) in enumerate(zip(SEEING, movers, strict=True))], statistic="mean")
    places = [m[0] for m in movers], [m[1] for m in movers]
    left = sep.sum_circle(clipped.data.astype(float), *places, 5.0)[0]
    there = sep.sum_circle(plain.data.astype(float), *places, 5.0)[0]
    assert np.all(there > 400)
    assert np.all(np.abs(left) < 5 * np.sqrt(5.0 * np.pi * 25))
    assert np.all(clipped.mask[62, [int(x) for x in places[0]]] & np.uint32(Mask.CLIPPED))


def test_what_moves_past_a_bright_star_disappears_too():
    # Eight pixels, two to three FWHM, from a star ten times as bright: its wings must not hide it.
    x, y, _ = STARS[0]
    movers = [(x + 8 * np.cos(a), y + 8 * np.sin(a), 4_000.0) for a in np.linspace(0, 5, 5)]
    result = coadd_of([warped(f, k, mover=m) for k, (f, m) in enumerate(zip(SEEING, movers, strict=True))])
    for mx, my, _ in movers:
        assert result.mask[round(my), round(mx)] & np.uint32(Mask.CLIPPED)
    still = coadd_of([warped(f, k) for k, f in enumerate(SEEING)])
    places = [m[0] for m in movers], [m[1] for m in movers]
    left = sep.sum_circle((result.data - still.data).astype(float), *places, 3.0)[0]
    assert np.abs(left).max() < 0.05 * 4_000


def test_an_unflagged_cosmic_ray_disappears():
    inputs = [warped(f, k, offset=0.0) for k, f in enumerate(SEEING)]
    inputs[1].data[60, 20:30] += 5_000
    result = coadd_of(inputs)
    assert np.abs(result.data[60, 20:30]).max() < 15


def test_the_median_ignores_it_too():
    inputs = [warped(f, k, offset=0.0) for k, f in enumerate(SEEING)]
    inputs[1].data[60, 20:30] += 5_000
    result = coadd_of(inputs, statistic="median")
    assert np.abs(result.data[60, 20:30]).max() < 15
    assert np.std(result.data[5:-5, 5:20]) == pytest.approx(np.sqrt(np.median(result.variance)), rel=0.12)


def test_two_inputs_are_averaged_since_nobody_can_say_which_is_right():
    inputs = [warped(3.0, k, offset=0.0) for k in range(2)]
    inputs[1].data[60, 25] += 5_000
    assert coadd_of(inputs).data[60, 25] == pytest.approx(2_500, abs=30)


def test_a_pixel_bad_in_one_input_comes_from_the_others():
    inputs = [warped(3.0, k, offset=0.0) for k in range(4)]
    inputs[2].data[50, 50], inputs[2].mask[50, 50] = 1e6, np.uint32(Mask.BAD)
    result = coadd_of(inputs)
    assert result.n_inputs[50, 50] == 3
    assert result.mask[50, 50] == 0
    assert abs(result.data[50, 50]) < 15
    assert result.variance[50, 50] == pytest.approx(25 / 3, rel=0.01)


def with_cosmic_rays(seeds_hit):
    """Inputs; those numbered in `seeds_hit` have a pixel of the brightest star flagged as a cosmic ray."""
    made = []
    for k in range(5):
        image, variance, mask = frame(2.5, k, offset=0.3)
        if k in seeds_hit:
            mask[30:33, 29:32] |= np.uint32(Mask.CR)
        made.append(warp_to_patch(image, variance, mask, PixelMap.of_offset(-0.3, 0.0, (SIDE, SIDE)), 27.0))
    return made


def test_the_core_of_a_star_that_most_took_for_a_cosmic_ray_stays():
    whole, doubted = coadd_of(with_cosmic_rays(())), coadd_of(with_cosmic_rays((0, 2, 3, 4)))
    assert not np.any(doubted.mask[5:-5, 5:-5] & np.uint32(Mask.NO_DATA))
    np.testing.assert_allclose(fluxes(doubted.data), fluxes(whole.data), rtol=1e-3)


def test_a_flagged_cosmic_ray_does_not_ring_into_the_coadd():
    image, variance, mask = frame(3.0, 1, offset=0.3)
    image[60, 20:23], mask[60, 20:23] = 1e5, np.uint32(Mask.CR)
    struck = warp_to_patch(image, variance, mask, PixelMap.of_offset(-0.3, 0.4, (SIDE, SIDE)), 27.0)
    for others in ([2], [2, 3, 4]):
        result = coadd_of([struck] + [warped(3.0, k, offset=0.0) for k in others])
        assert np.abs(result.data[50:70, 10:32]).max() < 30
        assert result.n_inputs[60, 21] == len(others)


def test_a_core_that_some_inputs_had_saturated_is_suspect():
    inputs = [warped(fwhm, k) for k, fwhm in enumerate(SEEING)]
    inputs[2].mask[28:34, 28:34] |= np.uint32(Mask.SAT)
    coadd = coadd_of(inputs)
    assert (coadd.mask[31, 31] & Mask.SUSPECT, coadd.mask[31, 31] & Mask.SAT) == (Mask.SUSPECT, 0)
    assert not coadd.mask[41, 80] & Mask.SUSPECT


def test_where_all_are_saturated_the_value_stays_and_says_so():
    inputs = [warped(3.0, k, offset=0.0) for k in range(4)]
    for one in inputs:
        one.mask[30, 30] |= np.uint32(Mask.SAT)
    result = coadd_of(inputs)
    assert result.mask[30, 30] & np.uint32(Mask.SAT)
    assert not result.mask[30, 30] & np.uint32(Mask.NO_DATA)
    assert result.data[30, 30] > 1000


def test_where_nobody_looks_there_is_no_data():
    inputs = [warped(3.0, k, offset=40.0) for k in range(3)]
    result = coadd_of(inputs)
    outside = result.mask[:, :38]
    assert np.all(outside & np.uint32(Mask.NO_DATA))
    assert np.all(result.data[:, :38] == 0)
    assert np.all(np.isinf(result.variance[:, :38]))
    assert np.all(result.n_inputs[:, :38] == 0)


def test_an_input_that_misses_the_patch_has_no_weight_and_is_not_counted():
    image, variance, mask = frame(3.0, 1)
    with Stack((SIDE, SIDE)) as stack:
        assert stack.add(warp_to_patch(image, variance, mask, PixelMap.of_offset(500, 0, (SIDE, SIDE)), 27.0), 3.0) == 0
        assert len(stack) == 0
        with pytest.raises(ValueError, match="nothing to combine"):
            combine(stack, CoaddSettings())


def test_rows_read_back_are_those_that_went_in():
    one, two = warped(3.0, 1), warped(3.0, 2)
    with Stack((SIDE, SIDE)) as stack:
        stack.add(one, 3.0)
        stack.add(two, 3.0)
        data, variance, mask = stack.rows(40, 45)
        np.testing.assert_array_equal(data, [one.data[40:45], two.data[40:45]])
        np.testing.assert_array_equal(variance[1], two.variance[40:45])
        np.testing.assert_array_equal(mask[1], two.mask[40:45])
        np.testing.assert_array_equal(next(iter(stack)).data, one.data)


def test_the_psf_of_the_coadd_is_that_of_its_stars():
    weights, inputs, planes = [], [], [warped(f, k, sigma=0.5) for k, f in enumerate(SEEING)]
    with Stack((SIDE, SIDE)) as stack:
        weights = [stack.add(one, fwhm) for one, fwhm in zip(planes, SEEING, strict=True)]
        result = combine(stack, CoaddSettings())
    for fwhm, weight in zip(SEEING, weights, strict=True):
        pixel_map = PixelMap.of_offset(-0.3, 0.0, (SIDE, SIDE))
        inputs.append(InputPsf(psf=stamp(fwhm), pixel_map=pixel_map, shape=(SIDE, SIDE), weight=weight))
    psf = coadd_psf(inputs, (SIDE, SIDE))
    x, y, flux = STARS[0]
    model = flux * sum(w * gaussian(SIDE, x, y, f) for f, w in zip(SEEING, weights, strict=True)) / sum(weights)
    # A Gaussian of 2.8 px has 0.5 % of its peak beyond what pixels can hold.
    assert np.abs(result.data - model)[20:42, 20:42].max() < 0.01 * model.max()
    averaged = sum(w * gaussian(25, 12, 12, f) for f, w in zip(SEEING, weights, strict=True)) / sum(weights)
    assert np.abs(psf.at(60, 60) - averaged).max() < 0.005 * averaged.max()


def test_the_psf_follows_a_change_of_pixel_size():
    pixel_map = PixelMap.of_offset(0.0, 0.0, (SIDE * 2, SIDE * 2), scale=0.5)
    psf = coadd_psf([InputPsf(psf=stamp(3.0), pixel_map=pixel_map, shape=(SIDE, SIDE), weight=1.0)], (SIDE * 2, SIDE * 2))
    assert psf.fwhm_px == pytest.approx(6.0, rel=0.03)


def test_a_psf_that_varies_over_inputs_varies_over_the_coadd():
    left = InputPsf(psf=stamp(3.0), pixel_map=PixelMap.of_offset(60, 0, (SIDE, SIDE)), shape=(SIDE, SIDE), weight=1.0)
    right = InputPsf(psf=stamp(4.5), pixel_map=PixelMap.of_offset(-60, 0, (SIDE, SIDE)), shape=(SIDE, SIDE), weight=1.0)
    psf = coadd_psf([left, right], (SIDE, SIDE))
    assert psf.at(5, 60).max() > 1.5 * psf.at(115, 60).max()


def test_the_best_seeing_is_chosen_but_never_too_few():
    fwhm = [3.0, 2.0, 5.0, 4.0, 1.0, 6.0]
    assert best_seeing(fwhm, 0.5) == [0, 1, 4]
    assert best_seeing(fwhm, 0.1) == [0, 1, 4]
    assert best_seeing(fwhm, 1.0) == list(range(6))
    assert best_seeing([2.0], 0.5) == [0]

"""WCS and zero point from a reference catalogue, with the pointing off, turned, scaled and distorted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from astropy.wcs import WCS

from payloads.astrometry import (
    AstrometryConfig,
    measure_zeropoint,
    pixel_scale_arcsec,
    solve_astrometry,
    wcs_cards,
    wcs_from_cards,
    with_affine,
)
from payloads.matching import NoMatch, apply_affine, match_stars

SCALE_ARCSEC, NOISE_PX, ZEROPOINT = 0.3, 0.03, 30.6


def _wcs(size: int, offset_arcsec: tuple[float, float] = (0, 0), rotation_deg: float = 0.0, scale: float = 1.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [13.0 + offset_arcsec[0] / 3600, 3.0 + offset_arcsec[1] / 3600]
    wcs.wcs.crpix = [(size + 1) / 2] * 2
    a = np.deg2rad(rotation_deg)
    wcs.wcs.cd = scale * SCALE_ARCSEC / 3600 * np.array([[-np.cos(a), np.sin(a)], [np.sin(a), np.cos(a)]])
    wcs.wcs.set()
    return wcs


@dataclass(frozen=True)
class Field:
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    mag: np.ndarray
    true_ra: np.ndarray
    true_dec: np.ndarray
    true_x: np.ndarray
    true_y: np.ndarray


def _field(size: int = 512, count: int = 150, distortion_px: float = 0.0, seed: int = 1) -> Field:
    """Sources and reference stars, a fifth of each without counterpart."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, size - 1, (2, count))
    u, v = (x - size / 2) / (size / 2), (y - size / 2) / (size / 2)
    bent_x, bent_y = x + distortion_px * u * (u * u + v * v), y + distortion_px * v * (u * u + v * v)
    ra, dec = _wcs(size).all_pix2world(bent_x, bent_y, 0)
    mag = rng.uniform(15, 20, count)
    seen, listed = rng.uniform(size=(2, count)) < 0.8
    flux = 10 ** (-0.4 * (mag - ZEROPOINT)) * rng.normal(1, 0.02, count)
    sources = np.stack([x, y])[:, seen] + rng.normal(0, NOISE_PX, (2, seen.sum()))
    return Field(*sources, flux[seen], ra[listed], dec[listed], mag[listed], ra, dec, x, y)


def _solve(field: Field, initial: WCS, size: int = 512, config: AstrometryConfig | None = None):
    return solve_astrometry(field.x, field.y, field.flux, field.ra, field.dec, field.mag, initial, (size, size), config)


def _error_px(wcs: WCS, field: Field) -> np.ndarray:
    x, y = wcs.all_world2pix(field.true_ra, field.true_dec, 0)
    return np.hypot(x - field.true_x, y - field.true_y)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (20.0, -21.0), (-30.0, 0.0)])
@pytest.mark.parametrize("rotation", [0.0, 0.3, -0.5])
def test_pointing_errors_of_thirty_arcsec_and_small_rotations_are_solved(offset, rotation: float) -> None:
    field = _field()
    found = _solve(field, _wcs(512, offset, rotation, 1.0005))
    assert found.rms_px < 0.05
    assert _error_px(found.wcs, field).max() < 0.05
    assert found.offset_arcsec == pytest.approx(np.hypot(offset[0] * np.cos(np.deg2rad(3)), offset[1]), abs=0.2)
    assert len(found.source) > 60


def test_pairs_are_the_same_stars() -> None:
    field = _field()
    found = _solve(field, _wcs(512, (10.0, 10.0)))
    magnitude = -2.5 * np.log10(field.flux[found.source]) + ZEROPOINT
    assert np.abs(magnitude - field.mag[found.reference]).max() < 0.15


def test_plain_tan_is_kept_where_no_distortion_warrants_more() -> None:
    assert _solve(_field(count=600), _wcs(512)).order == 1


def test_distortion_is_fitted_by_sip() -> None:
    field = _field(count=1200, size=2000, distortion_px=1.5)
    found = _solve(field, _wcs(2000, (5.0, 5.0)), size=2000)
    assert found.order == 3
    assert found.rms_px < 0.05
    assert np.median(_error_px(found.wcs, field)) < 0.02
    stored = wcs_from_cards(wcs_cards(found.wcs))
    assert _error_px(stored, field).max() < 0.1


def test_cards_are_plain_values_and_give_back_the_wcs() -> None:
    found = _solve(_field(), _wcs(512, (5.0, 0.0)))
    cards = wcs_cards(found.wcs)
    assert all(isinstance(value, (int, float, str)) for value in cards.values())
    corner = (np.array([0.0, 511.0]), np.array([0.0, 511.0]))
    np.testing.assert_allclose(wcs_from_cards(cards).all_pix2world(*corner, 0), found.wcs.all_pix2world(*corner, 0), atol=1e-9)


def test_another_field_is_no_match_and_says_so() -> None:
    field, other = _field(seed=1), _field(seed=2)
    with pytest.raises(NoMatch, match="another field"):
        solve_astrometry(field.x, field.y, field.flux, other.ra, other.dec, other.mag, _wcs(512), (512, 512))


def test_too_few_stars_are_no_match() -> None:
    field = _field(count=6)
    with pytest.raises(NoMatch, match="stars"):
        _solve(field, _wcs(512))


def test_no_catalogue_is_no_match() -> None:
    field = _field()
    empty = np.zeros(0)
    with pytest.raises(NoMatch, match="0 stars"):
        solve_astrometry(field.x, field.y, field.flux, empty, empty, empty, _wcs(512), (512, 512))


def test_zero_point_is_right_within_its_error_and_ignores_outliers() -> None:
    rng = np.random.default_rng(3)
    mag = rng.uniform(15, 20, 200)
    flux = 10 ** (-0.4 * (mag - ZEROPOINT)) * rng.normal(1, 0.02, 200)
    flux[:20] *= 1.5
    zero = measure_zeropoint(flux, 0.02 * flux, mag)
    assert zero.mag == pytest.approx(ZEROPOINT, abs=4 * zero.err)
    assert zero.err < 0.004
    assert zero.scatter == pytest.approx(0.0217, rel=0.25)


def test_no_zero_point_comes_from_two_stars() -> None:
    assert measure_zeropoint(np.array([1e4, 1e4]), np.array([1.0, 1.0]), np.array([18.0, 18.1])) is None


def test_a_wcs_seen_through_an_affine_points_to_the_same_sky() -> None:
    wcs = _wcs(512)
    affine = np.array([[1.0003, -0.01, 12.5], [0.01, 0.9998, -7.25]])
    points = np.random.default_rng(4).uniform(0, 511, (50, 2))
    through = with_affine(wcs, affine).all_pix2world(points, 0)
    np.testing.assert_allclose(through, wcs.all_pix2world(apply_affine(affine, points), 0), atol=1e-10)
    assert pixel_scale_arcsec(wcs) == pytest.approx(SCALE_ARCSEC)


def test_matching_does_not_mind_which_list_is_longer() -> None:
    rng = np.random.default_rng(5)
    many = rng.uniform(0, 1000, (900, 2))
    few = many[:60] + np.array([31.0, -12.0])
    assert match_stars(few, many, max_shift=50.0).affine[:, 2] == pytest.approx([-31.0, 12.0], abs=1e-6)
    assert match_stars(many, few, max_shift=50.0).affine[:, 2] == pytest.approx([31.0, -12.0], abs=1e-6)


def test_a_list_that_begins_with_stars_too_bright_for_the_other_is_matched_beyond_them() -> None:
    rng = np.random.default_rng(6)
    catalogue = rng.uniform(0, 2000, (1500, 2))
    unsaturated = catalogue[430:800] + np.array([31.0, -12.0])
    match = match_stars(unsaturated, catalogue, max_shift=50.0)
    assert match.second.tolist() == list(range(430, 800))

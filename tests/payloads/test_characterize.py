"""A frame of known stars: found, measured without bias, with honest errors; cosmic rays told from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial import KDTree

from payloads.background import subtract_background
from payloads.characterize import Characterized, characterize
from payloads.cosmic_rays import find_cosmic_rays, gaussian_falls
from payloads.detection import NothingDetected, SourceFlag
from payloads.mask import Mask

SKY, READ_NOISE, FWHM = 300.0, 6.0, 3.2
SHAPE = (640, 512)


def _moffat(dx: np.ndarray, dy: np.ndarray, fwhm: float, beta: float = 3.5) -> np.ndarray:
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (beta - 1) / (np.pi * alpha**2) * (1 + (dx**2 + dy**2) / alpha**2) ** -beta


@dataclass(frozen=True)
class Scene:
    data: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    hits: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray


def _scene(seed: int, count: int = 160, fwhm: float = FWHM, hits: int = 30) -> Scene:
    rng = np.random.default_rng(seed)
    ny, nx = SHAPE
    grid = np.stack(np.meshgrid(np.arange(25, nx - 25, 36), np.arange(25, ny - 25, 36)), -1).reshape(-1, 2)
    places = grid[rng.permutation(len(grid))[:count]] + rng.uniform(-6, 6, (count, 2))
    flux = 800.0 * (4e5 / 800.0) ** rng.uniform(0, 1, count) ** 1.3
    image = np.full(SHAPE, SKY) + np.linspace(-10, 10, nx)[None, :]
    yy, xx = np.mgrid[:ny, :nx]
    for (x, y), f in zip(places, flux, strict=True):
        box = np.s_[max(0, int(y) - 30) : int(y) + 31, max(0, int(x) - 30) : int(x) + 31]
        image[box] += f * _moffat(xx[box] - x, yy[box] - y, fwhm * (1 + 0.1 * (x / nx - 0.5)))
    variance = image + READ_NOISE**2
    data = rng.poisson(image) + rng.normal(0, READ_NOISE, SHAPE)
    track = np.zeros(SHAPE, dtype=bool)
    for _ in range(hits):
        x, y, angle = rng.uniform(20, nx - 20), rng.uniform(20, ny - 20), rng.uniform(0, np.pi)
        for step in range(rng.integers(1, 8)):
            pixel = (int(y + step * np.sin(angle)), int(x + step * np.cos(angle)))
            data[pixel] += rng.uniform(250, 3000)
            track[pixel] = True
    mask = np.zeros(SHAPE, dtype=np.uint32)
    return Scene(data.astype(np.float32), variance.astype(np.float32), mask, track, places[:, 0], places[:, 1], flux)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return _scene(1)


@pytest.fixture(scope="module")
def found(scene: Scene) -> Characterized:
    return characterize(scene.data, scene.variance, scene.mask)


def _matched(scene: Scene, found: Characterized) -> tuple[np.ndarray, np.ndarray]:
    """Indices of clean sources and of the stars that they are."""
    tree = KDTree(np.column_stack([found.columns["x"], found.columns["y"]]))
    distance, nearest = tree.query(np.column_stack([scene.x, scene.y]))
    use = (distance < 1.0) & (found.columns["flags"][nearest] == 0)
    return nearest[use], np.flatnonzero(use)


def test_nearly_all_stars_over_snr_ten_are_found(scene: Scene, found: Characterized) -> None:
    tree = KDTree(np.column_stack([found.columns["x"], found.columns["y"]]))
    distance, _ = tree.query(np.column_stack([scene.x, scene.y]))
    noise = np.sqrt(SKY + READ_NOISE**2) * np.sqrt(4 * np.pi) * FWHM / 2.3548
    bright = scene.flux > 10 * noise
    assert (distance[bright] < 1.0).mean() > 0.97


def test_hardly_anything_else_is_found(scene: Scene, found: Characterized) -> None:
    distance, _ = KDTree(np.column_stack([scene.x, scene.y])).query(np.column_stack([found.columns["x"], found.columns["y"]]))
    assert (distance > 4.0).sum() <= 3


def test_psf_fluxes_are_unbiased_within_one_per_cent(scene: Scene, found: Characterized) -> None:
    source, star = _matched(scene, found)
    bright = found.columns["snr"][source] > 30
    ratio = found.columns["psfFlux"][source][bright] / scene.flux[star][bright]
    assert bright.sum() > 40
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


def test_aperture_fluxes_are_unbiased_within_one_per_cent(scene: Scene, found: Characterized) -> None:
    source, star = _matched(scene, found)
    bright = found.columns["snr"][source] > 30
    assert np.median(found.columns["apFlux"][source][bright] / scene.flux[star][bright]) == pytest.approx(1.0, abs=0.01)


def test_flux_errors_are_honest(scene: Scene, found: Characterized) -> None:
    source, star = _matched(scene, found)
    use = (found.columns["snr"][source] > 7) & (found.columns["snr"][source] < 100)
    pulls = ((found.columns["psfFlux"][source] - scene.flux[star]) / found.columns["psfFluxErr"][source])[use]
    assert use.sum() > 50
    assert 1.4826 * np.median(np.abs(pulls - np.median(pulls))) == pytest.approx(1.0, abs=0.25)


def test_position_errors_are_honest(scene: Scene, found: Characterized) -> None:
    source, star = _matched(scene, found)
    pulls = (found.columns["x"][source] - scene.x[star]) / found.columns["xErr"][source]
    assert 1.4826 * np.median(np.abs(pulls)) == pytest.approx(1.0, abs=0.25)


def test_stars_are_called_stars_and_discs_are_not(scene: Scene) -> None:
    wide = _scene(5, count=60, fwhm=2.0 * FWHM, hits=0)
    both = characterize(scene.data + wide.data - np.float32(SKY), scene.variance + wide.variance, scene.mask)
    tree = KDTree(np.column_stack([both.columns["x"], both.columns["y"]]))
    strong = wide.flux > 10_000
    distance, nearest = tree.query(np.column_stack([wide.x, wide.y])[strong])
    alone = KDTree(np.column_stack([scene.x, scene.y])).query(np.column_stack([wide.x, wide.y])[strong])[0] > 15
    use = (distance < 1.5) & alone
    assert use.sum() >= 3
    assert not both.columns["isStar"][nearest[use]].any()
    source, _ = _matched(scene, both)
    assert both.columns["isStar"][source].mean() > 0.95


def test_psf_width_and_sky_are_right(found: Characterized) -> None:
    assert found.psf.fwhm_px == pytest.approx(FWHM, rel=0.03)
    assert found.sky.level == pytest.approx(SKY, abs=1.0)
    assert found.sky.sigma == pytest.approx(np.sqrt(SKY + READ_NOISE**2), rel=0.03)


def test_cosmic_rays_are_flagged_and_star_cores_are_not(scene: Scene, found: Characterized) -> None:
    flagged = (found.mask & Mask.CR) != 0
    assert flagged[scene.hits].mean() > 0.95
    assert (flagged & ~scene.hits).sum() <= 3


def test_a_track_along_a_row_is_followed_from_its_ends() -> None:
    image = np.random.default_rng(5).normal(0, 1, (40, 60)).astype(np.float32)
    image[20, 15:45] += 30
    hits = find_cosmic_rays(image, np.ones_like(image), np.zeros(image.shape, bool), gaussian_falls(4.0))
    assert hits[20, 15:45].all()
    assert hits.sum() == 30


def test_an_even_track_with_faint_ends_is_seen_though_no_pixel_of_it_stands_above_its_neighbours_along_it() -> None:
    image = np.random.default_rng(5).normal(0, 1, (40, 60)).astype(np.float32)
    track = np.array([3, 6, 9, 9, 9, 9, 9, 9, 6, 3])
    image[20, 20:30] += track
    hits = find_cosmic_rays(image, np.ones_like(image), np.zeros(image.shape, bool), gaussian_falls(4.0))
    assert hits[20, 22:28].all()
    assert hits.sum() <= 10


@pytest.mark.parametrize("fwhm", [2.0, 2.4])
def test_cores_of_sharp_stars_are_no_cosmic_rays(fwhm: float) -> None:
    sharp = _scene(7, fwhm=fwhm, hits=0)
    hits = find_cosmic_rays(sharp.data - np.float32(SKY), sharp.variance, np.zeros(SHAPE, dtype=bool), gaussian_falls(fwhm))
    cores = hits[np.rint(sharp.y).astype(int), np.rint(sharp.x).astype(int)]
    assert not cores.any()


def test_sharp_cores_on_broad_wings_are_no_cosmic_rays_and_cosmic_rays_still_are() -> None:
    """Half the light lies far out, so that the width of the half-light says nothing of the core (a real camera, binned 3 x 3)."""
    narrow, broad = _scene(11, fwhm=1.7, hits=30), _scene(11, fwhm=4.5, hits=0)
    data = narrow.data + broad.data - np.float32(SKY)
    variance = narrow.variance + broad.variance - np.float32(SKY + READ_NOISE**2) + np.float32(READ_NOISE**2)
    flagged = (characterize(data, variance, narrow.mask).mask & Mask.CR) != 0
    assert flagged[narrow.hits].mean() > 0.9
    assert (flagged & ~narrow.hits).sum() <= 5


def test_saturated_sources_are_flagged_and_others_left_alone(scene: Scene) -> None:
    mask = scene.mask.copy()
    star = int(np.argmax(scene.flux))
    x, y = round(scene.x[star]), round(scene.y[star])
    mask[y - 2 : y + 3, x - 2 : x + 3] |= np.uint32(Mask.SAT)
    found = characterize(scene.data, scene.variance, mask)
    near = np.hypot(found.columns["x"] - x, found.columns["y"] - y) < 5
    assert (found.columns["flags"][near] & SourceFlag.SATURATED).all()
    assert ((found.columns["flags"] & SourceFlag.SATURATED) != 0).sum() == near.sum()


def test_input_mask_is_not_changed_and_sources_are_marked(scene: Scene, found: Characterized) -> None:
    assert not scene.mask.any()
    rows, columns = np.rint(scene.y).astype(int), np.rint(scene.x).astype(int)
    bright = scene.flux > 5000
    assert ((found.mask[rows, columns] & Mask.DETECTED) != 0)[bright].mean() > 0.97


def test_background_follows_a_slope_and_is_not_low() -> None:
    rng = np.random.default_rng(3)
    true = SKY + np.linspace(-20, 20, SHAPE[1])[None, :] * np.ones((SHAPE[0], 1))
    image = rng.poisson(true).astype(np.float32)
    left = image.copy()
    subtract_background(left, np.zeros(SHAPE, dtype=bool))
    assert np.mean(image - left - true) == pytest.approx(0.0, abs=0.1)
    assert np.abs(image - left - true)[64:-64, 64:-64].max() < 3.0


def test_an_empty_frame_says_what_is_wrong() -> None:
    rng = np.random.default_rng(4)
    empty = rng.normal(300, 17, (256, 256)).astype(np.float32)
    with pytest.raises(NothingDetected, match="clouds"):
        characterize(empty, np.full_like(empty, 300.0), np.zeros(empty.shape, dtype=np.uint32))

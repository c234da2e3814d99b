"""Frames of one field brought together by their stars: made-up ones, and real ones with a known asteroid."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from payloads.camera import Camera
from payloads.characterize import characterize
from payloads.combine import Frame, Master, NoiseMaps, Source, combine
from payloads.isr import mask_from_flat, master_plane, prepare, remove_signature
from payloads.matching import NoMatch, apply_affine
from payloads.overscan import amplifier_map
from payloads.registration import RegistrationConfig, StarList, choose_reference, register, register_frames

SHARED = Path(os.environ.get("PACHON_SHARED", Path(__file__).parents[2] / "../shared")) / "data"


def _frames(shifts: list[tuple[float, float, float]], scales: list[float], seed: int = 1) -> dict[int, StarList]:
    """Frames shifted by (dx, dy) px and turned by degrees, fluxes scaled; each misses a fifth of the stars."""
    rng = np.random.default_rng(seed)
    points, flux = rng.uniform(0, 700, (120, 2)), 10 ** rng.uniform(3, 5.5, 120)
    frames = {}
    for number, ((dx, dy, angle), scale) in enumerate(zip(shifts, scales, strict=True)):
        a = np.deg2rad(angle)
        turned = (points - 350) @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]).T + 350 - np.array([dx, dy])
        seen = rng.uniform(size=120) < 0.8
        noise = np.sqrt(flux * scale + 5000.0)
        frames[number] = StarList(
            x=turned[seen, 0] + rng.normal(0, 0.05, seen.sum()),
            y=turned[seen, 1] + rng.normal(0, 0.05, seen.sum()),
            flux=(flux * scale + rng.normal(0, noise))[seen],
            flux_err=noise[seen],
            fwhm_px=3.0,
        )
    return frames


def test_shifts_rotation_and_flux_scale_are_found() -> None:
    shifts = [(0.0, 0.0, 0.0), (22.0, -9.5, 0.0), (-3.3, 60.0, 0.4)]
    frames = _frames(shifts, [1.0, 0.8, 1.25])
    done, failed = register_frames(frames, 0)
    assert not failed
    for number, (dx, dy, angle) in enumerate(shifts):
        centre = apply_affine(done[number].affine, np.array([[350.0 - dx, 350.0 - dy]]))[0]
        assert centre == pytest.approx([350.0, 350.0], abs=0.05)
        turned = np.rad2deg(np.arctan2(done[number].affine[1, 0], done[number].affine[0, 0]))
        assert turned == pytest.approx(-angle, abs=0.01)
    assert done[1].scale == pytest.approx(0.8, rel=0.01)
    assert done[2].scale == pytest.approx(1.25, rel=0.01)
    assert done[1].rms_px < 0.1


def test_reference_itself_is_the_identity() -> None:
    done, _ = register_frames(_frames([(0, 0, 0), (1, 1, 0)], [1, 1]), 0)
    assert np.array_equal(done[0].affine, np.eye(2, 3))
    assert done[0].scale == 1.0


def test_a_frame_of_another_field_is_named_and_the_rest_go_on() -> None:
    frames = _frames([(0, 0, 0), (5, 5, 0)], [1, 1])
    frames[7] = _frames([(0, 0, 0)], [1], seed=99)[0]
    done, failed = register_frames(frames, 0)
    assert set(done) == {0, 1}
    assert "another field" in failed[7]


def test_frames_further_apart_than_allowed_do_not_match() -> None:
    frames = _frames([(0, 0, 0), (80, 0, 0)], [1, 1])
    with pytest.raises(NoMatch):
        register(frames[1], frames[0], RegistrationConfig(max_shift_px=30.0))


def test_reference_is_the_frame_with_most_stars_for_its_seeing() -> None:
    def frame(count: int, fwhm: float) -> StarList:
        one = np.ones(count)
        return StarList(x=one, y=one, flux=one, flux_err=one, fwhm_px=fwhm)

    assert choose_reference({5: frame(100, 4.0), 3: frame(90, 2.0), 9: frame(90, 2.0)}) == 3


# The README of raw_lowell42: the asteroid's place in each frame, native and registered to 0126, both to half a pixel.
ASTEROID = {
    "0126": (676.3, 730.7, 676.3, 730.7),
    "0175": (662.1, 699.9, 660.4, 699.8),
}


@pytest.fixture(scope="module")
def lowell() -> dict[str, StarList]:
    """Star lists of two real frames, the first and the last, reduced with masters of the night's own frames."""
    folder = SHARED / "raw_lowell42"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set PACHON_SHARED to run this")
    detector = Camera.load("lowell42").detectors[0]
    gain, read_noise = amplifier_map(detector, "gain"), amplifier_map(detector, "read_noise")

    def adu(path: Path) -> np.ndarray:
        return prepare(fits.getdata(path), detector).plane.data

    def combined(paths: list[Path], frame: Callable[[np.ndarray], Frame], noise: NoiseMaps) -> Master:
        sources = [Source(name=path.name, load=lambda path=path: frame(adu(path))) for path in paths]
        return combine(sources, detector.shape, noise)

    def flattened(image: np.ndarray) -> Frame:
        electron = (image - bias.mean) * gain
        level = float(np.median(electron))
        return Frame(image=electron / level, weight=level, read=1 / level, photon=1 / level)

    paths = sorted((folder / "bias").iterdir())[:4]
    bias = combined(paths, lambda image: Frame(image=image), NoiseMaps(read=read_noise / gain))
    assert bias.noise <= 1.05 * np.median([facts.noise for facts in bias.facts]) / np.sqrt(4)
    flat_noise = NoiseMaps(read=read_noise, photon=np.ones(detector.shape, dtype=np.float32))
    flat = combined(sorted((folder / "flat").glob("*011[1-3]*")), flattened, flat_noise)
    masters = [master_plane(bias, np.zeros(detector.shape, np.uint32)), master_plane(flat, mask_from_flat(flat.mean))]
    frames = {}
    for number in ASTEROID:
        raw = fits.getdata(next((folder / "science").glob(f"*{number}*")))
        plane, _ = remove_signature(
            prepare(raw, detector), detector, bias=masters[0], dark=None, flat=masters[1], dark_time_s=300.0
        )
        found = characterize(plane.data, plane.variance, plane.mask)
        good = ((found.columns["flags"] & ~1) == 0) & (found.columns["snr"] > 10)
        names = {"x": "x", "y": "y", "flux": "psfFlux", "flux_err": "psfFluxErr"}
        frames[number] = StarList(**{k: found.columns[v][good] for k, v in names.items()}, fwhm_px=found.psf.fwhm_px)
    return frames


@pytest.mark.slow
def test_real_frames_have_hundreds_of_stars(lowell: dict[str, StarList]) -> None:
    assert all(500 < len(frame.x) < 3000 for frame in lowell.values())


@pytest.mark.slow
def test_real_frames_register_to_a_third_of_a_pixel(lowell: dict[str, StarList]) -> None:
    done, failed = register_frames(dict(enumerate(lowell.values())), 0)
    assert not failed
    for found, (x, y, there_x, there_y) in zip(done.values(), ASTEROID.values(), strict=True):
        assert apply_affine(found.affine, np.array([[x, y]]))[0] == pytest.approx([there_x, there_y], abs=0.3)
        assert found.rms_px < 0.2

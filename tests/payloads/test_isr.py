"""From raw ADU to electrons on a detector of two unlike amplifiers with crosstalk."""

from __future__ import annotations

import numpy as np
import pytest

from payloads.camera import Amplifier, Detector
from payloads.isr import Plane, bad_from_dark, mask_from_flat, prepare, remove_signature
from payloads.mask import Mask
from payloads.overscan import FrameUnusable, amplifier_map, correct_crosstalk, trim

NY, NX, OVERSCAN = 120, 80, 24
GAINS = (1.5, 2.5)
READ_NOISE = 5.0
CROSSTALK = ((0.0, 2e-3), (1e-3, 0.0))


def _amplifier(k: int) -> Amplifier:
    x = k * (NX + OVERSCAN)
    return Amplifier(
        name=f"A{k}",
        data=f"[{x + 1}:{x + NX},1:{NY}]",
        overscan=f"[{x + NX + 1}:{x + NX + OVERSCAN},1:{NY}]",
        place=f"[{k * NX + 1}:{(k + 1) * NX},1:{NY}]",
        gain=GAINS[k],
        read_noise=READ_NOISE,
        saturation=50_000,
    )


@pytest.fixture
def detector() -> Detector:
    return Detector(id=0, name="two", amplifiers=(_amplifier(0), _amplifier(1)), crosstalk=CROSSTALK)


def _raw(adu: np.ndarray, seed: int = 1, noise: float = 1.0, drift: float = 0.0) -> np.ndarray:
    """A raw frame whose trimmed content is `adu`, with read noise, per-amplifier levels and a drift along rows, rounded."""
    rng = np.random.default_rng(seed)
    raw = np.zeros((NY, 2 * (NX + OVERSCAN)))
    true = [adu[:, k * NX : (k + 1) * NX] for k in (0, 1)]
    for k in (0, 1):
        x = k * (NX + OVERSCAN)
        raw[:, x : x + NX] = true[k] + CROSSTALK[k][1 - k] * true[1 - k]
        raw[:, x : x + NX + OVERSCAN] += 1000.0 + 137.0 * k + drift * np.arange(NY)[:, None] / NY
        raw[:, x : x + NX + OVERSCAN] += noise * rng.normal(0, READ_NOISE / GAINS[k], (NY, NX + OVERSCAN))
    return np.clip(np.rint(raw), 0, 65535).astype(np.uint16)


def _plane(data: np.ndarray, mask: int = 0) -> Plane:
    return Plane(data=data.astype(np.float32), mask=np.full(data.shape, mask, dtype=np.uint32))


def test_overscan_and_drift_are_removed_per_amplifier(detector: Detector) -> None:
    trimmed = trim(_raw(np.zeros((NY, 2 * NX)), drift=20.0), detector)
    assert trimmed.data.shape == (NY, 2 * NX)
    rows = trimmed.data.reshape(NY, 2, NX).mean(axis=2)
    # The running mean over 31 rows follows a slow drift to what half of its window changes at the ends.
    assert np.abs(rows[20:-20]).max() < 4 * READ_NOISE / GAINS[0] / np.sqrt(NX) + 0.1
    assert trimmed.level["A1"] - trimmed.level["A0"] == pytest.approx(137.0, abs=0.5)
    assert trimmed.noise["A0"] == pytest.approx(np.hypot(READ_NOISE / GAINS[0], 12**-0.5), rel=0.05)


def test_overscan_subtraction_adds_little_noise(detector: Detector) -> None:
    trimmed = trim(_raw(np.zeros((NY, 2 * NX))), detector)
    expected = np.hypot(READ_NOISE / GAINS[0], 12**-0.5)
    assert trimmed.data[:, :NX].std() < 1.03 * expected


def test_one_level_per_amplifier_leaves_a_drift_in(detector: Detector) -> None:
    trimmed = trim(_raw(np.zeros((NY, 2 * NX)), drift=20.0), detector, mode="amplifier")
    assert trimmed.data[-10:].mean() - trimmed.data[:10].mean() == pytest.approx(20.0, rel=0.15)


def test_a_camera_without_overscan_keeps_its_level() -> None:
    amp = Amplifier(name="A", data="[1:30,1:20]", place="[1:30,1:20]", gain=1, read_noise=1, saturation=60000)
    bare = Detector(id=0, name="bare", amplifiers=(amp,))
    trimmed = trim(np.full((20, 30), 770, dtype=np.uint16), bare)
    assert (trimmed.data == 770).all()


def test_crosstalk_is_undone_exactly(detector: Detector) -> None:
    true = np.zeros((NY, 2 * NX))
    true[30:40, 20:30] = 40_000.0
    observed = true.copy()
    observed[:, NX:] += CROSSTALK[1][0] * true[:, :NX]
    observed[:, :NX] += CROSSTALK[0][1] * true[:, NX:]
    corrected = correct_crosstalk(observed.astype(np.float32), detector)
    assert np.abs(corrected - true).max() < 0.02
    assert observed[35, NX + 25] == pytest.approx(40.0)


def test_a_cut_off_frame_is_an_error_that_names_amplifier_and_sizes(detector: Detector) -> None:
    with pytest.raises(FrameUnusable, match=r"150 x 120 pixels, but amplifier A1"):
        prepare(np.zeros((NY, 150)), detector)


def test_a_frame_of_nan_is_a_clear_error(detector: Detector) -> None:
    with pytest.raises(FrameUnusable, match=r"no pixel .* is a number"):
        prepare(np.full((NY, 2 * (NX + OVERSCAN)), np.nan), detector)


def test_electrons_variance_and_mask_come_out_right(detector: Detector) -> None:
    rng = np.random.default_rng(3)
    gain = amplifier_map(detector, "gain")
    flat = 1.0 + 0.1 * np.sin(np.arange(2 * NX) / 9.0)[None, :] * np.ones((NY, 1))
    bias, dark, seconds, sky = rng.normal(0, 3, gain.shape), np.full(gain.shape, 0.02), 100.0, 800.0
    electrons = rng.poisson(sky * flat + dark * gain * seconds)
    raw = _raw(electrons / gain + bias).astype(np.float64)
    raw[50, 10] = np.nan
    raw[60:62, 20] = 60_000
    plane, quality = remove_signature(
        prepare(raw, detector), detector, bias=_plane(bias), dark=_plane(dark), flat=_plane(flat), dark_time_s=seconds
    )
    clean = plane.mask == 0
    assert np.median(plane.data[clean]) == pytest.approx(sky, rel=0.01)
    pulls = (plane.data[clean] - sky) / np.sqrt(plane.variance[clean])
    assert pulls.std() == pytest.approx(1.0, abs=0.03)
    halves = [np.median(plane.data[:, k * NX : (k + 1) * NX]) for k in (0, 1)]
    assert halves[0] == pytest.approx(halves[1], rel=0.01)
    assert plane.mask[50, 10] == Mask.NO_DATA
    assert plane.data[50, 10] == 0
    assert plane.mask[60, 20] & Mask.SAT
    assert quality.n_no_data == 1
    assert quality.sky_electron == pytest.approx(sky, rel=0.01)


def test_frames_without_dark_or_flat_are_reduced_too(detector: Detector) -> None:
    plane, _ = remove_signature(
        prepare(_raw(np.full((NY, 2 * NX), 100.0)), detector), detector, bias=None, dark=None, flat=None, dark_time_s=1.0
    )
    assert np.median(plane.data[:, :NX]) == pytest.approx(100.0 * GAINS[0], rel=0.02)


def test_masks_of_the_masters_are_passed_on(detector: Detector) -> None:
    shape = (NY, 2 * NX)
    flat, dark = _plane(np.ones(shape)), _plane(np.zeros(shape))
    flat.mask[1, 2] = Mask.SUSPECT
    dark.mask[3, 4] = Mask.BAD
    plane, quality = remove_signature(
        prepare(_raw(np.full(shape, 50.0)), detector), detector, bias=None, dark=dark, flat=flat, dark_time_s=1.0
    )
    assert plane.mask[1, 2] == Mask.SUSPECT
    assert plane.mask[3, 4] == Mask.BAD
    assert quality.n_bad == 1


def test_a_master_of_another_shape_is_refused(detector: Detector) -> None:
    with pytest.raises(FrameUnusable, match="certify products of this camera"):
        remove_signature(
            prepare(_raw(np.zeros((NY, 2 * NX))), detector),
            detector,
            bias=_plane(np.zeros((4, 4))),
            dark=None,
            flat=None,
            dark_time_s=1.0,
        )


def test_hot_pixels_are_told_from_noise_and_glow() -> None:
    rng = np.random.default_rng(2)
    dark = (0.05 + rng.normal(0, 0.01, (200, 220)) + np.linspace(0, 0.5, 220)[None, :] ** 2).astype(np.float32)
    hot = np.zeros(dark.shape, dtype=bool)
    hot[rng.integers(0, 200, 25), rng.integers(0, 220, 25)] = True
    dark[hot] += 0.5
    assert np.array_equal(bad_from_dark(dark), hot)


def test_dead_pixels_are_bad_and_deep_corners_suspect() -> None:
    y, x = np.mgrid[:200, :240]
    radius = np.hypot(y - 99.5, x - 119.5) / np.hypot(99.5, 119.5)
    flat = (1.0 - 0.85 * radius**6).astype(np.float32)
    flat[100, 100] = 0.1
    flat[50, 60] = np.nan
    mask = mask_from_flat(flat)
    assert mask[100, 100] == Mask.BAD | Mask.DEAD
    assert mask[50, 60] & Mask.BAD
    assert mask[0, 0] == Mask.SUSPECT
    assert mask[100, 120] == 0
    suspect = (mask & Mask.SUSPECT) != 0
    assert flat[suspect & np.isfinite(flat)].max() < 0.4


def test_the_last_value_of_a_converter_is_saturated_whatever_the_description_says(detector: Detector) -> None:
    beyond = detector.model_copy(
        update={"amplifiers": tuple(a.model_copy(update={"saturation": 64_800}) for a in detector.amplifiers)}
    )
    adu = np.full((NY, 2 * NX), 100.0)
    adu[50, 30] = 200_000.0
    trimmed = trim(_raw(adu), beyond)
    assert trimmed.data[50, 30] < 64_800
    assert np.argwhere(trimmed.saturated).tolist() == [[50, 30]]

"""Masters: the noise they should have, what is clipped, who is left out, and how much memory that takes."""

from __future__ import annotations

import numpy as np
import pytest

from payloads.combine import CombineError, FrameStack, OutlierRules, combine, find_outliers

SHAPE = (96, 128)
SIGMA = 4.0


def _frames(count: int, seed: int = 1, level: float = 10.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(level + rng.normal(0, SIGMA, SHAPE)).astype(np.float32) for _ in range(count)]


def _stack(frames: list[np.ndarray], budget_mb: float = 64.0) -> FrameStack:
    stack = FrameStack(SHAPE, budget_mb=budget_mb)
    for number, frame in enumerate(frames):
        stack.add(str(number), frame)
    return stack


def _noise(centre: np.ndarray, rows: slice) -> np.ndarray:
    return np.float32(SIGMA)


@pytest.mark.parametrize("count", [4, 5, 10, 30])
def test_masters_noise_is_that_of_a_mean_to_five_per_cent(count: int) -> None:
    with _stack(_frames(count)) as stack:
        master = combine(stack, _noise, rejected={})
    expected = SIGMA / np.sqrt(count)
    assert np.std(master.mean - 10.0) <= 1.05 * expected
    assert master.noise_expected == pytest.approx(expected, rel=0.02)
    assert master.noise == pytest.approx(expected, rel=0.06)


def test_a_hit_in_one_frame_is_clipped_and_counted() -> None:
    frames = _frames(6)
    frames[2][40, 50] += 400.0
    with _stack(frames) as stack:
        master = combine(stack, _noise, rejected={})
    assert master.clipped[40, 50] == 1
    assert master.used[40, 50] == 5
    assert abs(master.mean[40, 50] - 10.0) < 5 * SIGMA / np.sqrt(5)


def test_a_pixel_that_is_noisy_of_itself_is_not_eaten_away() -> None:
    rng = np.random.default_rng(5)
    frames = _frames(20)
    values = rng.normal(500.0, 10 * SIGMA, 20)
    for frame, value in zip(frames, values, strict=True):
        frame[10, 10] = value
    with _stack(frames) as stack:
        master = combine(stack, _noise, rejected={})
    assert master.used[10, 10] >= 18
    assert master.mean[10, 10] == pytest.approx(values.mean(), abs=4 * SIGMA)


def test_missing_pixels_are_left_out_and_wholly_missing_ones_are_nan() -> None:
    frames = _frames(5)
    frames[0][5, 5] = np.nan
    for frame in frames:
        frame[7, 7] = np.nan
    with _stack(frames) as stack:
        master = combine(stack, _noise, rejected={})
    assert master.used[5, 5] == 4
    assert np.isfinite(master.mean[5, 5])
    assert np.isnan(master.mean[7, 7])


def test_small_budget_gives_the_same_master_from_small_blocks() -> None:
    frames = _frames(12)
    with _stack(frames) as large, _stack(frames, budget_mb=0.2) as small:
        sizes = [block.nbytes for _, block in small.blocks(list(range(12)))]
        one, other = combine(large, _noise, rejected={}), combine(small, _noise, rejected={})
    assert len(sizes) > 5
    assert max(sizes) <= 0.2e6
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-6)


def test_frames_beyond_the_budget_are_not_held_in_memory() -> None:
    with _stack(_frames(12), budget_mb=0.2) as stack:
        assert stack._spool._rolled


def test_weights_favour_the_better_frames() -> None:
    frames = [np.full(SHAPE, value, dtype=np.float32) for value in (1.0, 1.0, 4.0)]
    with _stack(frames) as stack:
        master = combine(stack, _noise, rejected={}, weights={"0": 1.0, "1": 1.0, "2": 2.0})
    assert master.mean[0, 0] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda f: f + np.random.default_rng(9).normal(0, 3 * SIGMA, SHAPE), "noise"),
        (lambda f: f + 30.0, "level"),
        (lambda f: f + np.linspace(-20, 20, SHAPE[1]), "shape"),
        (lambda f: np.where(np.arange(SHAPE[1]) < 100, np.nan, f), "numbers"),
    ],
)
def test_a_frame_unlike_the_rest_is_rejected_with_the_reason(spoil, word: str) -> None:
    frames = _frames(7)
    frames[4] = spoil(frames[4]).astype(np.float32)
    with _stack(frames) as stack:
        reasons = find_outliers(stack.facts, OutlierRules())
    assert list(reasons) == ["4"]
    assert word in reasons["4"]


def test_alike_frames_are_all_kept() -> None:
    with _stack(_frames(10)) as stack:
        assert find_outliers(stack.facts, OutlierRules()) == {}


def test_too_few_frames_are_an_error_that_tells_why() -> None:
    with _stack(_frames(3)) as stack, pytest.raises(CombineError, match=r"2 usable frames of 3, 3 needed .*1: too warm"):
        combine(stack, _noise, rejected={"1": "too warm"})


def test_frames_of_another_shape_are_refused() -> None:
    with _stack(_frames(1)) as stack, pytest.raises(CombineError, match="one camera's frames"):
        stack.add("odd", np.zeros((4, 4), dtype=np.float32))

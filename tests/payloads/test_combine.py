"""Masters: the noise they should have, what is clipped, who is left out, and how much memory that takes."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from payloads.combine import CombineError, Frame, Master, NoiseMaps, Source, Spool, combine
from payloads.frame_facts import OutlierRules, facts_of, find_outliers
from payloads.overscan import FrameUnusable

SHAPE = (96, 128)
SIGMA = 4.0


def _frames(count: int, seed: int = 1, level: float = 10.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(level + rng.normal(0, SIGMA, SHAPE)).astype(np.float32) for _ in range(count)]


def _combined(frames: list[np.ndarray], **settings: Any) -> Master:
    weights = settings.pop("weights", [1.0] * len(frames))
    sources = [
        Source(name=str(k), load=lambda frame=frame, weight=weight: Frame(image=frame, weight=weight))
        for k, (frame, weight) in enumerate(zip(frames, weights, strict=True))
    ]
    return combine(sources, SHAPE, NoiseMaps(read=np.full(SHAPE, SIGMA, dtype=np.float32)), **settings)


@pytest.mark.parametrize("count", [4, 5, 10, 30, 70])
def test_masters_noise_is_that_of_a_mean_to_five_per_cent(count: int) -> None:
    master = _combined(_frames(count))
    expected = SIGMA / np.sqrt(count)
    assert np.std(master.mean - 10.0) <= 1.05 * expected
    assert master.noise_expected == pytest.approx(expected, rel=0.02)
    assert master.noise == pytest.approx(expected, rel=0.06)
    assert len(master.names) == count


def test_a_hit_in_one_frame_is_clipped_and_counted() -> None:
    frames = _frames(6)
    frames[2][40, 50] += 400.0
    master = _combined(frames)
    assert master.clipped[40, 50] == 1
    assert master.used[40, 50] == 5
    assert abs(master.mean[40, 50] - 10.0) < 5 * SIGMA / np.sqrt(5)


def test_a_pixel_that_is_noisy_of_itself_is_not_eaten_away_and_is_seen_to_be() -> None:
    rng = np.random.default_rng(5)
    frames = _frames(20)
    values = rng.normal(500.0, 10 * SIGMA, 20)
    for frame, value in zip(frames, values, strict=True):
        frame[10, 10] = value
    master = _combined(frames)
    assert master.used[10, 10] >= 18
    assert master.mean[10, 10] == pytest.approx(values.mean(), abs=4 * SIGMA)
    assert master.scatter[10, 10] > 4
    assert np.median(master.scatter) == pytest.approx(1.0, abs=0.1)


def test_missing_pixels_are_left_out_and_wholly_missing_ones_are_nan() -> None:
    frames = _frames(5)
    frames[0][5, 5] = np.nan
    for frame in frames:
        frame[7, 7] = np.nan
    master = _combined(frames)
    assert master.used[5, 5] == 4
    assert np.isfinite(master.mean[5, 5])
    assert np.isnan(master.mean[7, 7])


def test_the_clipped_mean_is_numpys() -> None:
    frames = np.stack(_frames(9))
    frames[3, 20:30] += 100.0
    frames[5, 40, 40] = np.nan
    centre = np.nanmedian(frames, axis=0)
    deviation = np.abs(frames - centre)
    limit = 4.0 * np.maximum(SIGMA, 1.4826 * np.nanmedian(deviation, axis=0))
    expected = np.nanmean(np.where(deviation <= limit, frames, np.nan), axis=0)
    master = _combined(list(frames), rules=OutlierRules(tolerance_noise=50.0, noise_ratio=10.0))
    np.testing.assert_allclose(master.mean, expected, rtol=2e-6)
    assert master.clipped.sum() == np.sum(deviation > limit)


def test_small_budget_gives_the_same_master_from_small_blocks_of_a_scratch_file() -> None:
    frames = _frames(12)
    with Spool(SHAPE, len(frames), budget_mb=0.2) as spool:
        for frame in frames:
            spool.add(frame)
        sizes = [block.nbytes for _, block in spool.blocks(range(12))]
    assert len(sizes) > 5
    assert max(sizes) <= 0.2e6
    np.testing.assert_array_equal(_combined(frames).mean, _combined(frames, budget_mb=0.2).mean)


def test_batches_are_combined_to_the_mean_of_all() -> None:
    frames = _frames(20)
    whole, parts = _combined(frames), _combined(frames, batch=7)
    assert parts.names == whole.names
    same = (whole.clipped == 0) & (parts.clipped == 0)
    assert same.mean() > 0.99
    np.testing.assert_allclose(parts.mean[same], whole.mean[same], rtol=1e-5)
    np.testing.assert_allclose(parts.variance[same], whole.variance[same], rtol=1e-5)


def test_an_early_batch_that_is_unlike_all_the_others_is_left_out_after_all() -> None:
    frames = [*_frames(4, seed=2, level=60.0), *_frames(10)]
    master = _combined(frames, batch=5)
    assert set(master.rejected) == {"0", "1", "2", "3"}
    assert np.mean(master.mean) == pytest.approx(10.0, abs=0.1)


def test_memory_does_not_grow_with_the_frames_but_by_what_is_remembered_of_each() -> None:
    shape = (500, 500)

    def frame(number: int) -> Frame:
        return Frame(image=np.float32(SIGMA) * np.random.default_rng(number).standard_normal(shape, dtype=np.float32))

    def peak(count: int) -> int:
        sources = [Source(name=str(k), load=lambda k=k: frame(k)) for k in range(count)]
        tracemalloc.start()
        combine(sources, shape, NoiseMaps(read=np.full(shape, SIGMA, dtype=np.float32)), budget_mb=4.0)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(3) > 0  # what is compiled or imported is not counted
    assert peak(94) - peak(34) < 60 * 0.4 * 4 * shape[0] * shape[1]


def test_weights_favour_the_better_frames() -> None:
    frames = [np.full(SHAPE, value, dtype=np.float32) for value in (1.0, 1.0, 4.0)]
    master = _combined(frames, weights=[1.0, 1.0, 2.0], rules=OutlierRules(tolerance=10.0))
    assert master.mean[0, 0] == pytest.approx(2.5)


def _reasons(frames: list[np.ndarray], **rules: Any) -> dict[str, str]:
    return find_outliers([facts_of(str(k), frame) for k, frame in enumerate(frames)], OutlierRules(**rules))


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
    reasons = _reasons(frames)
    assert list(reasons) == ["4"]
    assert word in reasons["4"]


def test_alike_frames_are_all_kept() -> None:
    assert _reasons(_frames(10), grain=0.5) == {}


def _patterned(count: int, pattern: np.ndarray) -> list[np.ndarray]:
    return [(frame + pattern).astype(np.float32) for frame in _frames(count)]


@pytest.mark.parametrize("part", [0.1, 3.0, -1.0])
def test_another_detectors_frame_or_one_of_another_time_is_known_by_the_fixed_pattern(part: float) -> None:
    pattern = np.random.default_rng(11).normal(0, 0.5 * SIGMA, SHAPE)
    frames = _patterned(7, pattern)
    frames[3] = _frames(1, seed=77)[0] + (part * pattern).astype(np.float32)
    reasons = _reasons(frames, noise_ratio=3.0)
    assert list(reasons) == ["3"]
    assert "fixed pattern" in reasons["3"]


def test_dust_of_another_filter_is_seen_though_the_light_slopes_differently_each_time() -> None:
    rng = np.random.default_rng(4)
    slope = np.linspace(-1, 1, SHAPE[1])[None, :]
    flats = [1 + rng.normal(0, 0.004) * slope + rng.normal(0, 0.006, SHAPE) for _ in range(8)]
    ring = np.zeros(SHAPE)
    ring[30:60, 40:70] = -0.01
    flats = [(f * (1 + (ring if k != 5 else ring[::-1, ::-1]))).astype(np.float32) for k, f in enumerate(flats)]
    reasons = _reasons(flats, level_matters=False, tolerance=0.02, grain=0.0007)
    assert list(reasons) == ["5"]
    assert "another filter" in reasons["5"]


def test_too_few_frames_are_an_error_that_tells_why() -> None:
    frames = _frames(3)

    def warm() -> Frame:
        raise FrameUnusable("too warm")

    sources = [Source(name="0", load=lambda: Frame(image=frames[0])), Source(name="1", load=warm)]
    sources.append(Source(name="2", load=lambda: Frame(image=frames[2])))
    with pytest.raises(CombineError, match=r"2 usable frames of 3, 3 needed .*1: too warm"):
        combine(sources, SHAPE, NoiseMaps(read=np.ones(SHAPE, dtype=np.float32)))


def test_frames_of_another_shape_are_refused() -> None:
    with pytest.raises(CombineError, match="one camera's frames"):
        _combined([_frames(1)[0], np.zeros((4, 4), dtype=np.float32)])

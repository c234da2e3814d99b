"""Two snaps of one visit: their sum, and what is in one of them alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from payloads.exposure import ExposureFacts
from payloads.isr import Plane
from payloads.mask import Mask, any_set
from payloads.prompt.snaps import join_snaps

FACTS = ExposureFacts(
    exposure_time_s=15.0,
    dark_time_s=15.5,
    mjd_mid_tai=60_000.0,
    physical_filter="r1",
    band="r",
    ra_deg=10.0,
    dec_deg=-5.0,
    rotation_deg=0.0,
)
SHAPE = (60, 80)


def snap(seed: int, hit: tuple[int, int] | None = None) -> Plane:
    """Sky of 400 electrons with a star of 5,000 in its brightest pixel."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = 400 + 5000 * np.exp(-0.5 * ((x - 40) ** 2 + (y - 30) ** 2) / 1.6**2)
    data = np.random.default_rng(seed).poisson(light).astype(np.float32)
    if hit is not None:
        data[hit] += 900
    return Plane(data=data, mask=np.zeros(SHAPE, np.uint32), variance=light.astype(np.float32))


def test_snaps_are_added_and_their_times_with_them():
    later = replace(FACTS, mjd_mid_tai=60_000.0002)
    one, two = snap(1), snap(2)
    plane, facts = join_snaps([(one, FACTS), (two, later)])
    assert np.array_equal(plane.data, one.data + two.data)
    assert np.array_equal(plane.variance, one.variance + two.variance)
    assert (facts.exposure_time_s, facts.dark_time_s) == (30.0, 31.0)
    assert facts.mjd_mid_tai == pytest.approx(60_000.0001)


def test_a_hit_of_one_snap_is_a_cosmic_ray_and_a_star_is_none():
    plane, _ = join_snaps([(snap(1, hit=(10, 12)), FACTS), (snap(2), FACTS)])
    ray = any_set(plane.mask, Mask.CR, SHAPE)
    assert ray[10, 12]
    assert ray.sum() == 1


def test_one_snap_is_the_visit():
    only = snap(1)
    assert join_snaps([(only, FACTS)]) == (only, FACTS)

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payloads.ids import exposure_id, object_id, source_id, split_source_id

days = st.dates(min_value=date(2000, 1, 1), max_value=date(2089, 9, 17)).map(lambda d: d.year * 10_000 + d.month * 100 + d.day)


@given(days, st.integers(1, 2**14 - 1), st.integers(0, 63), st.integers(0, 255), st.integers(0, 2**20 - 1))
def test_source_id_can_be_taken_apart_again(day: int, seq: int, release: int, detector: int, counter: int) -> None:
    packed = source_id(release, exposure_id(day, seq), detector, counter)
    parts = split_source_id(packed)
    assert (parts.release, parts.exposure, parts.detector, parts.counter) == (release, exposure_id(day, seq), detector, counter)
    assert 0 <= packed < 2**63


def test_ids_of_two_releases_never_meet() -> None:
    exposure = exposure_id(20260302, 1)
    assert source_id(1, exposure, 0, 2**20 - 1) < source_id(2, exposure, 0, 0)


@given(st.integers(0, 2**15 * 64 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**20 - 1))
def test_object_ids_of_different_patches_differ(tract: int, patch: int, counter: int) -> None:
    here = object_id(1, tract, patch, counter)
    assert here != object_id(1, tract, patch ^ 1, counter)
    assert here >> 57 == 1


@pytest.mark.parametrize(("day", "seq"), [(20260230, 1), (19991231, 1), (20260302, 0), (20260302, 2**14)])
def test_what_does_not_fit_an_id_is_refused(day: int, seq: int) -> None:
    with pytest.raises(ValueError, match=r"day_obs|seq_num"):
        exposure_id(day, seq)


def test_counter_that_overflows_is_refused_and_not_wrapped() -> None:
    with pytest.raises(ValueError, match="counter"):
        source_id(0, exposure_id(20260302, 1), 0, 2**20)
    with pytest.raises(ValueError, match="patch"):
        object_id(0, 0, 2**16, 0)

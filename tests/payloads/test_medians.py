"""Medians of many short rows are numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from payloads.compiled.medians import row_medians


@pytest.mark.parametrize("length", [1, 2, 3, 64, 101])
def test_row_medians_are_numpys_with_many_equal_values_and_without(length: int) -> None:
    rng = np.random.default_rng(length)
    for rows in (rng.integers(0, 9, (300, length)), rng.normal(0, 1, (300, length)), np.ones((3, length))):
        rows = rows.astype(np.float32)
        np.testing.assert_array_equal(row_medians(rows), np.median(rows, axis=1))


def test_what_is_no_number_is_left_out_and_a_row_of_nothing_is_nan() -> None:
    rows = np.array([[1, np.nan, 3, np.inf], [np.nan] * 4, [5, 4, 6, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(row_medians(rows), np.array([2, np.nan, 5], dtype=np.float32))

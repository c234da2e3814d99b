from __future__ import annotations

import numpy as np
import pytest

from payloads.mask import UNUSABLE, Mask, any_set, header_cards


def test_numbers_of_the_bits_are_part_of_the_data_format() -> None:
    written = {"BAD": 0, "SAT": 1, "CR": 2, "EDGE": 3, "NO_DATA": 4, "INTERP": 5, "SUSPECT": 6, "DETECTED": 7}
    assert {name: int(Mask[name]).bit_length() - 1 for name in written} == written


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, ">i2"])
def test_any_set_finds_pixels_with_one_of_the_bits(kind) -> None:
    mask = np.array([[0, Mask.SAT], [Mask.DETECTED, Mask.CR | Mask.DETECTED]], dtype=kind)
    assert any_set(mask, Mask.SAT | Mask.CR, (2, 2)).tolist() == [[False, True], [False, True]]
    assert any_set(mask, UNUSABLE, (2, 2)).sum() == 2


def test_no_mask_means_that_no_pixel_is_flagged() -> None:
    found = any_set(None, UNUSABLE, (3, 4))
    assert found.shape == (3, 4)
    assert not found.any()


def test_header_cards_are_distinct_and_fit_fits_keywords() -> None:
    cards = header_cards()
    assert len(cards) == len(Mask)
    assert all(len(key) <= 8 for key in cards)
    assert sorted(cards.values()) == list(range(len(Mask)))

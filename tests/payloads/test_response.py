"""What was measured of amplifiers, in the description that ISR works from."""

from __future__ import annotations

import numpy as np
import pytest

from payloads.camera import Amplifier, Detector
from payloads.response import MeasurementMismatch, linearise, measured

DETECTOR = Detector(
    id=3,
    name="D3",
    amplifiers=tuple(
        Amplifier(name=name, data=f"[{x}:{x + 9},1:8]", place=f"[{x}:{x + 9},1:8]", gain=2.0, read_noise=5.0, saturation=60_000)
        for name, x in (("A", 1), ("B", 11))
    ),
)
NAMES = {"detector": 3, "amplifiers": ["A", "B"]}


def test_measured_numbers_take_the_place_of_the_descriptions() -> None:
    ptc = NAMES | {"gain": {"A": 1.9, "B": 2.2}, "read_noise": {"A": 5.5, "B": 4.5}}
    crosstalk = NAMES | {"coefficients": [[0.0, 1e-3], [2e-3, 0.0]]}
    found = measured(DETECTOR, ptc=ptc, crosstalk=crosstalk)
    assert [(a.gain, a.read_noise) for a in found.amplifiers] == [(1.9, 5.5), (2.2, 4.5)]
    assert found.crosstalk == ((0.0, 1e-3), (2e-3, 0.0))
    assert DETECTOR.crosstalk is None


def test_what_was_not_measured_stays_as_described() -> None:
    ptc = NAMES | {"gain": {"A": 1.9, "B": float("nan")}, "read_noise": {"A": 5.5}}
    assert [(a.gain, a.read_noise) for a in measured(DETECTOR, ptc=ptc).amplifiers] == [(1.9, 5.5), (2.0, 5.0)]
    assert measured(DETECTOR) == DETECTOR


def test_a_measurement_of_another_camera_is_refused() -> None:
    other = {"detector": 3, "amplifiers": ["A", "C"], "gain": {}, "read_noise": {}}
    with pytest.raises(MeasurementMismatch, match="the ptc is of amplifiers A, C, detector D3 has A, B"):
        measured(DETECTOR, ptc=other)


def test_linearity_is_undone_in_each_amplifier_by_its_own_curve() -> None:
    adu = [0.0, 20_000.0, 40_000.0]
    linearity = NAMES | {"adu": {"A": adu, "B": []}, "correction": {"A": [0.0, 0.01, 0.03], "B": []}}
    data = np.full((8, 20), 30_000.0, dtype=np.float32)
    data[0, 0], data[1, 0], data[2, 0] = 0.0, 50_000.0, np.nan
    corrected = linearise(data, measured(DETECTOR, linearity=linearity))
    np.testing.assert_allclose(corrected[3:, :10], 30_000 * 1.02, rtol=1e-6)
    np.testing.assert_array_equal(corrected[:, 10:], 30_000)
    assert corrected[0, 0] == 0
    assert corrected[1, 0] == pytest.approx(50_000 * 1.03)
    assert np.isnan(corrected[2, 0])
    assert linearise(data, DETECTOR) is data

"""Every calibration product against the simulator's truth, on cameras of which nothing was measured before.

Small frames and few: the figures at the survey's statistics are those of benchmarks/bench_calibration.py (`truth`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from payloads.crosstalk import CrosstalkFit
from payloads.isr import prepare
from payloads.mask import Mask
from payloads.response import measured
from payloads.simulator.calibration_night import Night, make_products
from payloads.simulator.calibration_scores import score
from payloads.simulator.config import SurveyConfig
from payloads.tasks.amplifiers import unmeasured


def survey(amplifiers: int, size: tuple[int, int], visits: dict[str, int], **calibrations: Any) -> SurveyConfig:
    whole = SurveyConfig.load("calibration")
    content = whole.model_dump()
    content["camera"] |= {"amplifiers": amplifiers, "size": size}
    content["fields"][0]["visits"] = visits
    content["stars"]["per_detector"] = 30
    content["calibrations"] |= calibrations
    return SurveyConfig.from_dict(content)


@pytest.fixture(scope="module")
def four() -> tuple[Night, dict[str, Any], dict[str, float]]:
    """A camera of four amplifiers with everything; the sky has fringes in i, none in r."""
    night = Night(survey(4, (256, 256), {"r": 16, "i": 12}, ptc=24, spots=8, mono=3, mono_nm=(878.0, 902.0, 1.0)))
    products, _ = make_products(night, "r")
    assert "fringe" not in products, "the sky has none in r"
    scores = score(night, products, "r")
    red, _ = make_products(night, "i", held_out=3, made=products)
    scores |= {name: value for name, value in score(night, red, "i", held_out=3).items() if name not in scores}
    return night, red, scores


@pytest.fixture(scope="module")
def sixteen() -> tuple[Night, dict[str, Any], dict[str, float]]:
    """A camera of sixteen amplifiers, with what is measured of amplifiers."""
    night = Night(survey(16, (256, 512), {"r": 1}, ptc=30, spots=24, mono=0, flat=6, dark=6, bias=12))
    products, _ = make_products(night, "r", held_out=1)
    return night, products, score(night, products, "r")


def test_bias_and_dark_are_as_quiet_as_a_clipped_mean_can_be(four: Any, sixteen: Any) -> None:
    for _, _, scores in (four, sixteen):
        assert scores["bias_noise_ratio"] < 1.05
        assert scores["dark_noise_ratio"] < 1.05


def test_flat_and_illumination_are_right_to_a_fifth_of_a_per_cent(four: Any) -> None:
    scores = four[2]
    assert scores["flat_rms"] < 0.002
    assert scores["illumination_rms"] < 0.002


def test_crosstalk_above_1e_4_is_right_to_five_per_cent_and_known_to_be(four: Any, sixteen: Any) -> None:
    for _, _, scores in (four, sixteen):
        assert scores["crosstalk_coefficients"] > 5
        assert scores["crosstalk_error"] < 0.05
        assert scores["crosstalk_pull_rms"] < 2.0
    assert four[2]["crosstalk_3sigma"] < 0.05


def test_crosstalk_is_gone_from_frames_it_was_not_measured_on(four: Any) -> None:
    night, products, _ = four
    handle = night.raws("spots")[-1]
    detector = measured(unmeasured(night.described), crosstalk=products["crosstalk"])
    left = CrosstalkFit(detector)
    before = CrosstalkFit(detector)
    for fit, description in ((before, unmeasured(night.described)), (left, detector)):
        fit.add(prepare(handle.get().data, description).plane.data - products["bias"].data)
    largest = np.abs(before.solve().coefficients).max()
    assert np.abs(left.solve().coefficients).max() < 0.05 * largest


def test_gain_read_noise_and_linearity_are_measured(four: Any, sixteen: Any) -> None:
    for _, _, scores in (four, sixteen):
        assert scores["read_noise_error"] < 0.02
        assert scores["linearity_error"] < 0.002
    # As many electrons as a small frame's amplifier has leave 0.25 % of noise in a gain.
    assert four[2]["gain_error"] < 0.007
    assert sixteen[2]["gain_error"] < 0.012


def test_stated_errors_of_the_gain_are_those_it_has(four: Any, sixteen: Any) -> None:
    pulls = []
    for night, products, _ in (four, sixteen):
        ptc = products["ptc"]
        pulls += [(ptc["gain"][a.name] - a.gain) / ptc["gain_err"][a.name] for a in night.true_detector.amplifiers]
    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.6


def test_bad_pixels_are_found_and_no_others_each_with_its_kind(four: Any) -> None:
    night, products, scores = four
    assert scores["bad_pixel_completeness"] >= 0.99
    assert scores["bad_pixel_purity"] >= 0.99
    mask = products["bad_pixels"].mask
    assert np.mean((mask[night.truth.hot] & Mask.HOT) != 0) > 0.99
    assert np.mean((mask[night.truth.dead] & Mask.DEAD) != 0) > 0.99
    column = night.truth.dead.sum(axis=0).argmax()
    assert ((mask[:, column] & Mask.COLUMN) != 0).sum() > 60


def test_fringes_are_a_tenth_in_frames_that_made_no_fringe_frame(four: Any) -> None:
    assert four[2]["fringe_reduction"] > 10


def test_monochromatic_flats_and_the_flat_made_of_them_are_right(four: Any) -> None:
    scores = four[2]
    assert scores["mono_rms"] < 0.003
    assert scores["synthetic_flat_rms"] < 0.002
    assert four[1]["mono_flat"].meta["WAVELENGTHS_NM"] == [float(nm) for nm in range(878, 903)]

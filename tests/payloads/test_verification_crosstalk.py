"""A crosstalk matrix against the sky of the simulator, whose own is known: a right one is verified, wrong ones are refused."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.nddata import CCDData

from payloads.simulator.calibration_night import Night
from payloads.simulator.config import SurveyConfig
from payloads.tasks.verification_crosstalk import VerifyCrosstalkTask
from payloads.verification_crosstalk import shifts


class Sky:
    """Frames of eight fields as a camera of four amplifiers sees them, and its matrix."""

    def __init__(self) -> None:
        content = SurveyConfig.load("calibration").model_dump()
        content["camera"]["size"] = (512, 512)
        field = content["fields"][0] | {"visits": {"r": 1}}
        content["fields"] = [field | {"name": f"f{k}", "ra_deg": 13.0 + 0.3 * k} for k in range(8)]
        content["stars"]["per_detector"] = 300
        self.night = Night(SurveyConfig.from_dict(content))
        self.truth = np.array(self.night.true_detector.crosstalk)
        self.frames = [SimpleNamespace(dataId=h.dataId, get=cache(h.get)) for h in self.night.raws("science")]
        self.bias = CCDData(self.night.truth.bias_adu, unit="adu", meta={})

    def judged(self, matrix: np.ndarray, frames: list[Any], made_of: tuple[int, ...] = ()) -> dict[str, Any]:
        provenance = {f"INP{k:05d}": exposure for k, exposure in enumerate(made_of, 1)}
        names = [a.name for a in self.night.described.amplifiers]
        errors = np.full(matrix.shape, 1e-6).tolist()
        table = {"amplifiers": names, "coefficients": matrix.tolist(), "errors": errors, "provenance": provenance}
        ref = SimpleNamespace(id="new", run="c/verify/1", datasetType=SimpleNamespace(name="crosstalk"))
        candidate = SimpleNamespace(ref=ref, get=lambda: table)
        about = {"detector": self.night.described, "subject": {"detector": 0}, "bias": self.bias}
        return VerifyCrosstalkTask().run(raws=frames, candidate=candidate, certified=None, **about)


@pytest.fixture(scope="module")
def sky() -> Sky:
    return Sky()


def numbers(verdict: dict[str, Any]) -> dict[str, float]:
    """Of all amplifiers together."""
    return {c["name"]: c["value"] for c in verdict["checks"] if not c["amplifier"]}


def metric(verdict: dict[str, Any], name: str) -> float:
    return next(m["value"] for m in verdict["metrics"] if m["name"] == name)


def test_the_cameras_own_matrix_leaves_no_ghosts_on_the_sky(sky: Sky) -> None:
    verdict = sky.judged(sky.truth, sky.frames)
    found = numbers(verdict)
    assert verdict["reasons"] == []
    assert verdict["science"]["verified"]
    assert metric(verdict, "crosstalk_verified_on_science") == 1.0
    assert len(verdict["science"]["frames"]) == 8
    assert found["sky_ghost_before"] > 10 * found["sky_ghost_error"], "there were ghosts, and they were seen"
    assert abs(found["sky_ghost_after"]) < 3 * found["sky_ghost_error"]
    assert abs(found["sky_left"]) < 0.1
    assert "of the ghosts of" in verdict["notes"][0]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda x: 0.7 * x, "sky_left is 0."),
        (lambda x: 1.4 * x, "sky_left is -0."),
        (lambda x: x.T, "victims and sources were exchanged"),
        (lambda x: -x, "sky_left is"),
    ],
    ids=["too small", "too large", "transposed", "wrong sign"],
)
def test_a_wrong_matrix_is_refused_though_its_own_numbers_are_fine(sky: Sky, wrong: Any, reason: str) -> None:
    verdict = sky.judged(wrong(sky.truth), sky.frames)
    assert not verdict["passed"]
    assert not verdict["science"]["verified"]
    assert reason in " ".join(verdict["reasons"])
    assert all(c["name"].startswith("sky_") for c in verdict["checks"] if c["decisive"] and not c["passed"])
    assert sky.judged(wrong(sky.truth), [])["passed"], "without the sky nobody would have known"


def test_a_campaign_without_frames_of_the_sky_says_that_it_was_not_verified_there(sky: Sky) -> None:
    verdict = sky.judged(sky.truth, [])
    assert verdict["passed"]
    assert not verdict["science"]["verified"]
    assert verdict["notes"] == ["not verified on science: no frame of the sky with bright stars, other than it was made of"]
    assert metric(verdict, "crosstalk_verified_on_science") == 0.0


def test_frames_that_it_was_made_of_judge_no_matrix_and_too_few_stars_are_said_to_be_too_few(sky: Sky) -> None:
    exposures = tuple(frame.dataId["exposure"] for frame in sky.frames)
    assert sky.judged(sky.truth, sky.frames, made_of=exposures)["notes"][0].endswith("other than it was made of")
    few = sky.judged(sky.truth, sky.frames, made_of=exposures[1:])
    assert few["science"]["frames"] == [exposures[0]]
    assert few["notes"][0].startswith("not verified on science: too few")
    assert few["passed"]


def test_a_matrix_without_crosstalk_foretells_no_ghost_and_is_not_verified(sky: Sky) -> None:
    verdict = sky.judged(0 * sky.truth, sky.frames[:2])
    assert not verdict["science"]["verified"]
    assert "none of the ghosts that it foretells" in verdict["notes"][0]


def test_places_are_shifted_far_and_never_twice_the_same() -> None:
    found = shifts((128, 256))
    assert len(set(found)) == len(found) == 16
    assert all(max(min(y, 128 - y), min(x, 256 - x)) >= 24 for y, x in found)

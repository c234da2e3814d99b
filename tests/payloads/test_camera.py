from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import yaml

from payloads.camera import Camera, CameraError, parse_section
from payloads.simulator.config import SurveyConfig, SurveyConfigError

NAMES = sorted(p.name.removesuffix(".yaml") for p in resources.files("payloads").joinpath("cameras").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_camera_is_valid_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    camera = Camera.load(name)
    assert camera.name == name
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(camera.to_dict()))
    assert Camera.load(path) == camera


@pytest.mark.parametrize("name", NAMES)
def test_amplifiers_of_a_shipped_camera_cover_the_trimmed_frame_once(name: str) -> None:
    for detector in Camera.load(name).detectors:
        covered = np.zeros(detector.shape, dtype=int)
        for amplifier in detector.amplifiers:
            covered[parse_section(amplifier.place)] += 1
        assert (covered == 1).all()


def test_section_counts_from_one_and_includes_both_ends() -> None:
    assert parse_section("[18:1382, 1:1370]") == (slice(0, 1370), slice(17, 1382))


@pytest.mark.parametrize("text", ["[0:5,1:5]", "[5:4,1:5]", "1:5,1:5", "[1:5]"])
def test_senseless_section_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="section"):
        parse_section(text)


def test_unknown_key_is_an_error_that_names_the_nearest(camera: Camera) -> None:
    content = copy.deepcopy(camera.to_dict())
    content["headers"]["seqnum"] = {"keyword": "X"}
    with pytest.raises(CameraError, match=r"headers\.seqnum; did you mean seq_num\?"):
        Camera.from_dict(content)


def test_rule_needs_exactly_one_source(camera: Camera) -> None:
    content = camera.to_dict()
    content["headers"]["airmass"] = {"keyword": "AIRMASS", "constant": 1.0}
    with pytest.raises(CameraError, match="exactly one"):
        Camera.from_dict(content)


def test_amplifier_whose_sections_differ_in_size_is_refused(camera: Camera) -> None:
    content = camera.to_dict()
    content["detectors"][0]["amplifiers"][0]["place"] = "[1:79,1:60]"
    with pytest.raises(CameraError, match="differ in size"):
        Camera.from_dict(content)


def test_crosstalk_of_another_size_than_the_amplifiers_is_refused(camera: Camera) -> None:
    content = camera.to_dict()
    content["detectors"][0]["crosstalk"] = [[0.0, 0.1], [0.1, 0.0]]
    with pytest.raises(CameraError, match="1 x 1"):
        Camera.from_dict(content)


def test_same_detector_twice_is_refused(camera: Camera) -> None:
    content = camera.to_dict()
    content["detectors"][1]["id"] = 0
    with pytest.raises(CameraError, match="detector id given twice"):
        Camera.from_dict(content)


def test_misspelt_camera_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(CameraError, match="did you mean lowell42"):
        Camera.load("lowel42")


def test_absent_camera_file_is_named() -> None:
    with pytest.raises(CameraError, match=r"nowhere\.yaml: no such camera"):
        Camera.load("nowhere.yaml")


def test_unknown_detector_and_filter_are_answered_with_the_known_ones(camera: Camera) -> None:
    with pytest.raises(CameraError, match=r"no detector 7; it has \[0, 1\]"):
        camera.detector(7)
    with pytest.raises(CameraError, match=r"no filter 'z9'; it has \['r1', 'g1'\]"):
        camera.band("z9")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ({"longitude_deg": -70.7, "latitude_deg": -130.2, "height_m": 2715}, r"observatory\.latitude_deg"),
        ({"longitude_deg": -70.7, "latitude_deg": -30.2, "height_km": 2.7}, r"observatory\.height_km; did you mean height_m\?"),
        ({"longitude_deg": -70.7, "latitude_deg": -30.2}, r"observatory\.height_m"),
    ],
)
def test_a_place_that_is_not_on_earth_or_not_whole_is_refused(camera: Camera, place: dict[str, float], says: str) -> None:
    with pytest.raises(CameraError, match=says):
        Camera.from_dict(camera.to_dict() | {"observatory": place})


@pytest.mark.parametrize(
    ("content", "words"), [(b"a: [b\n", "not readable as YAML"), (b"\xff\xfe", "not readable as YAML"), (b"5\n", "top level")]
)
def test_a_file_that_is_no_description_is_said_to_be_none(tmp_path, content, words):
    path = tmp_path / "camera.yaml"
    path.write_bytes(content)
    with pytest.raises(CameraError, match=words):
        Camera.load(path)
    with pytest.raises(SurveyConfigError, match=r"camera\.yaml"):
        SurveyConfig.load(path)

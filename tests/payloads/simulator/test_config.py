from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from payloads.camera import Camera
from payloads.simulator.cli import simulate
from payloads.simulator.config import SurveyConfig, SurveyConfigError
from payloads.simulator.world import make_world

PRESETS = sorted(p.stem for p in (Path(__file__).parents[3] / "payloads/simulator/presets").glob("*.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sed": 1}, "unknown key sed; did you mean seed?"),
        ({"camera": {"sise": [100, 100]}}, "unknown key camera.sise; did you mean size?"),
        ({"fields": [{"visit": {"r": 1}}]}, "unknown key fields.0.visit; did you mean visits?"),
        ({"stars": {"zzz": 1}}, "known are per_detector"),
        ({"fields": [{"visits": {"q": 1}}]}, "asks for filter 'q'"),
        ({"camera": {"size": [101, 100]}}, "choose a size that divides"),
        ({"nights": {"count": 0}}, "nights.count"),
    ],
)
def test_a_wrong_survey_is_told_what_would_be_right(content, message: str):
    with pytest.raises(SurveyConfigError, match=r"my\.yaml") as error:
        SurveyConfig.from_dict(content, "my.yaml")
    assert message in str(error.value)


def test_an_empty_file_is_a_survey_of_defaults(tmp_path: Path):
    (tmp_path / "s.yaml").write_text("")
    assert SurveyConfig.load(tmp_path / "s.yaml") == SurveyConfig()


def test_an_absent_file_and_an_unknown_preset_name_the_presets(tmp_path: Path):
    for name in (tmp_path / "absent.yaml", "tinny"):
        with pytest.raises(SurveyConfigError, match="tiny"):
            SurveyConfig.load(name)


def test_a_field_below_the_horizon_is_refused_with_its_altitude():
    config = SurveyConfig.from_dict({"fields": [{"ra_deg": 193.0, "dec_deg": 3.0}]})
    with pytest.raises(SurveyConfigError, match=r"stands at altitude -?\d+ deg"):
        make_world(config)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_surveys_and_their_cameras_are_cameras(preset: str, tmp_path: Path):
    world = make_world(SurveyConfig.load(preset))
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(world.camera.to_dict()))
    assert Camera.load(path) == world.camera


def test_the_preset_of_truth_is_as_hard_as_promised():
    transients = hosted = 0
    for seed in (1, 2):
        config = SurveyConfig.load("truth").model_copy(update={"seed": seed})
        world = make_world(config)
        transients += len(world.transients.id)
        hosted += int((world.transients.host >= 0).sum())
        detector_deg2 = np.prod(config.camera.size) * (config.camera.pixel_scale_arcsec / 3600) ** 2
        ra, dec = world.stars.ra, world.stars.dec
        area = np.ptp(ra) * np.cos(np.deg2rad(dec.mean())) * np.ptp(dec)
        assert len(ra) * detector_deg2 / area > 200
    assert transients >= 100
    assert hosted == transients / 2
    assert config.seeing.scatter_fraction >= 0.2
    assert config.camera.amplifiers == 4
    assert config.camera.crosstalk > 0


def test_command_line_says_what_is_wrong_without_a_traceback(tmp_path: Path):
    (tmp_path / "s.yaml").write_text("sead: 3\n")
    result = CliRunner().invoke(simulate, [str(tmp_path / "s.yaml"), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "did you mean seed?" in result.output
    assert not (tmp_path / "out").exists()

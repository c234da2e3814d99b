from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time, TimeDelta
from click.testing import CliRunner
from lsst.daf.butler import Timespan

from payloads.camera import Camera
from payloads.cli import pipetask
from payloads.execute import ExecutionError, execute_pipeline
from payloads.ingest import ingest
from payloads.repository import checksums, open_repository

BIAS = "resource://payloads/pipelines/calibration.yaml#bias"
WHERE = "instrument='Testcam' AND exposure.observation_type='bias'"


@pytest.fixture(scope="module")
def _biases(_empty_home: Path, camera: Camera, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Path(shutil.copytree(_empty_home, tmp_path_factory.mktemp("biases") / "home"))
    raw = home / "raw"
    raw.mkdir()
    for number in range(1, 6):
        cards = {"INSTRUME": "Testcam", "IMAGETYP": "BIAS", "DATE-OBS": "2026-03-02T03:00:00", "SEQNUM": number, "DETECTOR": 0}
        pixels = np.random.default_rng(number).integers(990, 1010, (60, 88)).astype(np.uint16)
        fits.PrimaryHDU(pixels, header=fits.Header(cards)).writeto(raw / f"{number}.fits")
    assert ingest(home, camera, [raw]).ingested == 5
    return home


@pytest.fixture
def biases(_biases: Path, tmp_path: Path) -> Path:
    """A home with five bias frames (no file names an absolute path, so a copy will do)."""
    return Path(shutil.copytree(_biases, tmp_path / "home"))


def test_pipeline_runs_and_what_it_made_is_there_with_sha256(biases: Path) -> None:
    assert execute_pipeline(biases / "repo", BIAS, inputs=["Testcam/defaults"], run="test/bias/1", where=WHERE) == 1
    butler = open_repository(biases / "repo")
    (ref,) = butler.query_datasets("bias", "test/bias/1")
    assert butler.get(ref).data.shape == (60, 80)
    assert len(checksums(butler, [ref])[ref.id]) == 64


def test_run_with_outputs_is_never_written_again(biases: Path) -> None:
    given = {"inputs": ["Testcam/defaults"], "run": "test/bias/1", "where": WHERE}
    execute_pipeline(biases / "repo", BIAS, **given)
    with pytest.raises(ExecutionError, match="test/bias/1 has outputs already"):
        execute_pipeline(biases / "repo", BIAS, **given)


def test_nothing_to_do_leaves_no_run(biases: Path) -> None:
    where = "instrument='Testcam' AND exposure.observation_type='bias' AND exposure.day_obs=20200101"
    assert execute_pipeline(biases / "repo", BIAS, inputs=["Testcam/defaults"], run="test/bias/1", where=where) == 0
    assert open_repository(biases / "repo").collections.query("test/*") == []


@pytest.mark.parametrize(
    ("pipeline", "inputs", "where", "overrides", "says"),
    [
        (BIAS, "nowhere", WHERE, {}, "no collection 'nowhere'"),
        (BIAS.replace("#bias", "#nonsense"), "Testcam/defaults", WHERE, {}, "nonsense"),
        (BIAS.replace("calibration", "absent"), "Testcam/defaults", WHERE, {}, "absent.yaml"),
        (BIAS, "Testcam/defaults", "instrument='Testcam' AND exposure.nonsense=1", {}, "nonsense"),
        (BIAS, "Testcam/defaults", WHERE, {"nonsense": {"a": 1}}, "nonsense"),
        (BIAS, "Testcam/defaults", WHERE, {"combineBias": {"nonsense": 1}}, "nonsense"),
    ],
    ids=["collection", "subset", "pipeline", "where", "label", "field"],
)
def test_what_cannot_be_planned_says_why_and_leaves_no_run(
    biases: Path, pipeline: str, inputs: str, where: str, overrides: dict[str, dict[str, int]], says: str
) -> None:
    with pytest.raises(ExecutionError, match=says):
        execute_pipeline(biases / "repo", pipeline, inputs=[inputs], run="test/1", where=where, config_overrides=overrides)
    assert open_repository(biases / "repo").collections.query("test/*") == []


def test_settings_of_a_task_can_be_overridden(biases: Path) -> None:
    execute_pipeline(
        biases / "repo",
        BIAS,
        inputs=["Testcam/defaults"],
        run="test/bias/1",
        where=WHERE,
        config_overrides={"combineBias": {"overscan": "none"}},
    )
    butler = open_repository(biases / "repo")
    assert butler.get("combineBias_config", collections="test/bias/1").overscan == "none"


def test_command_certifies_what_it_made(biases: Path) -> None:
    arguments = ["--home", str(biases), "--pipeline", BIAS, "--inputs", "Testcam/defaults", "--output-run", "test/bias/1"]
    arguments += ["--where", WHERE, "--certify", "bias=Testcam/calib/test/bias", "--begin", "2026-01-01"]
    run = CliRunner().invoke(pipetask, arguments, catch_exceptions=False)
    assert "1 quanta into test/bias/1" in run.stdout
    assert "1 bias certified into Testcam/calib/test/bias" in run.stdout
    butler = open_repository(biases / "repo")
    for date, there in (("2026-03-02", True), ("2025-12-31", False)):
        found = butler.find_dataset("bias", instrument="Testcam", detector=0, collections="Testcam/defaults", timespan=_at(date))
        assert (found is not None) == there
    assert np.isfinite(butler.get("bias", instrument="Testcam", detector=0, collections="test/bias/1").data).all()


def _at(date: str) -> Timespan:
    begin = Time(date, scale="utc").tai
    return Timespan(begin, begin + TimeDelta(3600, format="sec"))


@pytest.mark.parametrize(
    ("option", "value"), [("--certify", "bias"), ("--config", "combineBias.overscan=none"), ("--config", "combineBias:overscan")]
)
def test_malformed_option_is_refused(home: Path, option: str, value: str) -> None:
    arguments = ["--home", str(home), "--pipeline", BIAS, "--inputs", "x", "--output-run", "y", option, value]
    run = CliRunner().invoke(pipetask, arguments)
    assert run.exit_code == 2
    assert "is not" in run.stderr

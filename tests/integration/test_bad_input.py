"""What can be wrong with what is given, each thing with the words that it must be told in, and everything else goes on.

By the `pachon` command and the engine, as an operator would meet it.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

from deploy.stack import default_dags
from operators.conf import ConfError, read
from payloads.repository import open_repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PRODUCTIONS = default_dags() / "productions"


@dataclass(frozen=True)
class Told:
    """How a command ended and what it said."""

    code: int
    text: str


def pachon(*words, home):
    """Run the command; output and errors together, on one line."""
    environment = os.environ | {"PACHON_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    argv = [sys.executable, "-m", "deploy.cli", *map(str, words)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=400)
    return Told(done.returncode, " ".join((done.stdout + done.stderr).split()))


def rewritten(source, path, *, seqnum, pixels=None, **cards):
    """A frame made from another one: own number, other pixels or cards (None: without the card)."""
    with fits.open(source, do_not_scale_image_data=pixels is None) as hdus:
        hdu = hdus[0]
        if pixels is not None:
            hdu = fits.PrimaryHDU(pixels(hdu.data.astype(np.float32)), hdu.header)
        for key, value in {"SEQNUM": seqnum, **cards}.items():
            hdu.header.pop(key, None) if value is None else hdu.header.set(key, value)
        hdu.writeto(path)
    return path


def all_nan(pixels):
    return np.full_like(pixels, np.nan)


def half_nan(pixels):
    pixels[: pixels.shape[0] // 2] = np.nan
    return pixels


def bias_only(what):
    what["steps"] = what["steps"][:1]


class World:
    """One home; the good and the bad frames of an afternoon are ingested in one call, then the good biases combined."""

    def __init__(self, folder, survey):
        self.folder, self.home, self.survey = folder, folder / "home", survey
        self.day = sorted(p.name for p in survey.raw.iterdir())[0]
        self.frames = folder / "frames"
        shutil.copytree(survey.raw / self.day, self.frames)
        biases = [p for p in sorted(self.frames.iterdir()) if fits.getheader(p)["IMAGETYP"].strip().lower() in ("bias", "zero")]
        self.good = [p for p in sorted(self.frames.iterdir()) if p not in biases[1:]]
        self.bias = biases[0]
        self.good += [rewritten(self.bias, self.frames / "half_nan.fits", seqnum=901, pixels=half_nan), *biases[1:]]
        self._spoil()
        assert pachon("init", self.home, home=self.home).code == 0
        self.instrument = survey.raw.parent / "camera.yaml"
        self.ingested = pachon("ingest", "--instrument", self.instrument, self.frames, home=self.home)
        self.calibrated = self.start(self.production("bias", bias_only), "bias")

    def _spoil(self):
        content = self.bias.read_bytes()
        (self.frames / "truncated.fits").write_bytes(content[:-5000])
        (self.frames / "zero.fits").write_bytes(b"")
        (self.frames / "headless.fits").write_bytes(content[2880:])
        rewritten(self.bias, self.frames / "other.fits", seqnum=902, INSTRUME="OtherCam")
        rewritten(self.bias, self.frames / "zz_duplicate.fits", seqnum=fits.getheader(self.bias)["SEQNUM"], OBJECT="again")
        rewritten(self.bias, self.frames / "all_nan.fits", seqnum=903, pixels=all_nan)

    def start(self, production, name, *more, day=None):
        """Start a campaign and run the engine in the command."""
        parameters = ("--param", "instrument=SimCam", "--param", f"day_obs={day or self.day}")
        return pachon("campaign", "start", production, "--name", name, *parameters, "--local", *more, home=self.home)

    def production(self, name, change):
        """A production like the daily calibration, changed and written to a file."""
        what = yaml.safe_load((PRODUCTIONS / "calibration_daily.yaml").read_text())
        change(what)
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(what))
        return path


@pytest.fixture(scope="module")
def world(survey, tmp_path_factory):
    return World(tmp_path_factory.mktemp("bad"), survey)


def aside(name):
    """What `pachon ingest` said of a file; the good ones were ingested by the same call and calibrated."""

    def act(world):
        with (world.home / "aside" / "list.jsonl").open() as lines:
            (entry,) = [e for e in map(json.loads, lines) if Path(e["path"]).name == name]
        assert f"{name}: {entry['reason']}: {entry['detail']}" in world.ingested.text
        assert f" {len(world.good)} ingested" in world.ingested.text
        return f"{entry['reason']}: {entry['detail']}"

    return act


def typo_in_a_production(world):
    def change(what):
        what["steps"][0]["on_failur"] = what["steps"][0].pop("on_failure", "stop")

    told = world.start(world.production("typo", change), "typo")
    assert told.code == 1
    return told.text


def unknown_detector(world):
    def change(what):
        for step in what["steps"]:
            step["where"] += " AND detector=99"

    told = world.start(world.production("detector", change), "detector")
    assert told.code == 1
    return pachon("campaign", "status", "detector", home=world.home).text


def unknown_parameter_of_a_campaign(world):
    told = world.start(PRODUCTIONS / "calibration_daily.yaml", "parameter", "--param", "day_ob=20260101")
    assert told.code == 1
    return told.text


def unknown_parameter_of_a_dag_run(_):
    with pytest.raises(ConfError) as caught:
        read("calibration_daily", {"instrument": "SimCam", "day_ob": 20260101})
    return str(caught.value)


def day_without_frames(world):
    told = world.start(PRODUCTIONS / "calibration_daily.yaml", "nothing", day=20300101)
    assert told.code == 1
    return pachon("campaign", "status", "nothing", home=world.home).text


def production_that_is_not_there(world):
    told = world.start(world.folder / "nowhere.yaml", "nowhere")
    assert told.code == 1
    return told.text


def camera_that_is_not_there(world):
    told = pachon("ingest", "--instrument", "NoSuchCam", world.frames, home=world.home)
    assert told.code == 1
    return told.text


def no_home(world):
    told = pachon("campaign", "list", home=world.folder / "nowhere")
    assert told.code == 1
    return told.text


# What is wrong → the words that the operator must read.
TABLE = {
    "truncated file": (aside("truncated.fits"), ["truncated", "ends too early"]),
    "zero length": (aside("zero.fits"), ["empty", "no bytes"]),
    "no header": (aside("headless.fits"), ["not_fits"]),
    "frame of another instrument": (aside("other.fits"), ["other_instrument", "OtherCam"]),
    "same exposure with other content": (aside("zz_duplicate.fits"), ["duplicate", "is there with other content"]),
    "all pixels NaN": (aside("all_nan.fits"), ["no_signal", "no pixel is a finite number"]),
    "typo in a production": (typo_in_a_production, ["on_failur", "on_failure", "typo.yaml"]),
    "unknown detector": (unknown_detector, ["FAILED", "no quantum", "detector=99", "check"]),
    "unknown parameter of a campaign": (unknown_parameter_of_a_campaign, ["no parameter 'day_ob'", "day_obs"]),
    "unknown parameter of a DAG run": (unknown_parameter_of_a_dag_run, ["conf of calibration_daily", "day_ob", "day_obs"]),
    "day without frames": (day_without_frames, ["FAILED", "no quantum", "20300101"]),
    "production that is not there": (production_that_is_not_there, ["nowhere.yaml", "cannot be read"]),
    "camera that is not there": (camera_that_is_not_there, ["NoSuchCam"]),
    "home that is not there": (no_home, ["nowhere", "pachon init"]),
}


@pytest.mark.parametrize("what", TABLE)
def test_what_is_wrong_is_told_in_words_and_the_rest_goes_on(world, what):
    act, words = TABLE[what]
    message = act(world)
    assert [word for word in words if word not in message] == [], message
    assert "Traceback" not in message
    assert (world.ingested.code, world.calibrated.code) == (0, 0), world.ingested.text + world.calibrated.text


def test_half_of_a_frame_without_signal_does_no_harm_to_the_master(world):
    assert world.calibrated.code == 0, world.calibrated.text
    butler = open_repository(world.home / "repo")
    (ref,) = butler.query_datasets("bias", "bias/bias/*", find_first=False)  # of the campaign's own step: nothing is certified
    master = butler.get(ref)
    usable = master.mask == 0
    assert usable.mean() > 0.9
    assert np.isfinite(master.data[usable]).all()


@pytest.fixture
def small_disk(tmp_path):
    """A disk that can be filled; skips where one may not be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk: mount: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk, leave_bytes):
    """Write until so much is left; the file to remove again."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave_bytes)))
    return ballast


def test_full_disk_is_told_plainly_and_when_there_is_room_again_everything_goes_on(world, small_disk, tmp_path):
    home = tmp_path / "home"
    assert pachon("init", home, "--datastore", small_disk / "data", "--slots", "1", home=home).code == 0
    with (home / "pachon.yaml").open("a") as settings:
        settings.write("engine: {flush_s: 0.5}\n")
    command = ("ingest", "--instrument", world.instrument, *(p for p in world.good if p.name != "half_nan.fits"))

    ballast = fill(small_disk, leave_bytes=500_000)
    told = pachon(*command, home=home)
    assert told.code == 1
    assert "no space left" in told.text
    assert "run the same command again" in told.text
    assert "Traceback" not in told.text
    ballast.unlink()
    told = pachon(*command, home=home)
    assert told.code == 0, told.text

    bias = world.production("disk", lambda what: bias_only(what) or what.update(retries={"infrastructure": 1}))
    parameters = ("--param", "instrument=SimCam", "--param", f"day_obs={world.day}", "--json")
    start = ("campaign", "start", bias, "--name", "full", *parameters, "--local")
    ballast = fill(small_disk, leave_bytes=300_000)  # room for the plan and for reports, not for a master
    assert pachon(*start, home=home).code == 1
    told = pachon("campaign", "report", "full", "--json", home=home)
    assert '"failure_class": "infrastructure", "count": 2' in told.text, "one more try, as the production allows"
    assert "because of OSError: Not enough space on disk" in told.text
    ballast.unlink()
    assert "1 failed" in pachon("campaign", "retry", "full", "--yes", home=home).text
    told = pachon(*start, home=home)
    assert told.code == 0, told.text
    assert "SUCCEEDED" in told.text

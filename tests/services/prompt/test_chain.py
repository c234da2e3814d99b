"""The payload behind the seam, on frames of the simulator."""

import io

import numpy as np
import pytest
from astropy.io import fits

from backbone.messages.opened import MessageSettings
from backbone.messages.prompt import Mode, Store, WorkerOrder
from payloads.headers import HeaderError
from payloads.simulator.config import SurveyConfig
from payloads.simulator.detector import detector_truth
from payloads.simulator.frames import make_raw
from payloads.simulator.headers import raw_header
from payloads.simulator.world import make_world
from services.prompt.chain import PromptChain, read_frame
from services.prompt.science import Plan


@pytest.fixture(scope="module")
def simulated():
    """The world, and each kind of frame of its first detector as the camera would send it."""
    survey = SurveyConfig.load("tiny")
    world = make_world(survey)
    detector = world.camera.detectors[0]
    truth = detector_truth(survey, world.camera, detector)
    frames = {}
    for kind in ("bias", "flat", "science"):
        exposure = next(e for e in world.planned if e.kind == kind)
        file = io.BytesIO()
        pixels = make_raw(world, exposure, detector, truth)[0]
        fits.PrimaryHDU(pixels, raw_header(survey, exposure, detector)).writeto(file)
        frames[kind] = (exposure, pixels, file.getvalue())
    return world, frames


@pytest.fixture
def chain(simulated, tmp_path, monkeypatch):
    """A chain whose library knows the camera, and no master."""
    order = WorkerOrder(
        night="n",
        worker="w",
        instrument="SimCam",
        detector=0,
        day_obs=20211006,
        skymap="SimCam",
        home=str(tmp_path),
        repo="none",
        store=Store(name="s", uri=str(tmp_path)),
        messages=MessageSettings(),
        deadline_s=60,
        beat_s=1,
        in_flight=1,
    )
    made = PromptChain(order)
    camera = simulated[0].camera
    monkeypatch.setattr(made._library, "_camera", camera)
    monkeypatch.setattr(made._library, "_sensor", camera.detectors[0])
    monkeypatch.setattr(made._library, "_masters", {})
    return made


def test_a_frame_is_read_as_the_camera_sent_it(simulated):
    world, frames = simulated
    exposure, pixels, content = frames["science"]
    arrived = read_frame(content, world.camera, exposure.id)
    assert np.array_equal(arrived.raw.pixels, pixels)
    assert arrived.observation.exposure == exposure.id
    assert arrived.raw.facts.mjd_mid_tai == pytest.approx(exposure.mjd_mid, abs=1e-6)
    assert arrived.raw.facts.physical_filter == exposure.filter
    assert arrived.raw.wcs is not None


def test_a_frame_of_another_camera_is_refused(simulated):
    file = io.BytesIO()
    fits.PrimaryHDU(np.zeros((4, 4), np.uint16)).writeto(file)
    with pytest.raises(HeaderError):
        read_frame(file.getvalue(), simulated[0].camera, 1)


@pytest.mark.parametrize("kind", ["bias", "flat"])
def test_calibration_frames_that_are_what_they_say_are_taken(simulated, chain, kind):
    exposure, _, content = simulated[1][kind]
    plan = Plan(visit=exposure.id, exposures=(exposure.id,), mode=Mode.CALIBRATION, observation=kind)
    stages = []
    product = chain.process([content], chain.preload(plan), plan, stages.append)
    assert (product.quality["raw_refused"], product.packets, stages) == (0, (), ["read", "validate"])


def test_light_in_a_bias_is_told_within_the_visit(simulated, chain):
    exposure, pixels, _ = simulated[1]["bias"]
    world = simulated[0]
    lit = pixels.copy()
    detector = world.camera.detectors[0]
    lit[:, : detector.shape[1] // 4] += 400
    file = io.BytesIO()
    fits.PrimaryHDU(lit, raw_header(world.survey, exposure, detector)).writeto(file)
    plan = Plan(visit=exposure.id, exposures=(exposure.id,), mode=Mode.CALIBRATION)
    product = chain.process([file.getvalue()], None, plan, lambda _: None)
    assert product.quality["raw_refused"] >= 1
    assert "light" in product.quality["refused"]

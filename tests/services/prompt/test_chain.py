"""The payload behind the seam, on frames of the simulator."""

import io
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from backbone.messages.opened import MessageSettings
from backbone.messages.prompt import Mode, Store, WorkerOrder
from payloads.camera import CameraError
from payloads.headers import HeaderError
from payloads.orbit_catalogue import ingest_orbits
from payloads.prompt.preloaded import Bodies
from payloads.prompt.settings import PromptSettings
from payloads.prompt.simulated import simulate_visit
from payloads.repository import init_repository, open_repository
from payloads.simulator.config import SurveyConfig
from payloads.simulator.detector import detector_truth
from payloads.simulator.frames import make_raw
from payloads.simulator.headers import raw_header
from payloads.simulator.truth import write_table
from payloads.simulator.world import make_world
from services.prompt.bodies import almanac_of
from services.prompt.chain import PromptChain, read_frame
from services.prompt.library import Pointing
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


@pytest.fixture(scope="module")
def night_visit():
    """A science visit as a worker would hold it, but for bodies; its frame as it comes, and the world."""
    survey = SurveyConfig.load("tiny")
    survey = survey.model_copy(
        update={"asteroids": survey.asteroids.model_copy(update={"per_field_night": 4, "mag": (19, 20.5)})}
    )
    world, visit = make_world(survey), simulate_visit(survey)
    exposure = next(e for e in world.planned if e.id == visit.raw.visit)
    file = io.BytesIO()
    fits.PrimaryHDU(visit.raw.pixels, raw_header(survey, exposure, world.camera.detectors[0])).writeto(file)
    return world, exposure, replace(visit.preloaded, bodies=Bodies.none()), visit.truth, file.getvalue()


@pytest.fixture(scope="module")
def home_with_orbits(night_visit, tmp_path_factory):
    """The orbits are the simulator's truth: that both place bodies alike shows the way from file to packet, no ephemeris."""
    home = tmp_path_factory.mktemp("orbits")
    init_repository(home / "repo").close()
    write_table(home / "orbits.parquet", dict(vars(night_visit[0].asteroids)))
    ingest_orbits(home, home / "orbits.parquet")
    return home


@pytest.fixture
def packets_of(night_visit, chain, monkeypatch):
    """The packets of the visit with the orbits of a home."""
    _, exposure, loaded, _, content = night_visit
    masters = {"bias": loaded.bias, "dark": loaded.dark, "flat": loaded.flat}
    monkeypatch.setattr(chain._library, "_masters", {exposure.filter: masters})

    def processed(home):
        monkeypatch.setattr(chain._library, "repo", str(home / "repo"))
        chain._almanac = chain._library.almanac(PromptSettings())
        return chain.process([content], loaded, Plan(visit=exposure.id, exposures=(exposure.id,)), lambda _: None).packets

    return processed


def test_a_body_whose_orbit_was_ingested_is_named_and_is_no_object(night_visit, home_with_orbits, packets_of):
    packets = packets_of(home_with_orbits)
    named = [packet for packet in packets if packet["ssSource"]]
    moving = {int(row["id"]): row for row in night_visit[3] if row["kind"] == "asteroid"}
    assert 2 <= len(named) < len(packets)
    for packet in named:
        source, body = packet["diaSource"], packet["ssSource"]
        true = moving[body["ssObjectId"]]
        assert (source["ssObjectId"], source["diaObjectId"], packet["diaObject"]) == (body["ssObjectId"], None, None)
        assert body["ephRa"] == pytest.approx(true["ra"], abs=0.05 / 3600)
        assert body["ephDec"] == pytest.approx(true["dec"], abs=0.05 / 3600)
        assert body["ephOffset"] < 1.0


def test_without_orbits_no_body_is_named_and_the_log_says_why(packets_of, caplog, tmp_path):
    init_repository(tmp_path / "repo").close()
    packets = packets_of(tmp_path)
    assert packets
    assert not any(packet["ssSource"] for packet in packets)
    assert all(packet["diaSource"]["diaObjectId"] for packet in packets)
    assert caplog.text.count("the repository has no orbits") == 1


def test_without_a_place_nothing_is_predicted_and_the_log_says_so(night_visit, home_with_orbits, caplog):
    nowhere = night_visit[0].camera.model_copy(update={"observatory": None})
    with open_repository(home_with_orbits / "repo") as butler:
        assert almanac_of(butler, nowhere, 20211006, PromptSettings()) is None
    assert caplog.text.count("the description of camera SimCam has no `observatory`") == 1


def test_a_frame_that_is_not_of_the_night_has_no_bodies_and_says_so(night_visit, home_with_orbits, chain, caplog):
    world, exposure, _, _, content = night_visit
    facts = read_frame(content, world.camera, exposure.id).raw.facts
    plan = Plan(visit=exposure.id, exposures=(exposure.id,))
    found = []
    for day in (20211006, 20211020):
        with open_repository(home_with_orbits / "repo") as butler:
            chain._almanac = almanac_of(butler, world.camera, day, PromptSettings())
        found.append(len(chain._bodies([facts], plan).id))
    assert found[0] >= 4
    assert found[1] == 0
    assert caplog.text.count("no body is predicted") == 1


def test_a_filter_that_was_announced_and_does_not_exist_is_said_and_the_frames_decide(chain, caplog):
    plan = Plan(visit=1, exposures=(1,), ra_deg=13.0, dec_deg=3.0, physical_filter="R-Cousins")
    assert chain.preload(plan) is None
    assert "'R-Cousins' was announced" in caplog.text
    with pytest.raises(CameraError, match="no filter 'R-Cousins'; it has"):
        chain._library.keep(Pointing(13.0, 3.0, 0.0, "R-Cousins"))

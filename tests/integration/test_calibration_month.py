"""A month's calibrations of a simulated camera, from frames to certified products read back and set against the truth."""

import json

import numpy as np
import pytest
from lsst.daf.butler import Timespan

from backbone.qc.certifications import CertificationState
from deploy.demo.case import DagRun
from deploy.demo.local import run_locally
from deploy.demo.prepare import prepare, simulated
from deploy.home import create_home
from deploy.stack import default_dags
from payloads.execute import execute_pipeline
from payloads.mask import Mask
from payloads.repository import open_repository
from payloads.simulator.calibration_night import Night
from payloads.simulator.calibration_scores import score
from payloads.simulator.config import SurveyConfig
from services.prompt.library import Library, Pointing
from workflow.campaigns import Campaigns

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OF_DETECTOR = ("bias", "crosstalk", "ptc", "linearity", "dark", "bad_pixels", "mono_flat")
OF_FILTER = ("flat", "synthetic_flat", "illumination", "fringe")
FEW = {"bias": 8, "dark": 5, "flat": 6, "ptc": 14, "spots": 4, "mono": 3, "mono_nm": (880.0, 900.0, 4.0)}


def small():
    """The preset of calibrations with few frames of a small detector, in one filter."""
    content = SurveyConfig.load("calibration").model_dump()
    content["camera"]["size"] = (192, 192)
    content["fields"][0]["visits"] = {"i": 9}
    content["stars"]["per_detector"] = content["galaxies"]["per_detector"] = 10
    content["calibrations"] |= FEW
    return SurveyConfig.from_dict(content)


class Month:
    """A home in which the month was calibrated, and what was made."""

    def __init__(self, folder):
        self.survey, self.home = small(), folder / "home"
        preset = folder / "small.yaml"
        preset.write_text(json.dumps(self.survey.model_dump(mode="json")))
        create_home(self.home, slots=1)  # steps of one or two quanta: a second worker would cost its start alone
        case = prepare(self.home, simulated(folder / "survey", str(preset), None, print, jobs=1), print)
        (self.day,) = case.calibration_days
        self.campaigns = Campaigns.open(self.home)
        conf = {"instrument": "SimCam", "first_day": self.day, "last_day": self.day}
        run_locally(self.home, default_dags(), [DagRun("", "calibration_monthly", conf)], self.campaigns)
        butler = open_repository(self.home / "repo")
        ids, ever = {"instrument": "SimCam", "detector": 0}, Timespan(None, None)
        self.refs = {n: butler.find_dataset(n, collections="SimCam/calib", timespan=ever, **ids) for n in OF_DETECTOR}
        ids["physical_filter"] = "i"
        self.refs |= {n: butler.find_dataset(n, collections="SimCam/calib", timespan=ever, **ids) for n in OF_FILTER}
        self.made = {name: butler.get(ref) for name, ref in self.refs.items()}


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    return Month(tmp_path_factory.mktemp("month"))


def test_every_product_is_verified_and_certified_in_one_signature(month):
    (signed,) = month.campaigns.certifications.every()
    assert signed.state is CertificationState.APPROVED
    products = month.campaigns.certifications.products(signed.collection)
    assert {p.dataset_type for p in products} == set(OF_DETECTOR) | set(OF_FILTER)
    assert {p.dataset for p in products} == {str(ref.id) for ref in month.refs.values()}


def test_crosstalk_was_looked_for_on_the_sky_and_its_verdict_says_what_so_few_stars_tell(month):
    (signed,) = month.campaigns.certifications.every()
    (verdict,) = month.campaigns.documents(signed.campaign, "crosstalk_verification")
    assert verdict["passed"]
    assert "on science" in verdict["notes"][0]
    assert verdict["science"]["frames"] or verdict["science"]["frames_left_out"], "it looked"
    (told,) = (p.why for p in month.campaigns.certifications.products(signed.collection) if p.dataset_type == "crosstalk")
    assert told == verdict["notes"][0]


def test_what_is_read_back_is_the_truth_as_far_as_so_few_frames_tell(month):
    scores = score(Night(month.survey), month.made, "i")
    assert max(scores["bias_noise_ratio"], scores["dark_noise_ratio"]) < 1.1
    assert (scores["bad_pixel_completeness"], scores["bad_pixel_purity"]) >= (0.99, 0.99)
    limits = {"crosstalk_error": 0.05, "gain_error": 0.01, "read_noise_error": 0.02, "linearity_error": 0.004, "flat_rms": 0.004}
    limits |= {"mono_rms": 0.004, "synthetic_flat_rms": 0.003, "illumination_rms": 0.015}
    assert {name: scores[name] for name, limit in limits.items() if scores[name] > limit} == {}
    assert np.std(month.made["fringe"].data) > 0.01, "the preset's fringes are 4 % of the sky"


def test_products_say_which_measurements_they_were_made_with(month):
    cards = " ".join(str(value) for value in month.made["flat"].meta.values())
    assert {name for name in ("bias", "dark", "ptc", "linearity", "crosstalk") if str(month.refs[name].id) not in cards} == set()


def test_a_days_check_and_prompt_workers_go_by_the_measured_amplifiers(month):
    gains = month.made["ptc"]["gain"]
    library = Library(repo=str(month.home / "repo"), instrument="SimCam", detector=0, day_obs=month.day, skymap="SimCam")
    library.load()
    assert {a.name: a.gain for a in library.sensor.amplifiers} == gains
    assert library.sensor.crosstalk is not None
    bad = (month.made["bad_pixels"].mask & Mask.BAD) != 0
    assert bad.sum() > 50
    assert ((library.masters("i")["flat"].mask & Mask.BAD) != 0)[bad].all(), "a prompt frame gets the bits of its masters"
    illumination = library.preloaded(Pointing(13.0, 3.0, 0.0, "i")).illumination
    np.testing.assert_allclose(illumination.data, month.made["illumination"].data, rtol=5e-4)
    where = "instrument='SimCam' AND exposure.observation_type='flat'"
    watch, inputs = "resource://payloads/pipelines/watch.yaml", ["SimCam/defaults"]
    assert execute_pipeline(month.home / "repo", watch, inputs=inputs, run="checked", where=where) == FEW["flat"] + 1
    butler = open_repository(month.home / "repo", collections=["checked"])
    assert [butler.get(ref)["reasons"] for ref in butler.query_datasets("raw_check")] == [[]] * FEW["flat"]
    (comparison,) = map(butler.get, butler.query_datasets("flat_comparison"))
    assert max(map(abs, comparison["by_amplifier"].values())) < 0.002, "by the description's gains amplifiers differ by per cents"

"""A day's calibrations of the simulated camera, from frames to certified masters, the check of the next day, the report, and
what broken frames of every kind come to.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from astropy.io import fits

from backbone.qc.certifications import CertificationState
from deploy.demo.case import DagRun
from deploy.demo.local import run_locally
from deploy.demo.prepare import prepare
from deploy.stack import default_dags
from operators.conf import read
from operators.regeneration import reason_of
from payloads.ingest import ingest
from payloads.report.calibration import write_calibration_report
from payloads.repository import open_repository
from payloads.template_need import template_need
from workflow.campaigns import Campaigns
from workflow.loop import Pace, Stop, run_until_ended
from workflow.status import CampaignState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Installation:
    """A home with the frames of two days, the first of which has been calibrated."""

    def __init__(self, home, survey):
        self.home = home
        self.case = prepare(home, survey, print)
        self.campaigns = Campaigns.open(home)
        self.first, self.second = self.case.calibration_days

    def run(self, dag, day, **conf):
        return run_locally(self.home, default_dags(), [DagRun("", dag, self.conf(day) | conf)], self.campaigns)[0]

    def conf(self, day):
        return {"instrument": self.case.instrument, "day_obs": day}

    @property
    def chain(self):
        return open_repository(self.home / "repo").collections.get_info(f"{self.case.instrument}/calib").children


@pytest.fixture(scope="module")
def day(survey, tmp_path_factory):
    made = Installation(tmp_path_factory.mktemp("calibrations") / "home", survey)
    made.run("calibration_daily", made.first)
    made.run("calibration_check", made.second)
    return made


def test_masters_are_verified_certified_and_signed_together(day):
    (signed,) = day.campaigns.certifications.every()
    assert day.chain == (signed.collection,)
    assert signed.state is CertificationState.APPROVED
    assert {p.dataset_type for p in day.campaigns.certifications.products(signed.collection)} == {"bias", "dark", "flat"}


def test_again_it_is_the_same_campaign_and_changes_nothing(day):
    before = day.campaigns.certifications.every()
    again = day.run("calibration_daily", day.first)
    assert again.ended
    assert day.campaigns.certifications.every() == before
    assert len(day.chain) == 1


def test_the_next_days_frames_are_good_and_its_flats_like_the_master(day):
    names = [s.name for s in day.campaigns.every() if s.production == "calibration_check"]
    checks = day.campaigns.documents(names[0], "raw_check")
    assert len(checks) == 11
    assert [c["reasons"] for c in checks] == [[]] * 11
    (comparison,) = day.campaigns.documents(names[0], "flat_comparison")
    assert reason_of([comparison]) == ""


def test_report_is_a_page_and_a_document_that_agree(day, tmp_path):
    document = write_calibration_report(day.home, day.case.instrument, day.first, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["products"] == json.loads(json.dumps(document["products"]))
    assert [p["product"] for p in document["products"]] == ["bias", "dark", "flat"]
    assert all(p["passed"] and p["signed"] for p in document["products"])
    page = (tmp_path / "index.html").read_text()
    assert "3 calibration products passed verification" in page
    for picture in ("flats.png", "amplifiers_bias.png", "amplifiers_dark.png", "amplifiers_flat.png"):
        assert (tmp_path / picture).stat().st_size > 5000
        assert f'src="{picture}"' in page


def test_templates_are_missing_until_days_were_tried_or_visits_are_too_few(day):
    butler, instrument = open_repository(day.home / "repo"), day.case.instrument
    first, last = day.case.science_days[0], day.case.science_days[-1]
    need = template_need(butler, instrument, instrument, days=(first, last), least_visits=3)
    assert {band for _, _, band in need.patches} == {"r"}
    assert need.days == (first, last)
    assert "patches observed without a template" in need.words()
    for other in ({"days": (first - 10, first - 1)}, {"least_visits": 9}, {"tried": [(first, last)]}):
        assert template_need(butler, instrument, instrument, **{"days": (first, last), "least_visits": 3} | other) is None


def test_few_frames_where_many_are_asked_stop_the_production_and_nothing_is_certified(day):
    before = day.chain
    asked = read("calibration_daily", day.conf(day.second) | {"pipeline": "bias", "overrides": {"combineBias": {"minimum": 15}}})
    name = asked.campaign("calibration_daily")
    production = asked.production(default_dags() / "productions" / "calibration_daily.yaml")
    day.campaigns.start(production, name=name, parameters=asked.parameters(), actor="test")
    status = run_until_ended(day.campaigns, name, pace=Pace(0.1, 1.0), show=lambda _: None, advance=True, stop=Stop())
    assert [(s.name, s.state.value) for s in status.steps] == [("bias", "FAILED"), ("verify", "UNREADY")]
    (error,) = day.campaigns.report(name).errors
    assert "15 needed" in error["example"]
    assert day.chain == before


def lit(pixels):
    pixels[:, :300] += 400
    return pixels


def other_filter(pixels):
    """The same level, another slope."""
    pixels[:, :300] = 1000 + (pixels[:, :300] - 1000) * np.linspace(0.7, 1.3, 300)
    return pixels


def other_detector(pixels):
    """What one detector has as left and as upper is not so on another: an amplifier's fixed pattern and its vignetting."""
    pixels[:, :300] = pixels[::-1, 299::-1]
    return pixels


def saturated(pixels):
    pixels[:, :300] = 65_000
    return pixels


def one_amplifier_nan(pixels):
    pixels[:150, :150] = np.nan
    return pixels


@dataclass(frozen=True)
class Broken:
    """A frame that is not what it says: its kind, whether it is really a frame of another, what becomes of pixels and cards."""

    kind: str
    pixels: Callable[[np.ndarray], np.ndarray] | None
    among: str
    """Why it is left out among good ones."""
    alone: str = ""
    """What a day of nothing else is told; empty: such a day is a good one."""
    real: str = ""
    cards: dict[str, float] = field(default_factory=dict)


OTHER_DETECTOR, CHANGED = "another detector's frame", "differs from the certified one"
BROKEN = {
    "light in a bias": Broken("bias", lit, "there is light in it", "there is light in it"),
    "an amplifier of NaN": Broken("bias", one_amplifier_nan, "was not read out", "was not read out"),
    "a dark of another time": Broken("dark", None, "its dark time is 6 s", cards={"DARKTIME": 6.0, "EXPTIME": 6.0}),
    "a dark whose header lies of its time": Broken("dark", None, "another exposure time", "another time", real="bias"),
    "a saturated flat": Broken("flat", saturated, "of its pixels are saturated", "of its pixels are saturated"),
    "a flat whose header lies of its filter": Broken("flat", other_filter, "its large-scale shape", CHANGED),
    "a flat of another detector": Broken("flat", other_detector, OTHER_DETECTOR, CHANGED),
}
SECONDS = {"bias": 0.0, "dark": 60.0, "flat": 5.0}


class Frames:
    """The survey's frames written again as those of another day, good ones and broken ones."""

    def __init__(self, day, survey, folder):
        self.day, self.camera, self.folder = day, survey.camera, folder
        self.good = {kind: [] for kind in SECONDS}
        for path in sorted(survey.raw.glob("*/*.fits")):
            self.good.get(fits.getheader(path)["IMAGETYP"].lower(), []).append(path)
        self.number = 0

    def written(self, day_obs, source, kind, pixels=None, **cards):
        self.number += 1
        with fits.open(source) as hdus:
            data, header = hdus[0].data.astype(np.float32), hdus[0].header
        seconds = SECONDS[kind]
        header.update({"IMAGETYP": kind.upper(), "DAYOBS": day_obs, "SEQNUM": 5000 + self.number, "EXPTIME": seconds})
        header.update({"DARKTIME": seconds, **cards})
        header["DATE-OBS"] = f"{str(day_obs)[:4]}-{str(day_obs)[4:6]}-{str(day_obs)[6:]}T20:{self.number:02d}:00"
        out = self.folder / f"{day_obs}_{self.number}.fits"
        fits.PrimaryHDU(data if pixels is None else pixels(data), header).writeto(out)
        return out

    def broken(self, day_obs, what, count=1):
        how = BROKEN[what]
        sources = self.good[how.real or how.kind][:count]
        return [self.written(day_obs, path, how.kind, how.pixels, **how.cards) for path in sources]

    def ingest(self, paths):
        report = ingest(self.day.home, self.camera, paths)
        assert (report.ingested, len(report.rejected)) == (len(paths), 0)


def asked(day, day_obs, pipeline):
    """A day's calibrations by the engine, to whatever end: its name and its state."""
    wanted = read("calibration_daily", day.conf(day_obs) | {"pipeline": pipeline})
    name = wanted.campaign("calibration_daily")
    production = wanted.production(default_dags() / "productions" / "calibration_daily.yaml")
    day.campaigns.start(production, name=name, parameters=wanted.parameters(), actor="test")
    run_until_ended(day.campaigns, name, pace=Pace(0.1, 0.5), show=lambda _: None, advance=True, stop=Stop())
    return name


@pytest.fixture
def frames(day, survey, tmp_path):
    return Frames(day, survey, tmp_path)


def test_broken_frames_among_good_ones_are_left_out_of_master_and_judgement_and_the_reason_is_kept(day, frames):
    day_obs = 20220101
    paths = [frames.written(day_obs, p, kind) for kind in SECONDS for p in frames.good[kind]]
    frames.ingest(paths + [path for what in BROKEN for path in frames.broken(day_obs, what)])
    name = asked(day, day_obs, "all")
    (signed,) = [c for c in day.campaigns.certifications.every() if c.campaign == name]
    products = day.campaigns.certifications.products(signed.collection)
    assert {(p.dataset_type, p.state.value) for p in products} == {(kind, "CERTIFIED") for kind in SECONDS}
    butler = open_repository(day.home / "repo")
    for p in products:
        header = butler.get(p.dataset_type, collections=signed.collection, **p.data_id).meta
        (judged,) = day.campaigns.documents(name, f"{p.dataset_type}_verification")
        left_out = " ".join(
            [*(str(header[key]) for key in header if key.startswith("REJ0")), *judged["frames_left_out"].values()]
        )
        reasons = [how.among for how in BROKEN.values() if how.kind == p.dataset_type]
        assert [reason for reason in reasons if reason not in left_out] == []


@pytest.mark.parametrize("what", [what for what, how in BROKEN.items() if how.alone])
def test_a_day_of_broken_frames_alone_certifies_nothing_and_says_why(day, frames, what):
    how, before = BROKEN[what], day.chain
    day_obs = 20220201 + list(BROKEN).index(what)
    frames.ingest(frames.broken(day_obs, what, count=3))
    name = asked(day, day_obs, how.kind)
    status = day.campaigns.status(name)
    assert status.state is CampaignState.FAILED
    said = json.dumps(
        [*day.campaigns.report(name).errors, *day.campaigns.documents(name, f"{how.kind}_verification"), status.reason]
    )
    assert how.alone in said
    assert day.chain == before

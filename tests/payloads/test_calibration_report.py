"""The page of a day of which everything went wrong that can: what a person reads of it."""

import json
from contextlib import closing
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from backbone.qc import Metric, Quality
from payloads.cli_calib import report, templates
from payloads.report.calibration import Day, write_day

AMPLIFIERS = ("A", "B")


def check(name, amplifier, value, *, passed=True):
    return {"name": name, "amplifier": amplifier, "value": value, "low": None, "high": None, "passed": passed, "hint": "h"}


def verdict(product, checks, *, passed=True, certified="old", **more):
    thumbnail = [[1.0, 1.1], [0.9, 1.0]]
    found = {"product": product, "subject": {"detector": 0}, "run": "c1/verify/1", "passed": passed, "certified": certified}
    return found | {"reasons": [] if passed else ["it is lit"], "checks": checks, "summary": {"thumbnail": thumbnail}} | more


@pytest.fixture
def day():
    ptc = [check(name, a, 1.7) for name in ("gain", "read_noise") for a in AMPLIFIERS]
    ptc.append(check("change_gain", "A", 0.05, passed=False))
    verdicts = [verdict("ptc", ptc), verdict("bias", [check("bad", "A", 0.0)], passed=False, n_frames=2, held_out=True)]
    verdicts.append(
        verdict("fringe", [], subject={"detector": 0, "physical_filter": "i"}, notes=["not verified on science: no frame"])
    )
    said = {"kind": "bias", "reasons": ["light in A", "light in B"], "metrics": [{"subject": {"exposure": 7, "detector": 0}}]}
    alarm = SimpleNamespace(
        id=3, severity="error", state="RAISED", words="bias_verified 0 is below 1", subject={"detector": 0, "amplifier": "A"},
        count=2, day_obs=20260104, acknowledged_by="",
    )  # fmt: skip
    trend = [
        Metric(
            name="ptc_gain",
            value=1.7 + 0.01 * n,
            day_obs=20260101 + n,
            subject={"amplifier": a},
            instrument="SimCam",
            source="c1",
        )
        for n in range(4)
        for a in AMPLIFIERS
    ]
    return Day(
        instrument="SimCam", day_obs=20260104, metrics=(), trend=tuple(trend), verdicts=tuple(verdicts), comparisons=(),
        raw_checks=(said,), certifications=({"campaign": "c1", "approved_by": "rule: it passed"},), alarms=(alarm,),
    )  # fmt: skip


def other(day, verdicts):
    return Day(**{**vars(day), "verdicts": tuple(verdicts), "alarms": ()})


def test_page_says_what_is_wrong_with_what_and_draws_the_rest(day, tmp_path):
    document = write_day(day, tmp_path)
    page = (tmp_path / "index.html").read_text()
    for words in (
        "Calibrations of SimCam, 2026-01-04",
        "2 calibration products passed verification, 1 was refused; 1 significant difference from what is certified",
        "light in A; light in B",
        "amplifier=A detector=0",
        "bias_verified 0 is below 1",
        "pachon qc acknowledge",
        "not verified on science: no frame",
    ):
        assert words in page
    assert [p["product"] for p in document["products"]] == ["bias", "fringe", "ptc"], "what was refused comes first"
    assert json.loads((tmp_path / "report.json").read_text())["alarms"][0]["of"] == "amplifier=A detector=0"
    for picture in ("fringes.png", "amplifiers_ptc.png", "amplifiers_bias.png", "trends.png"):
        assert (tmp_path / picture).stat().st_size > 3000
        assert f'src="{picture}"' in page


def test_of_a_camera_of_many_detectors_what_was_refused_is_shown_and_the_rest_is_counted(day, tmp_path):
    write_day(other(day, [verdict("bias", [], subject={"detector": n}, passed=n > 2) for n in range(60)]), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.count("✗ refused") == 3
    assert "and 20 more that passed" in page


def test_where_nothing_was_certified_before_nothing_is_said_to_be_alike(day, tmp_path):
    write_day(other(day, [verdict("bias", [], certified=None)]), tmp_path)
    assert "1 calibration product passed verification; there was nothing certified" in (tmp_path / "index.html").read_text()


def test_of_earlier_days_only_what_is_drawn_is_read(home):
    (home / "pachon.yaml").write_text("{}")
    about = {"instrument": "SimCam", "source": "c1", "subject": {"detector": 0}}
    days = (20251001, 20251231, 20260104)  # the first is of before the trend
    with closing(Quality.open(home)) as quality:
        quality.record([Metric(name=n, value=1.0, day_obs=d, **about) for n in ("ptc_gain", "seeing") for d in days], actor="t")
    read = Day.read(home, "SimCam", 20260104)
    assert [(m.name, m.day_obs) for m in read.trend] == [("ptc_gain", 20251231), ("ptc_gain", 20260104)]
    assert sorted(m.name for m in read.metrics) == ["ptc_gain", "seeing"]


@pytest.mark.parametrize(
    "argv",
    [
        (report, "--instrument", "X", "--day", "20261399", "out"),
        (templates, "--instrument", "X", "--days", "20260101", "20260230"),
        (templates, "--instrument", "X", "--days", "20260101", "20260102", "--tried", "1", "2"),
    ],
)
def test_a_day_that_is_none_is_said_to_be_none(argv, tmp_path):
    done = CliRunner().invoke(argv[0], [*argv[1:], "--home", str(tmp_path)])
    assert (done.exit_code, "is no day of the calendar" in done.output) == (2, True), done.output

from datetime import UTC, datetime
from pathlib import Path

import pytest

from operators import conf

DAGS = Path(__file__).parents[2] / "dags"
NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)


def test_unknown_key_is_named_with_the_nearest_known_one():
    with pytest.raises(conf.ConfError, match=r"'dayobs'; did you mean 'day_obs'"):
        conf.read("nightly", {"instrument": "simcam", "dayobs": 20260101})


def test_all_that_is_missing_is_named():
    with pytest.raises(conf.ConfError, match="instrument") as raised:
        conf.read("calibration_daily", {})
    assert "day_obs" in str(raised.value)


@pytest.mark.parametrize("day", [20261301, 20260230, 2026, 0, 99])
def test_a_day_that_does_not_exist_is_refused(day):
    with pytest.raises(conf.ConfError, match="YYYYMMDD"):
        conf.read("nightly", {"instrument": "simcam", "day_obs": day})


def test_another_version_of_the_form_is_refused():
    with pytest.raises(conf.ConfError, match="version"):
        conf.read("nightly", {"instrument": "simcam", "day_obs": 20260101, "version": 2})


def test_an_instrument_cannot_end_a_query():
    with pytest.raises(conf.ConfError, match="instrument"):
        conf.read("nightly", {"instrument": "x' OR 1=1", "day_obs": 20260101})


def test_names_follow_from_the_conf_alone():
    given = {"instrument": "simcam", "day_obs": 20260101}
    one, same, again = (conf.read("nightly", given | more) for more in ({}, {"command": "ocs-7"}, {"serial": 2}))
    assert one.campaign("nightly") == same.campaign("nightly") == "nightly_simcam_20260101_1"
    assert again.campaign("nightly") == "nightly_simcam_20260101_2"
    assert one.run_id("nightly") == "nightly__simcam_20260101_1"
    assert again.run_id("nightly") != one.run_id("nightly")


def test_variant_names_a_sibling_of_the_production():
    asked = conf.read("nightly", {"instrument": "lowell42", "day_obs": 20260101, "variant": "unregistered"})
    assert asked.file_name("nightly") == "nightly_unregistered.yaml"
    with pytest.raises(conf.ConfError, match="variant"):
        conf.read("nightly", {"instrument": "x", "day_obs": 20260101, "variant": "../../etc"})


def test_sky_map_is_named_as_the_instrument_unless_said():
    given = {"instrument": "simcam", "day_obs": 20260101}
    assert conf.read("nightly", given).parameters()["skymap"] == "simcam"
    assert conf.read("nightly", given | {"skymap": "wide"}).parameters()["skymap"] == "wide"


@pytest.mark.parametrize(
    ("dag", "first", "last"), [("calibration_monthly", 20260201, 20260228), ("calibration_annual", 20250101, 20251231)]
)
def test_scheduled_run_takes_the_last_whole_span(dag, first, last):
    parameters = conf.read(dag, {}, NOW).parameters()
    assert (parameters["first_day"], parameters["last_day"]) == (first, last)


def test_span_that_ends_before_it_begins_is_refused():
    with pytest.raises(conf.ConfError, match="exchange"):
        conf.read("template", {"instrument": "simcam", "first_day": 20260202, "last_day": 20260101}, NOW)
    with pytest.raises(conf.ConfError, match="20260301 is after last_day 20260228: say both"):
        conf.read("template", {"instrument": "simcam", "first_day": 20260301}, NOW)


def test_offline_works_off_the_first_campaign_of_its_night_unless_said():
    given = {"instrument": "simcam", "day_obs": 20260101, "serial": 3}
    assert conf.read("offline", given).night_campaigns() == ["nightly_simcam_20260101_1", "prompt_simcam_20260101_1_late"]
    assert conf.read("offline", given | {"night": "n2"}).night_campaigns() == ["n2"]


def test_release_of_the_year_is_a_conf_of_the_release():
    year = conf.read("calibration_annual", {"instrument": "simcam", "release": "dr1", "number": 7}, NOW)
    release = conf.read("release", year.release_conf(), NOW)
    assert release.run_id("release") == "release__dr1_1"
    assert release.parameters() == {
        "instrument": "simcam", "first_day": 20250101, "last_day": 20251231, "skymap": "simcam", "release": "dr1",
        "number": 7,
    }  # fmt: skip


CALIBRATE = {"instrument": "simcam", "day_obs": 20260101}


def test_calibrations_of_a_data_id_with_overrides_are_a_run_and_a_production_of_their_own():
    plain = conf.read("calibration_daily", CALIBRATE)
    more = {"pipeline": "bias", "detectors": [1, 2], "overrides": {"combineBias": {"minimum": 15}}}
    wish = conf.read("calibration_daily", CALIBRATE | more)
    assert plain.campaign("calibration_daily") == "calibration_daily_simcam_20260101_1"
    assert wish.run_id("calibration_daily").startswith("calibration_daily__simcam_20260101_bias_")
    assert wish.run_id("x") == conf.read("calibration_daily", CALIBRATE | more | {"reason": "a test"}).run_id("x")
    path = DAGS / "productions" / "calibration_daily.yaml"
    assert plain.production(path) == path
    steps = wish.production(path)["steps"]
    assert [step["name"] for step in steps] == ["bias", "verify"]
    assert steps[0]["config"] == more["overrides"]
    assert steps[0]["where"].endswith("AND detector IN (1,2)")


@pytest.mark.parametrize(
    "wrong",
    [
        {"pipeline": "frobnicate"},
        {"detectors": [-1]},
        {"overrides": {"combineBias": {"minimum; import os": 1}}},
        {"overrides": {"combineBias": {"clip": "__import__('os')"}}},
        {"approve": "nobody"},
    ],
)
def test_overrides_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(conf.ConfError, match=next(iter(wrong))):
        conf.read("calibration_daily", CALIBRATE | wrong)

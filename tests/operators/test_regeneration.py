import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.regeneration import RegenerationOperator

DAY = {"instrument": "simcam", "day_obs": 20260101}


def comparison(detector, why):
    return {"subject": {"physical_filter": "r1", "detector": detector}, "significant": bool(why), "why": why}


@pytest.fixture
def check(campaigns, context):
    context["dag_run"].dag_id = "calibration_check"
    return lambda **params: RegenerationOperator(task_id="changed", campaign="chk").execute(context | {"params": DAY | params})


def test_a_changed_flat_asks_for_the_days_calibrations_and_says_why(campaigns, check):
    campaigns.found["flat_comparison"] = [comparison(0, ""), comparison(1, "1.2% rms from the master (dust)")]
    asked = check()
    reason = "flats changed: r1 detector 1: 1.2% rms from the master (dust)"
    assert asked == {"run_id": "calibration_daily__simcam_20260101_1", "conf": DAY | {"reason": reason}}


def test_many_changes_are_told_by_the_first_of_them(campaigns, check):
    campaigns.found["flat_comparison"] = [comparison(d, "x") for d in range(9)]
    assert check()["conf"]["reason"].endswith("; and 6 more")


def test_where_nothing_changed_nothing_is_made_again(campaigns, check):
    campaigns.found["flat_comparison"] = [comparison(0, "")]
    with pytest.raises(AirflowSkipException, match="nothing is made again"):
        check()


def test_a_conf_that_cannot_be_used_fails_for_good(check):
    with pytest.raises(AirflowFailException, match="did you mean 'day_obs'"):
        check(dayobs=1)

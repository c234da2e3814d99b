"""A production as one run wants it."""

from pathlib import Path

import pytest

from workflow.errors import ProductionError
from workflow.production import Production
from workflow.shaping import labels_of, shaped

DAILY = Path(__file__).parents[2] / "dags" / "productions" / "calibration_daily.yaml"


@pytest.fixture
def daily():
    return Production.load(DAILY)


def test_some_steps_of_less_data_with_other_settings(daily):
    config = {"combineBias": {"minimum": 15}, "verifyBias": {"accept_change": True}}
    found = shaped(daily, without=["dark", "flat"], only={"detector": [1, 2]}, config=config)
    assert [step.name for step in found.steps] == ["bias", "verify"]
    assert all(step.where.endswith(" AND detector IN (1,2)") for step in found.steps)
    assert [step.config for step in found.steps] == [{"combineBias": config["combineBias"]}, {"verifyBias": config["verifyBias"]}]
    assert found.digest({}) != daily.digest({})


def test_without_wishes_it_is_what_it_was(daily):
    assert shaped(daily).digest({}) == daily.digest({})


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"without": ["baias"]}, "did you mean 'bias'"),
        ({"config": {"combineBais": {"clip": 3}}}, "did you mean 'combineBias'"),
        ({"without": ["flat"], "config": {"combineFlat": {"clip": 3}}}, "no task 'combineFlat'"),
    ],
)
def test_what_it_has_not_is_named_with_the_nearest_it_has(daily, wish, words):
    with pytest.raises(ProductionError, match=words):
        shaped(daily, **wish)


def test_labels_are_those_of_a_subset_of_a_label_or_of_all():
    uri = "resource://payloads/pipelines/verification.yaml"
    assert labels_of(f"{uri}#daily") >= {"verifyBias", "verifyDark", "verifyFlat"}
    assert labels_of(f"{uri}#verifyBias") == {"verifyBias"}
    assert labels_of(uri) >= labels_of(f"{uri}#daily")

"""Templates that are made by themselves, when they are needed."""

import json
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from operators import science
from operators.templates import TemplateNeedOperator, spans

NEED = {"words": "patches observed without a template: 4 in r", "first_day": 20260301, "last_day": 20260303, "patches": []}


@pytest.fixture
def watch(campaigns, context, monkeypatch):
    """A run on 2026-03-05; `campaigns.every()` are those known, what they used that was withdrawn is in `campaigns.gone`."""
    campaigns.gone, asked = {}, []
    campaigns.every = lambda: list(campaigns.known.values())
    campaigns.withdrawn_inputs = lambda name: campaigns.gone.get(name, [])
    context["dag_run"].dag_id = "template_generation"

    def run(need=None, **params):
        monkeypatch.setattr(science, "ask", lambda *words: asked.append(words) or f"{json.dumps(need)}\n")
        return TemplateNeedOperator(task_id="needed").execute(context | {"params": params}), asked

    return run


def test_patches_that_were_observed_without_a_template_start_one_of_their_days(watch):
    wanted, asked = watch(NEED)
    assert (wanted["run_id"], wanted["reason"]) == ("template__SimCam_20260301_20260303_1", NEED["words"])
    assert wanted["conf"] == {"first_day": 20260301, "last_day": 20260303}
    assert asked[0][-5:] == ("--days", "20250305", "20260305", "--least-visits", "3")


def test_days_that_templates_were_made_of_are_told_not_to_count(watch, campaigns):
    campaigns.put("template_SimCam_20260201_20260205_1", state="SUCCEEDED")
    campaigns.put("template_OtherCam_20260101_20260105_1", state="SUCCEEDED")
    with pytest.raises(AirflowSkipException, match="no template is missing"):
        watch()
    wanted, asked = watch(NEED)
    assert asked[-1][-3:] == ("--tried", "20260201", "20260205")
    assert wanted


@pytest.mark.parametrize("production", ["template", "release", "release_unregistered"])
def test_while_a_release_or_templates_are_being_made_none_is_started(watch, campaigns, production):
    campaigns.put("x")
    campaigns.every = lambda: [SimpleNamespace(name="x", production=production, ended=False)]
    with pytest.raises(AirflowSkipException, match="x is being made"):
        watch(NEED)


def test_templates_whose_calibrations_were_withdrawn_are_made_again(watch, campaigns):
    for serial in (1, 2):
        campaigns.put(f"template_SimCam_20260201_20260205_{serial}", state="SUCCEEDED")
    flat = SimpleNamespace(dataset_type="flat", data_id={"detector": 3}, why="light leak")
    campaigns.gone["template_SimCam_20260201_20260205_2"] = [flat]
    wanted, asked = watch(NEED)
    assert wanted["run_id"] == "template__SimCam_20260201_20260205_3"
    assert wanted["conf"] == {"first_day": 20260201, "last_day": 20260205, "serial": 3}
    assert "light leak" in wanted["reason"]
    assert asked == []


def test_the_last_serial_of_each_span_counts():
    names = ["template_SimCam_20260201_20260205_1", "template_SimCam_20260201_20260205_4", "template_Sim_20260201_20260205_9"]
    every = [SimpleNamespace(name=name) for name in names]
    assert spans(every, "SimCam") == {(20260201, 20260205): 4}

"""What a night found is brought where others wait for it."""

import json

import pytest
from airflow.sdk.exceptions import AirflowFailException

from operators import engine, science
from operators.collect import ALERTS, CollectOperator

DAY = {"instrument": "SimCam", "day_obs": 20260301}


@pytest.fixture
def said(context, monkeypatch):
    asked = []
    monkeypatch.setattr(engine, "home", lambda: "/home")
    monkeypatch.setattr(science, "ask", lambda *words: asked.append(words) or f"a line\n{json.dumps({'new': 3})}\n")
    context["dag_run"].dag_id = "offline"
    return asked


def test_the_command_is_given_for_the_runs_instrument_and_day(said, context):
    assert CollectOperator(task_id="tell", command=ALERTS).execute(context | {"params": DAY}) == {"new": 3}
    assert said == [
        ("alerts", "collect", "--home", "/home", "--instrument", "SimCam", "--day-obs", "20260301", "--json"),
    ]


def test_a_run_that_is_about_no_day_fails_for_good(said, context):
    context["dag_run"].dag_id = "template"
    with pytest.raises(AirflowFailException, match="not about an observing day"):
        CollectOperator(task_id="tell", command=ALERTS).execute(context | {"params": {"instrument": "SimCam"}})
    assert said == []

"""The calibration report that is written by itself when the day has ended."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from fastapi import FastAPI

from backbone.qc import Metric, Quality
from operators import conf, mornings, science
from operators.calibration_pages import router
from operators.mornings import LATENESS, CalibrationReportOperator, end_of, folder_of
from workflow.settings import Settings

DAY = 20260304


@pytest.fixture
def home(tmp_path, monkeypatch):
    Settings(home=tmp_path).write()
    monkeypatch.setenv("PACHON_HOME", str(tmp_path))
    metric = Metric(name="bias_verified", value=1, instrument="SimCam", day_obs=DAY, source="c1")
    Quality.open(tmp_path).record([metric], actor="test")
    return str(tmp_path)


@pytest.fixture
def morning(home, context, monkeypatch):
    """A run of the schedule on the day after, at what hour; what was asked of the science rooms."""
    asked = []
    monkeypatch.setattr(science, "ask", lambda *words: asked.append(words) or "")
    context["dag_run"].dag_id = "calibration_report"
    context["dag_run"].run_after = datetime(2026, 3, 5, 12, 5, tzinfo=UTC)

    def run(late_h=0.1, **params):
        monkeypatch.setattr(mornings.time, "time", lambda: end_of(DAY) + 3600 * late_h)
        return CalibrationReportOperator(task_id="report").execute(context | {"params": params}), asked

    return run


def lateness(home):
    return [(m.instrument, m.day_obs, round(m.value, 3)) for m in Quality.open(home).metrics(name=LATENESS)]


def test_after_the_day_has_ended_the_report_of_each_instrument_is_written(home, morning):
    written, asked = morning()
    folder = folder_of(home, "SimCam", DAY)
    assert written == {"SimCam": str(folder)}
    command = ("calib", "report", "--home", home, "--instrument", "SimCam", "--day", str(DAY), str(folder))
    assert asked == [command]
    assert lateness(home) == [("SimCam", DAY, 0.1)]
    assert Quality.open(home).alarms() == []


def test_a_report_later_than_four_hours_raises_an_alarm_and_another_writing_is_not_late(home, morning):
    morning(late_h=5)
    morning(late_h=9)
    morning(late_h=99, day_obs=DAY, instrument="SimCam")
    assert lateness(home) == [("SimCam", DAY, 5.0)]
    (alarm,) = Quality.open(home).alarms()
    assert "later than 4 h" in alarm.words


def test_of_a_day_on_which_nothing_was_measured_there_is_no_report(morning):
    with pytest.raises(AirflowSkipException, match="nothing was measured"):
        morning(day_obs=20260303)


@pytest.mark.parametrize(("now", "day"), [("2026-03-05T12:05", DAY), ("2026-03-05T11:55", DAY - 1), ("2026-03-06T00:00", DAY)])
def test_the_day_that_ended_last_ended_at_noon(now, day):
    assert conf.Morning().day(datetime.fromisoformat(now).replace(tzinfo=UTC)) == day


def test_a_conf_that_cannot_be_used_fails_for_good(morning):
    with pytest.raises(AirflowFailException, match="did you mean 'day_obs'"):
        morning(dayobs=1)


def test_a_command_that_fails_says_its_last_words_and_may_be_tried_again():
    with pytest.raises(AirflowException, match=r"pachon calib list --home /nowhere: .*pachon init") as caught:
        science.ask("calib", "list", "--home", "/nowhere")
    assert not isinstance(caught.value, AirflowFailException)


def test_report_is_at_the_web_server_and_nothing_beside_it(home):
    folder = folder_of(home, "SimCam", DAY)
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("<p>good</p>")
    app = FastAPI()
    app.include_router(router)

    async def get(*names):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return [await client.get(f"/calibrations/SimCam/{DAY}/{name}") for name in names]

    page, missing, other = asyncio.run(get("index.html", "report.json", "..%2Fpachon.yaml"))
    assert (page.status_code, page.text, page.headers["content-type"]) == (200, "<p>good</p>", "text/html; charset=utf-8")
    assert (missing.status_code, "DAG calibration_report writes it" in missing.text) == (404, True)
    assert other.status_code in (404, 422)

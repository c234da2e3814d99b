"""The observatory's door for visits, and the pages of a night."""

import asyncio
import time
import warnings

import httpx
import pytest

from backbone.messages.prompt import Armed, Ended
from workflow.night.nights import Nights
from workflow.night.reports import publish_reports
from workflow.night.reports_in import Intake
from workflow.settings import Settings

with warnings.catch_warnings():
    # The API server's service registry imports starlette's test client, which warns of its own HTTP library.
    warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
    from airflow.api_fastapi.core_api.security import get_user

    from operators import night_pages, pages

CAMERA = "SimCam"
VISIT = {
    "instrument": CAMERA,
    "visit": 2026010100042,
    "exposures": [2026010100042],
    "ra_deg": 13.0,
    "dec_deg": 3.0,
    "physical_filter": "r",
    "expected_end": 1.8e9,
}


class _User:
    def get_name(self):
        return "ocs"


def ask(method, path, **more):
    async def go():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pages.app), base_url="http://here") as client:
            return await client.request(method, path, **more)

    return asyncio.run(go())


@pytest.fixture
def nights(tmp_path, monkeypatch):
    """A home with an open night of two detectors."""
    monkeypatch.setenv("PACHON_HOME", str(tmp_path))
    Settings(home=tmp_path).write()
    made = Nights.open(tmp_path)
    made.begin("n1", instrument=CAMERA, day_obs=20260101, skymap=CAMERA, detectors=[0, 1], actor="test")
    night_pages._opened.cache_clear()
    yield made
    night_pages._opened.cache_clear()
    made.ledger.close()


@pytest.fixture
def allowed(nights):
    """The one who asks may do everything."""
    for door in (pages.may_read, night_pages.may_command):
        pages.app.dependency_overrides[door] = lambda: None
    pages.app.dependency_overrides[get_user] = _User
    yield nights
    pages.app.dependency_overrides.clear()


def test_a_visit_is_taken_once_and_another_of_its_number_is_refused(allowed):
    first, again = (ask("POST", "/api/next_visit", json=VISIT) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == {"night": "n1", "visit": VISIT["visit"], "new": True}
    other = ask("POST", "/api/next_visit", json=VISIT | {"field": "elsewhere"})
    assert (other.status_code, "announced otherwise" in other.json()["detail"]) == (409, True)
    assert [row.visit for row in allowed.rows("n1")[1]] == [VISIT["visit"]] * 2
    assert ask("POST", "/api/next_visit", json=VISIT | {"instrument": "Other"}).status_code == 409


@pytest.mark.parametrize(
    "wrong",
    [{"exposures": []}, {"visit": "many"}, {"mode": "holiday"}, {"expected_end": None}, {"no_such_key": 1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_visit_that_makes_no_sense_is_refused_and_not_written_down(allowed, wrong):
    assert ask("POST", "/api/next_visit", json=VISIT | wrong).status_code == 422
    assert allowed.status("n1").visits == 0


def test_nobody_commands_or_looks_without_logging_in(nights):
    for method, path in (
        ("POST", "/api/next_visit"),
        ("POST", "/api/nights/n1/drain"),
        ("GET", "/nights"),
        ("GET", "/nights/n1"),
        ("GET", "/api/nights/n1"),
        ("GET", "/nights/n1/stamps/1/0.png"),
        ("GET", "/nights/n1/quality.html"),
    ):
        assert ask(method, path, **({"json": VISIT} if method == "POST" else {})).status_code == 401, path


def processed(nights):
    """A night in which detector 0 was in time, and detector 1 was cancelled; with words that a page must not believe."""
    now = time.time()
    worker = {"night": "n1", "detector": 0, "worker": "w"}
    quality = {"band": "r", "mjd": 61041.2}
    quality |= {"psf_fwhm_arcsec": 0.8, "zeropoint_mag": 30.1, "sky_electron": 900.0, "depth_mag": 24.2, "wcs_rms_mas": 70.0}
    good = {"state": "succeeded", "stage": "done", "alerts": 3, "alerts_out": now + 9, "sources": 5, "quality": quality}
    bad = {"state": "cancelled", "stage": "subtract", "reason": "not done <b>60 s</b> after", "mechanism": "deadline"}
    both = {"visit": 7, "exposures": (7,), "readout_end": now, "at": now + 10}
    reports = [
        Armed(**worker, host="h", pid=1, preload_s=1.0),
        Ended(**worker, **both, **good, stages={"isr": 0.5, "subtract": 2.0}, stamps="prompt/n1/stamps/7/000.png"),
        Ended(**(worker | {"detector": 1}), **both, **bad, recovered={"TransportDown: away": 2}),
    ]
    with nights.ledger.begin() as connection:
        held = nights.rows("n1")[0]
        Intake(nights.ledger, connection, held, now).take(reports)


def test_the_page_shows_what_is_late_and_why_and_escapes_it(allowed):
    processed(allowed)
    text = ask("GET", "/nights/n1").text
    assert "not done &lt;b&gt;60 s&lt;/b&gt; after" in text
    assert "Needs attention" in text
    assert 'http-equiv="refresh"' in text
    assert "n1/stamps/7/0.png" in text
    document = ask("GET", "/api/nights/n1").json()
    assert document["summary"]["alerts"] == 3
    assert [late["detector"] for late in document["late"]] == [1]
    assert "n1" in ask("GET", "/nights").text
    assert ask("GET", "/nights/nothing").status_code == 404


def test_stamps_and_reports_come_from_the_prompt_endpoint(allowed):
    processed(allowed)
    assert ask("GET", "/nights/n1/stamps/7/0.png").status_code == 404
    allowed.store.put("prompt/n1/stamps/7/000.png", b"picture")
    answer = ask("GET", "/nights/n1/stamps/7/0.png")
    assert (answer.content, answer.headers["content-type"]) == (b"picture", "image/png")
    summary = publish_reports(allowed, "n1")
    assert (summary["visits"], summary["parts"]["CANCELLED"]) == (1, 1)
    assert summary["alarms"] == 1, "70 mas are more than the 50 of DMS-REQ-0030"
    quality, performance = (ask("GET", f"/nights/n1/{report}.json").json() for report in ("quality", "performance"))
    assert quality["filters"]["r"]["measures"]["zeropoint_mag"]["median"] == 30.1
    assert performance["unrecoverable"] == {"cancelled in subtract: deadline": 1}
    assert performance["recoverable"]["TransportDown: away"] == 1
    assert "seeing" in ask("GET", "/nights/n1/quality.html").text
    assert "Left undone" in ask("GET", "/nights/n1/performance.html").text

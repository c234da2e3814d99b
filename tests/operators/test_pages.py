import asyncio
import warnings

import httpx
import pytest

from backbone.errors import TransientError

with warnings.catch_warnings():
    # The API server's service registry imports starlette's test client, which warns of its own HTTP library.
    warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
    from operators import pages


def get(path):
    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pages.app), base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.fixture
def reader(campaigns):
    campaigns.put("c", "FAILED", frames="FAILED")
    pages.app.dependency_overrides[pages.may_read] = lambda: None
    yield
    pages.app.dependency_overrides.clear()


def test_page_shows_the_report_and_escapes_it(reader):
    answer = get("/campaigns/c")
    assert answer.status_code == 200
    assert "c: FAILED" in answer.text
    assert "too &lt;few&gt; stars" in answer.text


def test_document_is_the_report(reader):
    assert get("/api/campaigns/c").json()["campaign"]["state"] == "FAILED"


def test_unknown_campaign_is_404(reader):
    assert get("/campaigns/nothing").status_code == 404


def test_nobody_reads_without_logging_in(campaigns):
    campaigns.put("c", "FAILED", frames="FAILED")
    assert get("/campaigns/c").status_code == 401


def test_name_that_is_none_never_reaches_the_ledger(reader, campaigns):
    campaigns.report = None
    assert get("/campaigns/..%2Fetc").status_code in {404, 422}


def test_a_ledger_that_does_not_answer_is_asked_again_later(reader, campaigns, monkeypatch):
    def away(name):
        raise TransientError("the ledger did not answer")

    monkeypatch.setattr(campaigns, "report", away)
    answer = get("/campaigns/c")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert "did not answer" in answer.json()["detail"]

"""The pages behind a task's buttons, over the fake schedd."""

import asyncio
import json
import warnings

import httpx
import pytest
from airflow.sdk import Connection

from operators.htcondor import hook as hooks
from operators.htcondor.fake import FakeSchedd
from operators.htcondor.hook import HTCondorHook

with warnings.catch_warnings():
    # The API server's service registry imports starlette's test client, which warns of its own HTTP library.
    warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
    from operators import pages

KEY = "0123456789abcdef" * 2


def get(path):
    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pages.app), base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.fixture
def schedd(monkeypatch, tmp_path):
    """One job, whose reader may read it; connections `pool` and, of another type, `files`."""
    fake = FakeSchedd()
    extra = json.dumps({"folder": str(tmp_path)})
    known = {
        "pool": Connection(conn_id="pool", conn_type="htcondor", host="cm", extra=extra),
        "files": Connection(conn_id="files", conn_type="fs"),
    }
    monkeypatch.setattr(hooks, "open_schedd", lambda settings: fake)
    monkeypatch.setattr(HTCondorHook, "get_connection", classmethod(lambda cls, conn_id: known[conn_id]))
    fake.submit(KEY, {"executable": "/bin/true"}, spool=False)
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / "stdout").write_text("<b>said</b>")
    (tmp_path / KEY / "job.log").write_text("000 submitted\n...\n")
    pages.app.dependency_overrides[pages.may_read] = lambda: None
    yield fake
    pages.app.dependency_overrides.clear()


def test_log_shows_state_events_and_output_escaped(schedd):
    schedd.hold(KEY, "no <such> file")
    text = get(f"/htcondor/pool/{KEY}/log").text
    assert "Job 1.0" in text
    assert "HELD no &lt;such&gt; file" in text
    assert "000 submitted" in text
    assert "&lt;b&gt;said" in text


def test_log_of_a_silent_pool_says_so_and_shows_what_is_here(schedd):
    schedd.silent = True
    text = get(f"/htcondor/pool/{KEY}/log").text
    assert "not known" in text
    assert "said" in text


def test_classad_hides_what_may_be_secret(schedd, monkeypatch):
    ad = {"ClusterId": 1, "Environment": "PASSWORD=hunter2", "Env": "PASSWORD=hunter2", "ClaimId": "<1>#key", "Owner": "<survey>"}
    monkeypatch.setattr(schedd, "ad", lambda job_id: ad)
    text = get("/htcondor/pool/1.0/classad").text
    assert "&lt;survey&gt;" in text
    assert "hunter2" not in text
    assert "#key" not in text


def test_what_is_not_there_is_404_and_a_silent_pool_503(schedd):
    assert get("/htcondor/pool/9.0/classad").status_code == 404
    assert get("/htcondor/nothing/1.0/classad").status_code == 404
    assert get("/htcondor/files/1.0/classad").status_code == 404, "connections of other types are none of ours"
    schedd.silent = True
    assert get("/htcondor/pool/1.0/classad").status_code == 503


@pytest.mark.parametrize("path", ["/htcondor/pool/..%2Fetc/log", "/htcondor/pool/x/log", "/htcondor/pool/1.0%22/classad"])
def test_what_is_no_key_is_refused(schedd, path):
    assert get(path).status_code in {404, 422}


def test_stranger_reads_nothing(schedd):
    pages.app.dependency_overrides.clear()
    for page in (f"{KEY}/log", "1.0/classad"):
        assert get(f"/htcondor/pool/{page}").status_code in {401, 403}

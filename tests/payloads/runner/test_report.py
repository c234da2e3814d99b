"""Segments and heartbeats."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from backbone.butler import attempt_prefix
from backbone.errors import TransientError
from backbone.folder import FolderEndpoint
from payloads.runner.report import Reporter
from workflow.job import ZIP, JobMessage, Outcome, Place, Segment, heartbeat_key, segment_key

JOB = JobMessage(
    attempt="j",
    graph_key="g",
    config_key="c",
    quanta=("q1", "q2"),
    records={},
    endpoint=Place(name="e", uri="/nowhere"),
    flush_s=5,
    heartbeat_s=15,
    memory_mb=1,
    time_limit_s=1,
)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def endpoint(tmp_path):
    return FolderEndpoint(tmp_path, name="e")


def segment(endpoint, number):
    return Segment.model_validate_json(endpoint.get(segment_key("j", number)))


def outcome(name, **more):
    return Outcome(quantum=name, state="succeeded", **more).model_dump_json(exclude_defaults=True).encode()


def member(name):
    return {"dataset_ids": [name], "path": f"{ZIP}#zip-path={name}.json"}


def test_an_outcome_waits_no_longer_than_it_may_and_its_zip_is_there_before_it(endpoint):
    clock = Clock()
    reporter = Reporter(JOB, endpoint, clock=clock)
    reporter.add(outcome("q1", records=member("m1")), {"m1.json": b"{}"})
    reporter.tick(None)
    assert not list(endpoint.list("_a/j/segments/"))
    clock.now += 5
    reporter.tick(None)
    found = segment(endpoint, 0)
    assert found.outcomes[0].records["path"] == "_a/j/segments/00000.zip#zip-path=m1.json"
    (file,) = found.files
    content = endpoint.get(file.key)
    assert (endpoint.info(file.key).sha256, len(content)) == (file.sha256, file.size)
    assert zipfile.ZipFile(io.BytesIO(content)).read("m1.json") == b"{}"
    reporter.close("told to stop")
    last = segment(endpoint, 1)
    assert (last.final, last.reason, last.outcomes, last.files) == (True, "told to stop", (), ())


def test_a_heartbeat_differs_from_the_one_before(endpoint):
    clock = Clock()
    reporter = Reporter(JOB, endpoint, clock=clock)
    reporter.tick("q1")
    first = endpoint.get(heartbeat_key("j"))
    clock.now += 14
    reporter.tick("q1")
    assert endpoint.get(heartbeat_key("j")) == first
    clock.now += 1
    reporter.tick("q1")
    assert endpoint.get(heartbeat_key("j")) != first
    assert json.loads(first)["quantum"] == "q1"


def test_an_endpoint_that_does_not_answer_is_asked_again_and_nothing_is_lost(endpoint, monkeypatch):
    clock = Clock()
    reporter = Reporter(JOB, endpoint, clock=clock)
    put = endpoint.put
    reporter.add(outcome("q1"), {"m1.json": b"1"})
    clock.now += 5

    def refuse(*_args, **_kwargs):
        raise TransientError("no answer", delay_s=7)

    monkeypatch.setattr(endpoint, "put", refuse)
    reporter.tick(None)
    monkeypatch.setattr(endpoint, "put", put)
    reporter.tick(None)
    assert not list(endpoint.list("_a/j/segments/"))  # not before the delay
    clock.now += 7
    reporter.tick(None)
    assert [o.quantum for o in segment(endpoint, 0).outcomes] == ["q1"]
    monkeypatch.setattr(endpoint, "put", refuse)
    slept = []
    with pytest.raises(TransientError):
        reporter.close(tries=3, sleep=slept.append)
    assert slept == [7, 7]


def test_a_segment_whose_answer_was_lost_is_written_again_as_it_was(endpoint, monkeypatch):
    """The engine may have read it: what comes later must not be put into it."""
    clock = Clock()
    reporter = Reporter(JOB, endpoint, clock=clock)
    put = endpoint.put

    def written_but_unanswered(key, content):
        put(key, content)
        raise TransientError("no answer", delay_s=1)

    reporter.add(outcome("q1"), {"m1.json": b"1"})
    clock.now += 5
    reporter.tick(None)
    reporter.add(outcome("q2"), {})
    clock.now += 5
    monkeypatch.setattr(
        endpoint, "put", lambda key, content: put(key, content) if "zip" in key else written_but_unanswered(key, content)
    )
    reporter.tick(None)
    monkeypatch.setattr(endpoint, "put", put)
    reporter.add(outcome("q3"), {})
    clock.now += 6
    reporter.tick(None)
    reporter.close()
    assert [[o.quantum for o in segment(endpoint, n).outcomes] for n in range(4)] == [["q1"], ["q2"], ["q3"], []]


def test_many_outcomes_do_not_wait_to_become_more(endpoint, monkeypatch):
    monkeypatch.setattr("payloads.runner.report._MOST", 3)
    reporter = Reporter(JOB, endpoint, clock=Clock())
    for name in ("q1", "q2", "q3"):
        reporter.add(outcome(name), {})
        reporter.tick(None)
    assert len(segment(endpoint, 0).outcomes) == 3


def test_keys_lie_below_the_attempts_prefix():
    assert segment_key("j", 0).startswith(f"{attempt_prefix('j')}/")
    assert heartbeat_key("j").startswith(f"{attempt_prefix('j')}/")

"""A worker and its mailbox: which jobs it does, and when it ends."""

from __future__ import annotations

import os
import signal

import pytest

from backbone.endpoints import open_endpoint
from backbone.errors import TransientError
from payloads.runner import worker
from workflow.job import CLOSED, EXIT_PREEMPTED, EXIT_STORAGE, Done, JobMessage, Place, Stay, done_key, mail_key


class Post:
    """The endpoint of worker `w`, and what it did."""

    def __init__(self, folder):
        self.place = Place(name="here", uri=str(folder))
        self.endpoint = open_endpoint(str(folder), name="here")
        self.did = []

    def job(self, attempt, **stay):
        stays = Stay(**{"idle_s": 0.1, "life_s": 100, "poll_s": 0.01, **stay}) if attempt == "w" else None
        about = {"graph_key": "null:0", "config_key": "", "quanta": (), "records": {}, "endpoint": self.place}
        return JobMessage(attempt=attempt, flush_s=0, heartbeat_s=1, memory_mb=100_000, time_limit_s=1, stay=stays, **about)

    def mail(self, number, attempt):
        self.endpoint.put(mail_key("w", number), self.job(attempt).model_dump_json().encode(), create_only=True)

    def serve(self, codes=None, **stay):
        def do(job, *, stopping, began):
            self.did.append(job.attempt)
            assert (began is None) == (job.attempt == "w"), "only the first began with the process"
            code = (codes or {}).get(job.attempt, 0)
            return code(stopping) if callable(code) else code

        return worker.serve(self.job("w", **stay), do=do)

    def done(self, number):
        return Done.model_validate_json(self.endpoint.get(done_key("w", number))).exit_code

    def is_closed(self, number):
        return self.endpoint.get(mail_key("w", number)) == CLOSED


@pytest.fixture
def post(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    yield Post(tmp_path)
    signal.signal(signal.SIGTERM, before)


def test_a_worker_does_what_comes_in_turn_and_closes_when_nothing_comes(post):
    post.mail(1, "b")
    post.mail(2, "c")
    assert post.serve() == 0
    assert post.did == ["w", "b", "c"]
    assert [post.done(n) for n in range(3)] == [0, 0, 0]
    assert post.is_closed(3)


def test_what_is_closed_by_the_engine_ends_at_once(post):
    post.endpoint.put(mail_key("w", 1), CLOSED)
    assert post.serve(idle_s=3600) == 0
    assert post.did == ["w"]


def test_after_a_job_that_ended_badly_it_takes_no_other(post):
    post.mail(1, "b")
    post.mail(2, "c")
    assert post.serve({"b": 3}) == 3
    assert (post.did, post.done(1)) == (["w", "b"], 3)


def test_an_old_worker_does_the_job_it_was_given_before_it_could_close_and_then_closes(post):
    post.mail(1, "b")
    assert post.serve(life_s=1e-9, idle_s=3600) == 0
    assert post.did == ["w", "b"]
    assert post.is_closed(2)


def test_a_worker_that_was_evicted_and_started_anew_repeats_nothing(post):
    post.endpoint.put(done_key("w", 0), Done(exit_code=0, host="h").model_dump_json().encode())
    post.mail(1, "b")
    assert post.serve() == 0
    assert post.did == ["b"]


def test_a_worker_that_is_told_to_stop_at_work_says_how_its_job_ended_and_ends(post):
    def told(stopping):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked
        return EXIT_PREEMPTED

    post.mail(1, "b")
    assert post.serve({"w": told}) == EXIT_PREEMPTED
    assert (post.did, post.done(0)) == (["w"], EXIT_PREEMPTED)


def test_a_job_that_came_as_the_worker_was_told_to_stop_is_not_begun_and_that_is_said(post):
    def told(stopping):
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    post.mail(1, "b")
    assert post.serve({"w": told}) == EXIT_PREEMPTED
    assert (post.did, post.done(1)) == (["w"], EXIT_PREEMPTED)


def test_a_worker_whose_parent_has_grown_closes(post, monkeypatch):
    monkeypatch.setattr(worker, "rss_mb", lambda _pid: 60_000)
    assert post.serve(idle_s=3600) == 0
    assert post.is_closed(1)


def test_a_worker_that_cannot_say_that_its_job_ended_ends_itself(post, monkeypatch):
    class Silent(worker.Mailbox):
        def say_done(self, number, exit_code):
            raise TransientError("not today")

    monkeypatch.setattr(worker, "Mailbox", Silent)
    assert post.serve() == EXIT_STORAGE

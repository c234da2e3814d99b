"""A visit as its worker sees it: what its process said last counts, however late the worker comes to hear of it."""

import os
import time

import pytest

from backbone.messages.opened import MessageSettings
from backbone.messages.prompt import FrameArrived, Store, WorkerOrder
from backbone.messages.stored import StoredTransport
from services.prompt import flight as module
from services.prompt.flight import Flight
from services.prompt.science import NullScience
from services.prompt.words import Done, Stage
from services.prompt.worker import Worker

DONE = Done(state="succeeded", stage="done", alerts=3, at=100.0)


def arrived(readout_end=100.0):
    return FrameArrived(
        instrument="cam", detector=0, visit=1, exposure=1, exposures=(1,), key="k", size=1, sha256="0" * 64,
        readout_end=readout_end, received=readout_end, stored=readout_end,
    )  # fmt: skip


def ended(pid):
    """Wait until a process is dead, without taking its status."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("last", [Stage(stage="publish", at=99.0), None])
def test_what_a_process_says_between_two_looks_is_heard_though_it_is_dead_then(monkeypatch, last):
    go, told = os.pipe()

    def run(_plan, pipe):
        if last is not None:
            pipe.send_bytes(last.model_dump_json().encode())
        os.read(go, 1)
        pipe.send_bytes(DONE.model_dump_json().encode())

    flight = Flight.of(arrived())
    flight.start(run)
    real = os.waitpid

    def between(pid, options):
        os.write(told, b"x")
        ended(pid)
        return real(pid, options)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "waitpid", between)
        words = flight.words()
    assert words[-1] == DONE
    assert (flight.pid, flight.stage, flight.words()) == (None, "done", [])
    for descriptor in (go, told):
        os.close(descriptor)


def test_a_process_that_dies_without_a_last_word_has_failed_and_says_how():
    def run(_plan, pipe):
        pipe.send_bytes(Stage(stage="subtract", at=1.0).model_dump_json().encode())
        os.kill(os.getpid(), 9)

    flight = Flight.of(arrived())
    flight.start(run)
    ended(flight.pid)
    words = flight.words()
    assert [type(word) for word in words] == [Stage, Done]
    assert (words[-1].state, words[-1].stage, words[-1].mechanism) == ("failed", "subtract", "SIGKILL")


def test_a_visit_that_ended_in_time_is_not_cancelled_by_a_worker_that_was_kept_from_looking(tmp_path):
    transport = StoredTransport.open(f"sqlite:///{tmp_path}/messages.sqlite3")
    order = WorkerOrder(
        night="n", worker="w", instrument="cam", detector=0, day_obs=20260101, skymap="cam", home=str(tmp_path), repo="none",
        store=Store(name="s", uri=str(tmp_path)), messages=MessageSettings(), deadline_s=60, beat_s=1000, in_flight=1,
    )  # fmt: skip
    now = [time.time()]
    worker = Worker(order, transport, NullScience(), clock=lambda: now[0])
    worker._fly = lambda _plan, pipe: pipe.send_bytes(DONE.model_dump_json().encode())
    transport.send("prompt.cam.000", arrived(readout_end=now[0]).model_dump(mode="json"))
    while not worker._flights or next(iter(worker._flights.values())).pid is None:
        worker.step()
    ended(next(iter(worker._flights.values())).pid)
    now[0] += 61  # a broker that did not answer, say
    worker.step()
    reports = transport.receiver("prompt.cam.reports")
    told = [one.body for one in iter(lambda: reports.receive(), None)]
    assert [(one["state"], one["alerts"]) for one in told if one["kind"] == "ended"] == [("succeeded", 3)]
    transport.close()

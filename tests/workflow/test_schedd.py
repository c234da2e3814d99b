"""How often a pool that fails is asked again, and what that costs the engine; real daemons: test_condor_troubles.py."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from workflow.errors import PoolUnavailable
from workflow.pools import schedd
from workflow.pools.dispatches import Dispatches
from workflow.pools.htcondor import CondorPool
from workflow.pools.pool import JobRequest, PoolState, Resources
from workflow.pools.schedd import Daemons
from workflow.pools.settings import HTCondorPool


class Bindings:
    """In place of HTCondor's: a schedd that says nothing until the client gives up."""

    class HTCondorException(Exception):
        """As theirs."""

    def __init__(self, clock, takes_s):
        self.clock, self.takes_s, self.calls = clock, takes_s, 0

    def ask(self, _bindings, _schedd):
        self.calls += 1
        self.clock.now += self.takes_s
        raise self.HTCondorException("timed out")


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def rig(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(schedd, "time", clock)
    daemons = Daemons("ncsa", lambda: "127.0.0.1:1", schedd=None, tokens=Path("none"), answer_s=8)
    daemons._schedd = object()
    return clock, daemons


def spent(clock, daemons, bindings, until_s):
    """Seconds that the engine waited for answers in this time, asking in every round."""
    daemons.client = lambda: contextlib.nullcontext(bindings)
    began, waited = clock.now, 0.0
    while clock.now < began + until_s:
        before = clock.now
        with pytest.raises(PoolUnavailable, match="timed out"):
            daemons._call("asking for our jobs", bindings.ask)
        waited += clock.now - before
        daemons._schedd = object()
        clock.now += 0.5
    return waited


def test_a_schedd_that_stands_still_takes_a_quarter_of_the_engines_time_at_most(rig):
    clock, daemons = rig
    assert spent(clock, daemons, Bindings(clock, 8.0), 600) <= 600 / 4 + 8


def test_one_that_refuses_at_once_is_asked_again_soon_and_then_less_often(rig):
    clock, daemons = rig
    bindings = Bindings(clock, 0.0)
    spent(clock, daemons, bindings, 4)
    assert bindings.calls == 3
    spent(clock, daemons, bindings, 56)
    assert bindings.calls == 7


def test_a_pool_that_was_silent_is_asked_again_though_none_of_its_jobs_is_open(tmp_path):
    answers = [PoolUnavailable("not today"), []]

    def query(_constraint, *, clusters):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    clock = Clock()
    settings = HTCondorPool(kind="htcondor", slots=2, idle_ahead=0)
    pool = CondorPool(tmp_path, settings, name="ncsa", collector=lambda: "127.0.0.1:1", tokens=tmp_path, clock=clock.monotonic)
    pool._daemons.query = query
    pool._daemons.slots = lambda *_: [{"Cpus": 2}]
    pool._ask([])
    assert pool._silent
    assert pool.capacity() == 2
    assert not answers


class Log:
    """In place of an event log's reader."""

    def __init__(self):
        self.jobs = {}


def test_what_the_log_says_after_the_schedd_was_asked_is_newer_than_its_answer_and_an_end_is_an_end():
    from workflow.pools.events import Seen
    from workflow.pools.htcondor import _Watched

    waits, runs = Seen(PoolState.PENDING), Seen(PoolState.RUNNING)
    evicted, done = Seen(PoolState.PENDING, failure="preempted"), Seen(PoolState.EXITED, 0)
    log = Log()
    watched = _Watched(dispatch=None, reader=log)
    said = []
    for logged, told in [(waits, None), (None, waits), (runs, None), (None, runs), (evicted, None), (None, waits), (None, done)]:
        if told is None:
            log.jobs[0] = logged
        else:
            watched.tell(0, told)
        said.append(watched.seen(0))
    assert said == [waits, waits, runs, runs, evicted, evicted, done]
    log.jobs[0] = runs  # late
    assert watched.seen(0) == done


def test_logs_of_what_another_engine_has_forgotten_are_not_held_open(tmp_path):
    pool = CondorPool(
        tmp_path / "pool", HTCondorPool(kind="htcondor", slots=1), name="ncsa", collector=lambda: "127.0.0.1:1", tokens=tmp_path
    )
    other = Dispatches(tmp_path / "pool")  # of another engine of this home
    message = tmp_path / "message"
    message.write_text("{}")
    sent = other.new([JobRequest(key="a", message=message, resources=Resources(memory_mb=1))])
    sent.answered(1)
    sent.log.write_text("000 (001.000.000) 2026-11-27 12:00:00 Job submitted from host: <127.0.0.1:1>\n...\n")
    assert pool.keys() == ("a",)
    pool.poll(["a"])
    assert _open_logs(tmp_path)
    other.forget("a")
    assert pool.keys() == ()
    assert not _open_logs(tmp_path)


def _open_logs(folder):
    """Files of this process below a folder, removed or not."""
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link for link in links if link.startswith(str(folder)) and "/log" in link]


def test_a_dispatch_whose_last_job_was_being_forgotten_is_gone(tmp_path):
    sent, message = Dispatches(tmp_path / "pool"), tmp_path / "message"
    message.write_text("{}")
    made = sent.new([JobRequest(key="a", message=message, resources=Resources(memory_mb=1))])
    (made.folder / "a.json").unlink()  # killed before it removed the folder
    anew = Dispatches(tmp_path / "pool")
    anew.refresh()
    assert (anew.all(), made.folder.exists()) == ((), False)

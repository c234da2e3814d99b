"""What every pool keeps to. A new kind of pool is one more fixture here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backbone.endpoints import open_endpoint
from workflow.pools.fake import FakePool
from workflow.pools.local import LocalPool
from workflow.pools.pool import POOL_ENDED, JobRequest, PoolState, Resources
from workflow.pools.warm import WarmPool

RESOURCES = Resources(memory_mb=100)
# A job for tests: says that it ran, waits for its file `go` if its message says so, exits as told.
JOB = """
import json, os, pathlib, signal, sys, time
m = json.load(open(sys.argv[1]))
here = pathlib.Path(m["here"])
with open(here / "runs", "a") as f: f.write("x")
while m.get("wait") and not (here / "go").exists(): time.sleep(0.005)
if m.get("signal"): os.kill(os.getpid(), m["signal"])
sys.exit(m.get("code", 0))
"""


class Rig:
    """A pool, and the means to make and end jobs in it."""

    patience_s = 10

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def message(self, **words) -> Path:
        import json

        path = self.folder / "message.json"
        path.write_text(json.dumps({"here": str(self.folder), **words}))
        return path

    def runs(self) -> int:
        path = self.folder / "runs"
        return len(path.read_text()) if path.exists() else 0

    def until(self, condition):
        end = time.monotonic() + self.patience_s
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.005)  # another process must come to it
        raise AssertionError(f"waited {self.patience_s} s in vain")


class LocalRig(Rig):
    def open(self):
        return LocalPool(self.folder / "jobs", slots=2, command=[sys.executable, "-S", "-c", JOB])

    def release(self, pool, key, code=0):
        (self.folder / "go").touch()
        self.until(lambda: pool.poll([key])[key].state in POOL_ENDED)


class WarmRig(LocalRig):
    """Jobs that are the first of their workers; how workers take others: tests/workflow/test_warm.py."""

    def open(self):
        endpoint = open_endpoint(str(self.folder / "objects"), name="here")
        return WarmPool(super().open(), self.folder / "workers", endpoint=lambda: endpoint, slots=2, idle_s=60)


class FakeRig(Rig):
    def __init__(self, folder):
        super().__init__(folder)
        self._pool = FakePool(slots=2, run=self._run)

    def _run(self, message):
        import json

        with (self.folder / "runs").open("a") as file:
            file.write("x")
        words = json.loads(message.read_text())
        if words.get("wait"):
            return None
        return -words["signal"] if words.get("signal") else words.get("code", 0)

    def open(self):
        return self._pool

    def release(self, pool, key, code=0):
        pool.end(key, code)


class CondorRig(LocalRig):
    """The same with a real schedd, negotiator and startd in between."""

    patience_s = 60

    def __init__(self, folder, condor):
        super().__init__(folder)
        self._condor = condor
        self._opened = []
        (folder / "job.py").write_text(JOB)

    def open(self):
        command = [sys.executable, "-S", str(self.folder / "job.py")]
        pool = self._condor.pool(self.folder / "jobs", slots=2, reserved=0, reconcile_s=0.5, command=command)
        self._opened.append(pool)
        return pool

    def close(self):
        """Leave nothing in the queue for the next test."""
        pool = self._opened[0]
        keys = list(pool.keys())
        pool.kill_many(keys)
        self.until(lambda: all(job.state in POOL_ENDED for job in pool.poll(keys).values()))


@pytest.fixture(params=["local", "fake", "warm", "htcondor"])
def rig(request, tmp_path):
    if request.param == "htcondor":
        made = CondorRig(tmp_path, request.getfixturevalue("condor"))
        yield made
        if made._opened:
            made.close()
    else:
        yield {"local": LocalRig, "fake": FakeRig, "warm": WarmRig}[request.param](tmp_path)


def ended(rig, pool, key):
    rig.until(lambda: pool.poll([key])[key].state in POOL_ENDED)
    return pool.poll([key])[key]


def test_a_job_runs_and_its_exit_code_is_kept(rig):
    pool = rig.open()
    assert pool.submit("a", rig.message(code=7), RESOURCES)
    job = ended(rig, pool, "a")
    assert (job.state, job.exit_code) == (PoolState.EXITED, 7)


def test_a_death_by_signal_is_told_from_an_exit(rig):
    pool = rig.open()
    pool.submit("a", rig.message(signal=int(signal.SIGKILL)), RESOURCES)
    assert ended(rig, pool, "a").exit_code == -9


def test_a_key_submitted_twice_runs_once_and_is_adopted(rig):
    pool = rig.open()
    message = rig.message(wait=True)
    first = pool.submit("a", message, RESOURCES)
    rig.until(lambda: rig.runs() == 1)
    assert pool.submit("a", message, RESOURCES) == first
    assert rig.open().submit("a", message, RESOURCES) == first
    rig.release(pool, "a")
    assert pool.submit("a", message, RESOURCES) == first
    assert rig.runs() == 1


def test_another_engine_finds_the_job_and_its_end(rig):
    rig.open().submit("a", rig.message(wait=True), RESOURCES)
    other = rig.open()
    rig.until(lambda: other.poll(["a"])["a"].state is PoolState.RUNNING)
    rig.release(other, "a")
    assert other.poll(["a"])["a"].state is PoolState.EXITED


def test_a_job_that_was_never_there_is_gone_and_not_failed(rig):
    job = rig.open().poll(["a"])["a"]
    assert (job.state, job.exit_code) == (PoolState.GONE, None)


@pytest.mark.parametrize("hard", [False, True])
def test_a_killed_job_ends_and_killing_again_is_harmless(rig, hard):
    pool = rig.open()
    pool.submit("a", rig.message(wait=True), RESOURCES)
    rig.until(lambda: rig.runs() == 1)  # a signal at the moment of the fork can be lost: the engine asks each round
    pool.kill("a", hard=hard)
    job = ended(rig, pool, "a")
    assert job.state is PoolState.GONE or job.exit_code in (-9, -15)
    pool.kill("a", hard=hard)
    pool.kill("never there")


def test_capacity_counts_what_runs(rig):
    pool = rig.open()
    rig.until(lambda: pool.capacity() == 2)  # slots of former jobs are given back a moment later
    pool.submit("a", rig.message(wait=True), RESOURCES)
    assert rig.open().capacity() == 1
    rig.release(pool, "a")
    rig.until(lambda: pool.capacity() == 2)


def test_many_are_submitted_at_once_and_adopted_with_what_is_new(rig):
    pool = rig.open()
    message = rig.message()
    requests = [JobRequest(key=key, message=message, resources=RESOURCES) for key in "abc"]
    first = pool.submit_many(requests[:2])
    both = rig.open().submit_many(requests)
    assert {key: both[key] for key in "ab"} == first
    for key in "abc":
        assert ended(rig, pool, key).exit_code == 0
    assert rig.runs() == 3


def test_a_held_job_is_held_until_its_release_or_its_end(rig):
    pool = rig.open()
    pool.submit("a", rig.message(wait=True), RESOURCES)
    rig.until(lambda: rig.runs() == 1)
    pool.hold(["a"], "lunch")
    rig.until(lambda: pool.poll(["a"])["a"].state is PoolState.HELD)
    assert pool.why("a").startswith("HELD")
    pool.release(["a"])
    rig.until(lambda: pool.poll(["a"])["a"].state is PoolState.RUNNING)
    assert "RUNNING" in pool.why("a")
    pool.hold(["a"], "lunch")
    rig.until(lambda: pool.poll(["a"])["a"].state is PoolState.HELD)
    pool.kill_many(["a"])
    assert ended(rig, pool, "a").exit_code in (None, -15)


def test_a_change_of_priority_is_harmless_for_what_runs_or_is_gone(rig):
    pool = rig.open()
    pool.submit("a", rig.message(wait=True), RESOURCES)
    pool.change_priority(["a", "never there"], 7)
    rig.until(lambda: pool.poll(["a"])["a"].state is PoolState.RUNNING)
    rig.release(pool, "a")


def test_an_ended_job_can_be_forgotten_and_a_running_one_cannot(rig):
    pool = rig.open()
    pool.submit("a", rig.message(wait=True), RESOURCES)
    pool.forget("a")
    rig.until(lambda: pool.poll(["a"])["a"].state is PoolState.RUNNING)
    rig.release(pool, "a")
    pool.forget("a")
    assert pool.poll(["a"])["a"].state in POOL_ENDED  # a schedd's history may still know it
    assert not list(rig.folder.glob("jobs/**/a*"))


def test_a_silent_pool_knows_nothing_and_fails_nothing():
    pool = FakePool()
    pool.silent = True
    assert pool.poll(["a"])["a"].state is PoolState.UNKNOWN
    assert pool.capacity() == 0


@pytest.mark.kill
def test_a_local_job_survives_the_process_that_submitted_it(tmp_path):
    rig = LocalRig(tmp_path)
    message = rig.message(wait=True)
    pid = os.fork()
    if pid == 0:
        try:
            rig.open().submit("a", message, RESOURCES)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    pool = rig.open()
    assert pool.poll(["a"])["a"].state is PoolState.RUNNING
    rig.release(pool, "a")
    assert pool.poll(["a"])["a"].exit_code == 0


def test_another_process_with_the_pid_of_a_dead_job_is_not_mistaken_for_it(tmp_path):
    rig = LocalRig(tmp_path)
    pool = rig.open()
    folder = tmp_path / "jobs" / "a"
    folder.mkdir()
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (folder / "record").write_text(f"{sleeper.pid} {sleeper.pid} 1\n")  # of a process that began at boot
        assert pool.poll(["a"])["a"].state is PoolState.GONE
        pool.kill("a", hard=True)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_two_engines_that_submit_one_key_at_once_start_it_once(tmp_path):
    rig = LocalRig(tmp_path)
    message = rig.message(wait=True)
    pids = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                rig.open().submit("a", message, RESOURCES)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids] == [0] * 6
    pool = rig.open()
    rig.until(lambda: rig.runs() >= 1)
    rig.release(pool, "a")
    assert rig.runs() == 1


@pytest.mark.kill
def test_a_job_whose_shell_is_killed_is_running_until_its_own_process_ends(tmp_path):
    rig = LocalRig(tmp_path)
    pool = rig.open()
    pool.submit("a", rig.message(wait=True), RESOURCES)
    rig.until(lambda: rig.runs() == 1)
    os.kill(int((tmp_path / "jobs" / "a" / "record").read_text().split()[0]), signal.SIGKILL)
    rig.until(lambda: not Path(f"/proc/{(tmp_path / 'jobs' / 'a' / 'record').read_text().split()[0]}").exists())
    assert pool.poll(["a"])["a"].state is PoolState.RUNNING
    pool.kill("a", hard=True)
    rig.until(lambda: pool.poll(["a"])["a"].state is PoolState.GONE)

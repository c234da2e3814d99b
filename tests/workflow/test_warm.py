"""Which job goes to which warm worker, with a pool behind that does as it is told; real workers: test_warm_workers.py."""

from __future__ import annotations

import json

import pytest

from backbone.endpoints import open_endpoint
from backbone.errors import TransientError
from workflow.errors import PoolUnavailable
from workflow.job import CLOSED, Done, done_key, heartbeat_key, mail_key
from workflow.pools.fake import FakePool
from workflow.pools.pool import PoolJob, PoolState, Resources
from workflow.pools.warm import WarmPool

SMALL, LARGE = Resources(memory_mb=100), Resources(memory_mb=1000)


class Queue(FakePool):
    """Jobs beyond the slots wait."""

    def submit(self, key, message, resources):
        running = sum(job.state is PoolState.RUNNING for job in self._jobs.values())
        taken = super().submit(key, message, resources)
        if running >= self._slots and key == self.submissions[-1]:
            self._jobs[key] = PoolJob(key=key, state=PoolState.PENDING)
        return taken

    def capacity(self, group=""):
        return super().capacity(group) + 1


class Rig:
    def __init__(self, folder, slots=2):
        self.folder, self.slots, self.now = folder, slots, 0.0
        self.endpoint = open_endpoint(str(folder / "objects"), name="here")
        self.behind = Queue(slots=slots)
        self.message = folder / "message.json"
        self.pool = self.open()

    def open(self):
        how = {"slots": self.slots, "idle_s": 600, "clock": lambda: self.now}
        return WarmPool(self.behind, self.folder / "workers", endpoint=lambda: self.endpoint, **how)

    def send(self, key, resources=SMALL, **words):
        self.message.write_text(json.dumps({"attempt": key, **words}))
        return self.pool.submit(key, self.message, resources)

    def does(self, worker, number=0, *, code=0, host="h1.example.org"):
        """What a worker writes when it has done a job."""
        self.endpoint.put(done_key(worker, number), Done(exit_code=code, host=host).model_dump_json().encode())

    def mail(self, worker, number):
        found = self.endpoint.get(mail_key(worker, number))
        return found if found == CLOSED else json.loads(found)["attempt"]

    def state(self, key):
        return self.pool.poll([key])[key]


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_a_job_goes_to_the_worker_that_is_idle_and_to_a_new_one_where_none_is(rig):
    assert (rig.send("a"), rig.send("b")) == ("fake-a", "fake-b")
    rig.does("b")
    assert rig.send("c") == "fake-b#1"
    assert rig.mail("b", 1) == "c"
    assert rig.behind.submissions == ["a", "b"]
    assert [rig.state(key).state for key in "abc"] == [PoolState.RUNNING, PoolState.EXITED, PoolState.RUNNING]
    rig.does("b", 1, code=4)
    assert (rig.state("c").state, rig.state("c").exit_code) == (PoolState.EXITED, 4)


def test_only_the_first_job_of_a_worker_is_told_to_stay(tmp_path):
    seen = []
    rig = Rig(tmp_path)
    rig.behind._run = lambda message: seen.append(json.loads(message.read_text())["stay"]["idle_s"])
    rig.send("a")
    rig.does("a")
    rig.send("b")
    assert seen == [600]
    assert "stay" not in json.loads(rig.endpoint.get(mail_key("a", 1)))


def test_a_job_given_twice_by_two_engines_is_given_once(rig):
    rig.send("a")
    rig.does("a")
    rig.send("b")
    rig.pool = rig.open()
    assert rig.send("b") == "fake-a#1"
    assert rig.send("a") == "fake-a"
    assert rig.behind.submissions == ["a"]
    with pytest.raises(FileNotFoundError):
        rig.mail("a", 2)


def test_a_worker_that_closed_a_moment_ago_gets_no_job_and_the_job_gets_another(rig):
    rig.send("a")
    rig.does("a")
    rig.endpoint.put(mail_key("a", 1), CLOSED)
    assert rig.send("b") == "fake-b"
    assert rig.state("b").state is PoolState.RUNNING


def test_a_job_whose_worker_died_before_it_looked_is_preempted_and_one_that_had_begun_is_not(rig):
    rig.send("a")
    rig.does("a")
    rig.send("b")
    rig.behind.end("a", -9)
    assert (rig.state("b").state, rig.state("b").failure) == (PoolState.GONE, "preempted")
    rig.endpoint.put(heartbeat_key("b"), b"1")
    assert (rig.state("b").state, rig.state("b").exit_code) == (PoolState.EXITED, -9)
    assert rig.state("a").exit_code == 0, "it had ended well before its worker died"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (LARGE, {}),
        (Resources(memory_mb=100, group="cpp"), {}),
        (Resources(memory_mb=100, cpus=2), {}),
        (Resources(memory_mb=100, never_machines=("h1",)), {}),
        (Resources(memory_mb=100, only_machines=("h2",)), {}),
        (SMALL, {"interpreter": "/other/python"}),
    ],
)
def test_a_worker_of_another_kind_is_not_taken_and_ends_only_where_it_is_in_the_way(rig, asked, words):
    rig.send("a")
    rig.does("a")
    assert rig.send("b", asked, **words) == "fake-b"
    with pytest.raises(FileNotFoundError):
        rig.mail("a", 1)
    rig.send("c", asked, **words)
    assert rig.mail("a", 1) == CLOSED, "both slots have workers, and this one is of no use"


def test_a_smaller_job_may_have_a_larger_worker(rig):
    rig.send("a", LARGE)
    rig.does("a")
    assert rig.send("b") == "fake-a#1"


def test_capacity_is_idle_workers_and_room_for_new_ones(rig):
    assert rig.pool.capacity("drp") == 2
    rig.send("a")
    assert rig.pool.capacity("drp") == 1
    rig.send("b")
    assert rig.pool.capacity("drp") == 0, "none waits behind a worker that may stay"
    rig.does("a")
    assert rig.pool.capacity("drp") == 1
    assert rig.pool.capacity("cpp") == 2, "an earlier class may replace it, and one more may wait for the other"


def test_a_worker_rests_no_longer_where_a_job_of_an_earlier_class_waits(rig):
    for key in "ab":
        rig.send(key)
    assert rig.pool.capacity("cpp") == 1
    rig.send("c", Resources(memory_mb=100, group="cpp"))
    assert rig.pool.capacity("cpp") == 0
    rig.does("b")
    assert rig.pool.capacity("drp") == 0
    assert rig.mail("b", 1) == CLOSED


@pytest.mark.parametrize(("group", "gives_way"), [("cpp", True), ("prompt", False)])
def test_a_worker_of_an_earlier_class_gives_way_to_a_later_one_once_it_has_rested_and_the_nights_own_never(
    group, gives_way, tmp_path
):
    rig = Rig(tmp_path, slots=1)
    rig.send("a", Resources(memory_mb=100, group=group))
    rig.does("a")
    assert (rig.pool.capacity("drp"), rig.pool.capacity(group)) == (0, 1)
    rig.now = 11.0
    assert rig.pool.capacity("drp") == int(gives_way)
    if gives_way:
        rig.send("b")
        assert rig.mail("a", 1) == CLOSED
        assert rig.pool.capacity("drp") == 0, "its slot is taken"


def test_of_several_workers_that_may_give_way_the_one_of_the_last_class_does(rig):
    for key, group in (("a", "offline"), ("b", "cpp")):
        rig.send(key, Resources(memory_mb=100, group=group))
        rig.does(key)
    rig.pool.capacity("drp")
    rig.now = 11.0
    rig.send("c")
    assert rig.mail("b", 1) == CLOSED
    with pytest.raises(FileNotFoundError):
        rig.mail("a", 1)


def test_to_kill_a_job_ends_its_worker_and_to_kill_one_that_has_ended_does_not(rig):
    rig.send("a")
    rig.does("a")
    rig.send("b")
    rig.pool.kill("a")
    assert rig.behind.killed == []
    rig.pool.kill("b", hard=True)
    assert rig.behind.killed == ["a"]
    rig.does("a", 1)
    assert rig.send("c") == "fake-c", "who was told to end is given nothing more"


def test_what_a_worker_leaves_goes_when_all_its_jobs_are_forgotten_and_it_has_ended(rig):
    rig.send("a")
    rig.does("a")
    rig.send("b")
    rig.does("a", 1)
    rig.pool.forget("a")
    rig.pool.forget("b")
    assert rig.state("a").state is PoolState.RUNNING, "only the pool behind still knows it: the worker"
    assert rig.send("c") == "fake-a#2"
    rig.does("a", 2)
    rig.behind.end("a", 0)
    rig.pool.forget("c")
    assert list(rig.endpoint.list("_w/")) == []
    assert rig.state("a").state is PoolState.GONE
    assert not list((rig.folder / "workers").glob("*.json"))


def test_a_mailbox_that_cannot_be_read_makes_jobs_unknown_and_takes_none(rig, monkeypatch):
    rig.send("a")

    def silent(_key):
        raise TransientError("not today")

    monkeypatch.setattr(rig.endpoint, "get", silent)
    assert rig.state("a").state is PoolState.UNKNOWN
    assert rig.pool.capacity() == 0
    with pytest.raises(PoolUnavailable, match="not today"):
        rig.send("b")

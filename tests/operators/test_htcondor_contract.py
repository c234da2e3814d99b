"""What every schedd keeps to: the fake that the other tests use, and a real one over its child process."""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import psutil
import pytest

from operators.htcondor.description import CondorJob
from operators.htcondor.fake import FakeSchedd
from operators.htcondor.key import TaskKey
from operators.htcondor.remote import RemoteSchedd
from operators.htcondor.schedd import Action, ScheddRefused, ScheddUnavailable, SubmitRefused
from operators.htcondor.server import kind_of
from operators.htcondor.settings import PoolConnectionError, PoolSettings, from_parts
from operators.htcondor.states import JobState

# Says that it ran, waits for its file `go` if it is told to, exits as told.
JOB = """
import os, sys, time
folder, wait, code = sys.argv[1:4]
open(os.path.join(folder, "runs"), "a").write("x")
while wait == "wait" and not os.path.exists(os.path.join(folder, "go")): time.sleep(0.02)
print("said", os.environ["WORD"])
if int(code) < 0: os.kill(os.getpid(), -int(code))
sys.exit(int(code))
"""
LIMIT_S = 60


class Rig:
    """A schedd, and the means to make and end its jobs."""

    pool = PoolSettings(collector="fake")

    def __init__(self, folder, schedd):
        self.folder, self.schedd = folder, schedd

    def task(self, name="t", **more):
        return TaskKey(instance="test", dag_id=self.folder.name, run_id="r", task_id=name, **more)

    def commands(self, task, *, wait=True, code=0, word="hello"):
        folder = self.folder / task.digest()
        folder.mkdir(exist_ok=True)
        (folder / "job.py").write_text(JOB)
        job = CondorJob(
            executable=sys.executable,
            arguments=["-S", str(folder / "job.py"), str(folder), "wait" if wait else "go", str(code)],
            environment={"WORD": word},
            memory_mb=32,
            disk_mb=1,
        )
        return job.commands(folder=str(folder), pool=self.pool, attributes=task.attributes())

    def submit(self, task, **how):
        return self.schedd.submit(task.digest(), self.commands(task, **how), spool=self.pool.files == "spool")

    def until(self, task, *states):
        limit = time.monotonic() + LIMIT_S
        while True:
            job = self.schedd.find([task.digest()]).get(task.digest())
            if job is not None and job.state in states:
                return job
            assert time.monotonic() < limit, f"waited too long for {states}: {job}"
            time.sleep(0.05)  # another process must come to it

    def past(self, task):
        limit = time.monotonic() + LIMIT_S
        while (job := self.schedd.past(task.digest())) is None:
            assert time.monotonic() < limit, "the history never had it"
            time.sleep(0.05)  # the history lags
        return job


class FakeRig(Rig):
    def __init__(self, folder):
        super().__init__(folder, FakeSchedd())

    def end(self, task, code=0):
        self.schedd.end(task.digest(), code)

    def runs(self, task):
        return sum(c["My.AirflowJobKey"] == f'"{task.digest()}"' for c in self.schedd.commands.values())


class RealRig(Rig):
    def __init__(self, folder, settings):
        super().__init__(folder, RemoteSchedd(settings))
        self.pool = settings

    def end(self, task, code=0):
        (self.folder / task.digest() / "go").touch()

    def runs(self, task):
        path = self.folder / task.digest() / "runs"
        return len(path.read_text()) if path.exists() else 0


@pytest.fixture(params=["fake", "real"])
def rig(request, tmp_path):
    if request.param == "fake":
        yield FakeRig(tmp_path)
        return
    made = RealRig(tmp_path, request.getfixturevalue("condor"))
    yield made
    made.schedd.close()


@pytest.fixture
def real(condor, tmp_path):
    made = RealRig(tmp_path, condor)
    yield made
    made.schedd.close()


def settings_like(settings, **changes):
    return settings.model_copy(update=changes)


def test_a_job_ends_with_its_exit_code_and_stays_known_until_it_is_acknowledged(rig):
    task = rig.task()
    job_id = rig.submit(task, code=7)
    rig.until(task, JobState.RUNNING)
    rig.end(task, 7)
    job = rig.until(task, JobState.COMPLETED)
    assert (job.job_id, job.key, job.exit_code, job.waits) == (job_id, task.digest(), 7, False)
    rig.schedd.acknowledge(job_id)
    assert rig.schedd.find([task.digest()]) == {}
    past = rig.past(task)
    assert (past.job_id, past.exit_code) == (job_id, 7)


def test_a_death_by_signal_is_told_from_an_exit(rig):
    task = rig.task()
    rig.submit(task, wait=False, code=-9)
    if isinstance(rig, FakeRig):
        rig.end(task, -9)
    assert rig.until(task, JobState.COMPLETED).exit_code == -9


def test_a_key_submitted_again_is_adopted_running_and_ended_until_it_is_acknowledged(rig):
    task = rig.task()
    first = rig.submit(task)
    rig.until(task, JobState.RUNNING)
    assert rig.submit(task) == first
    rig.end(task)
    rig.until(task, JobState.COMPLETED)
    assert rig.submit(task) == first
    assert rig.runs(task) == 1
    rig.schedd.acknowledge(first)
    assert rig.submit(task) != first, "whose end has been noted is done with"


def test_jobs_of_many_keys_are_found_by_one_question_and_no_others(rig):
    tasks = [rig.task(f"t{n}") for n in range(3)]
    ids = [rig.submit(task) for task in tasks]
    asked = [task.digest() for task in tasks[:2]] + ["unknown"]
    assert {key: job.job_id for key, job in rig.schedd.find(asked).items()} == dict(zip(asked, ids[:2], strict=False))
    for task in tasks:
        rig.schedd.act(Action.REMOVE, task.digest(), "the test is over")


def test_hold_and_release_and_remove_do_so_with_their_reason(rig):
    task = rig.task()
    rig.submit(task)
    rig.until(task, JobState.RUNNING)
    assert rig.schedd.act(Action.HOLD, task.digest(), "wait a little") == 1
    held = rig.until(task, JobState.HELD)
    assert "wait a little" in held.reason
    assert not held.waits
    assert rig.schedd.act(Action.RELEASE, task.digest(), "go on") == 1
    assert rig.until(task, JobState.IDLE, JobState.RUNNING).reason == ""
    assert rig.schedd.act(Action.REMOVE, task.digest(), "no longer wanted") == 1
    past = rig.past(task)
    assert (past.state, past.exit_code) == (JobState.REMOVED, None)
    assert "no longer wanted" in past.reason
    assert rig.schedd.act(Action.REMOVE, task.digest(), "again") == 0, "twice is harmless"


def test_removed_job_is_adopted_by_nobody_however_long_it_takes_to_go(rig):
    task = rig.task()
    first = rig.submit(task)
    rig.until(task, JobState.RUNNING)
    rig.schedd.act(Action.REMOVE, task.digest(), "away")
    second = rig.submit(task)
    assert second != first
    assert rig.schedd.find([task.digest()])[task.digest()].job_id == second
    rig.schedd.act(Action.REMOVE, task.digest(), "the test is over")


def test_classad_has_what_a_person_looks_for(rig):
    task = rig.task()
    job_id = rig.submit(task)
    ad = rig.schedd.ad(job_id)
    assert (f"{ad['ClusterId']}.{ad['ProcId']}", ad["AirflowJobKey"]) == (job_id, task.digest())
    assert rig.schedd.ad("99999999.0") is None
    rig.schedd.act(Action.REMOVE, task.digest(), "the test is over")


def test_what_cannot_be_a_job_is_refused(rig):
    task = rig.task()
    commands = rig.commands(task)
    del commands["executable"]
    with pytest.raises(SubmitRefused):
        rig.schedd.submit(task.digest(), commands, spool=False)
    assert rig.schedd.find([task.digest()]) == {}


def test_schedd_says_who_we_are(rig):
    assert rig.schedd.whoami()["identity"].startswith("survey@")


def test_two_workers_that_submit_at_the_same_moment_agree_on_one_job(condor, tmp_path):
    rigs = [RealRig(tmp_path, condor) for _ in range(2)]
    for rig in rigs:
        rig.schedd.whoami()
    together = Barrier(2)

    def submit(rig, task):
        together.wait()
        return rig.submit(task)

    tasks = [rigs[0].task(f"both{n}") for n in range(5)]
    for task in tasks:
        with ThreadPoolExecutor(2) as pool:
            ids = list(pool.map(submit, rigs, [task, task]))
        assert len(set(ids)) == 1
        job = rigs[0].schedd.find([task.digest()])[task.digest()]
        assert job.job_id == ids[0]
        assert rigs[0].schedd.act(Action.REMOVE, task.digest(), "the test is over") == 1, "one job of the key, no more"
    for rig in rigs:
        rig.schedd.close()


def test_spooled_job_brings_its_files_back(condor, tmp_path):
    made = RealRig(tmp_path, settings_like(condor, files="spool"))
    task = made.task("spooled")
    job_id = made.submit(task, wait=False, word='it\'s "$(HOME)" 100% é')
    job = made.until(task, JobState.COMPLETED)
    assert not (tmp_path / task.digest() / "stdout").exists()
    made.schedd.retrieve(job_id)
    assert (tmp_path / task.digest() / "stdout").read_text() == 'said it\'s "$(HOME)" 100% é\n'
    assert job.exit_code == 0
    made.schedd.acknowledge(job_id)
    made.schedd.close()


def test_input_that_cannot_be_sent_leaves_no_job_behind(condor, tmp_path):
    made = RealRig(tmp_path, settings_like(condor, files="spool"))
    task = made.task("unsent")
    commands = {**made.commands(task), "transfer_input_files": str(tmp_path / "is-not-there")}
    with pytest.raises((SubmitRefused, ScheddUnavailable), match="is-not-there"):
        made.schedd.submit(task.digest(), commands, spool=True)
    assert made.schedd.find([task.digest()]) == {}
    made.schedd.close()


def test_schedd_that_does_not_answer_is_unknown_in_time_and_known_again_after(real):
    task = real.task()
    job_id = real.submit(task)
    real.schedd.settings = settings_like(real.pool, timeout_s=2)
    stopped = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "condor_schedd" and _is_of(p, real.pool)]
    assert stopped
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(ScheddUnavailable, match="said nothing for 2 s"):
            real.schedd.find([task.digest()])
        assert time.monotonic() - begun < 15
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)
    real.schedd.settings = real.pool
    assert real.until(task, JobState.IDLE, JobState.RUNNING).job_id == job_id
    real.schedd.act(Action.REMOVE, task.digest(), "the test is over")


def _is_of(process, pool):
    """Whether a schedd is of this pool: its folder has the pool's port in its configuration."""
    try:
        config = process.environ().get("CONDOR_CONFIG", "")
        return bool(config) and pool.collector.rpartition(":")[2] in Path(config).read_text()
    except (psutil.Error, OSError):
        return False


def test_client_that_is_killed_is_replaced(real):
    task = real.task()
    real.schedd.whoami()
    os.kill(real.schedd._child.pid, signal.SIGKILL)
    real.schedd._child.wait()
    assert real.schedd.find([task.digest()]) == {}


def test_unreachable_collector_is_unknown(condor):
    lost = RemoteSchedd(settings_like(condor, collector="127.0.0.1:1"))
    with pytest.raises(ScheddUnavailable, match=r"nothing answers at 127\.0\.0\.1:1"):
        lost.find(["k"])
    lost.close()


def test_schedd_that_the_collector_does_not_know_is_named(condor):
    lost = RemoteSchedd(settings_like(condor, schedd="nobody@nowhere"))
    with pytest.raises(ScheddUnavailable, match="nobody@nowhere"):
        lost.find(["k"])
    lost.close()


def test_wrong_token_is_refused_and_says_so(condor, tmp_path):
    (tmp_path / "tokens").mkdir(mode=0o700)
    for path in Path(condor.token_directory).iterdir():
        head, body, signature = path.read_text().strip().split(".")
        turned = signature[:-8] + signature[-8:][::-1]
        (tmp_path / "tokens" / path.name).write_text(f"{head}.{body}.{turned}\n")
        (tmp_path / "tokens" / path.name).chmod(0o600)
    stranger = RemoteSchedd(settings_like(condor, token_directory=str(tmp_path / "tokens")))
    with pytest.raises(ScheddRefused, match="is our token of this pool"):
        stranger.whoami()
    stranger.close()


def test_token_by_value_lets_in_and_lies_in_no_file_afterwards(condor, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (file,) = Path(condor.token_directory).iterdir()
    token = file.read_text().strip()
    host, _, port = condor.collector.partition(":")
    by_value = RemoteSchedd(from_parts(host=host, port=int(port), password=token, extra={"trust_domain": condor.trust_domain}))
    assert by_value.whoami()["identity"].startswith("survey@")
    assert token not in " ".join(by_value._child.args)
    (private,) = tmp_path.iterdir()
    assert private.stat().st_mode & 0o077 == 0
    by_value.close()
    assert list(tmp_path.iterdir()) == []
    assert token not in repr(by_value.settings)


def test_tokens_of_another_domain_are_named_before_the_pool_is_asked(condor):
    with pytest.raises(PoolConnectionError, match=rf"no token of trust domain elsewhere .*{condor.trust_domain}"):
        RemoteSchedd(settings_like(condor, trust_domain="elsewhere"))


def test_client_that_answers_nothing_is_ended(condor, tmp_path):
    mute = RemoteSchedd(settings_like(condor, timeout_s=0.2), command=["sleep", "60"])
    with pytest.raises(ScheddUnavailable):
        mute.whoami()
    assert mute._child is None


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("SECMAN:2003:TCP connection to schedd at <127.0.0.1:9618> failed.", "unavailable"),
        ("SECMAN:2004:Failed to create security session to <127.0.0.1:9618> with TCP.", "unavailable"),
        ("SECMAN:2004:Failed to create security session|AUTHENTICATE:1004:Failed to authenticate using IDTOKENS", "refused"),
        ('SECMAN:2010:Received "DENIED" from server for user survey@ncsa', "refused"),
        ("MAX_JOBS_SUBMITTED would be exceeded", "unavailable"),
        ("nobody has seen this before", "unavailable"),
    ],
)
def test_a_schedd_that_is_gone_or_started_anew_is_no_refusal(said, kind):
    assert kind_of(said, submitting=False) == kind

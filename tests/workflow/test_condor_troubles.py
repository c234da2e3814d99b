"""What a real pool does when something is wrong: the words that reach a person, and what the engine may conclude."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.workflow.real_pool import SMALL, daemon, requests, states, until
from workflow.errors import PoolRefused, PoolUnavailable, SettingsError
from workflow.pools.holds import BY_HAND, RELEASES, hold_of
from workflow.pools.holds import HOLDS as HOLDS_BY_CODE
from workflow.pools.holds import words as in_words
from workflow.pools.pool import PoolState, Resources

EATER = "import time\nblock = bytearray(900 << 20)\nfor i in range(0, len(block), 4096): block[i] = 1\ntime.sleep(60)"
HOLDS = {
    "program not there": ({"executable": "/nowhere/python"}, {}, None, "could not be started"),
    "folder not there": ({"initialdir": "{folder}/iwd", "log": "{folder}/log", "hold": "true"}, {}, None, "iwd"),
    "output refused": ({"output": "/nowhere/out"}, {}, None, "/nowhere/out"),
    "input not there": ({"transfer_input_files": "{folder}/never"}, {"files": "transfer"}, None, "never"),
    "output not there": ({"transfer_output_files": "never"}, {"files": "transfer"}, None, "never"),
    "too much memory": ({}, {"program": EATER}, "out_of_memory", "MB of memory, asked for 512"),
    "rule of the job": (
        {"periodic_hold": "JobStatus == 2", "periodic_hold_reason": '"too late"', "periodic_hold_subcode": "7"},
        {},
        "infrastructure",
        "too late",
    ),
}


@pytest.mark.parametrize("case", HOLDS)
def test_a_hold_says_what_is_wrong_and_what_lasts_is_its_class_of_failure(case, opened, message, tmp_path):
    commands, how, failure, words = HOLDS[case]
    over = {name: value.format(folder=tmp_path) for name, value in commands.items()}
    pool = opened(over=over, **{"program": "import time; time.sleep(30)" if "periodic_hold" in over else "", **how})
    (tmp_path / "iwd").mkdir()
    pool.submit("a", message, SMALL)
    if "hold" in over:
        until(lambda: pool.poll(["a"])["a"].state is PoolState.HELD)
        (tmp_path / "iwd").rmdir()
        pool.release(["a"])
        until(lambda: words in pool.poll(["a"])["a"].reason)  # between its holds it is free for less than a poll may see
    until(lambda: pool.poll(["a"])["a"].state is PoolState.HELD)
    job = pool.poll(["a"])["a"]
    assert words in job.reason
    assert words in pool.why("a")
    assert job.failure == failure
    pool.kill("a")
    until(lambda: pool.poll(["a"])["a"].state is PoolState.GONE)
    gone = pool.poll(["a"])["a"]
    assert words in gone.reason
    assert gone.failure == failure


def test_a_hold_whose_cause_passes_is_tried_again_before_it_is_a_failure():
    retried, told = HOLDS_BY_CODE[13], HOLDS_BY_CODE[BY_HAND]
    assert [retried.lasting(n) for n in range(1, RELEASES + 2)] == [None] * RELEASES + ["infrastructure"]
    assert told.lasting(99) is None


def test_a_hold_that_nobody_has_seen_before_is_infrastructure_and_shows_its_reason():
    assert hold_of(999, 0).lasting(1) == "infrastructure"
    assert "no paper in the printer" in in_words(999, 0, "no paper\n in the printer")


def test_an_unreachable_collector_is_unknown_and_nothing_is_failed_or_sent_twice(opened, message, condor):
    lost = opened(collector="127.0.0.1:1")
    with pytest.raises(PoolUnavailable, match=r"127\.0\.0\.1:1"):
        lost.submit("a", message, SMALL)
    job = lost.poll(["a"])["a"]
    assert job.state is PoolState.UNKNOWN
    assert "127.0.0.1:1" in job.reason
    assert lost.capacity() == 0
    assert lost.why("a").startswith("UNKNOWN")
    found = opened()  # the same home, the collector's address mended
    until(lambda: submitted(found, message))
    until(lambda: found.poll(["a"])["a"].state is PoolState.EXITED)


def submitted(pool, message):
    try:
        return bool(pool.submit("a", message, SMALL))
    except PoolUnavailable:
        return False


ASK = """
import sys
from pathlib import Path
from workflow.errors import PoolRefused
from workflow.pools.htcondor import CondorPool
from workflow.pools.pool import Resources
from workflow.pools.settings import HTCondorPool
folder, tokens, address = sys.argv[1:]
settings = HTCondorPool(kind="htcondor", slots=2)
pool = CondorPool(Path(folder), settings, name="ncsa", collector=lambda: address, tokens=Path(tokens))
print(pool.poll(["never"])["never"].state)
try:
    pool.submit("a", Path(folder) / "message.json", Resources(memory_mb=100))
except PoolRefused as error:
    print(error)
print(pool.poll(["a"])["a"].state, pool.capacity())
"""


@pytest.mark.parametrize("token", ["forged", "none at all", "of the other pool"])
def test_a_wrong_token_is_refused_in_words_and_what_runs_is_unknown(token, condor, tmp_path):
    address = condor.address("ncsa")
    (tmp_path / "tokens").mkdir(mode=0o700)
    if token != "none at all":
        text = (condor.tokens / "ncsa").read_text().strip()
        if token == "of the other pool":
            condor.address("ccin2p3")
            text = (condor.tokens / "ccin2p3").read_text().strip()
        else:
            text = text[:-10] + text[-10:][::-1]
        (tmp_path / "tokens" / "mine").touch(mode=0o600)
        (tmp_path / "tokens" / "mine").write_text(text + "\n")
    (tmp_path / "message.json").write_text("{}")
    # In a process of its own: this one's sessions with the pool let in whoever has them.
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path), str(tmp_path / "tokens"), address], capture_output=True, text=True, check=True
    )
    before, words, after = done.stdout.splitlines()
    assert before == "UNKNOWN"
    assert "not let in" in words
    assert "token" in words
    assert after == "UNKNOWN 0"


@pytest.fixture
def limited(condor):
    """The pool with one more line of configuration, until the end of the test."""
    server = condor.server("ncsa")
    path = server.folder / "condor_config"
    before = path.read_text()

    def limit(line):
        path.write_text(f"{before}\n{line}\n")
        assert server.command("condor_reconfig", "-schedd").returncode == 0

    yield limit
    path.write_text(before)
    server.command("condor_reconfig", "-schedd")


def test_a_schedd_that_takes_no_more_says_so_and_takes_it_when_there_is_room(opened, message, limited, condor):
    pool = opened(program="import time; time.sleep(30)")
    pool.submit("first", message, SMALL)
    limited("MAX_JOBS_PER_OWNER = 1")
    until(lambda: refused(pool, message))
    with pytest.raises(PoolRefused, match=r"takes no more.*MAX_JOBS_PER_OWNER"):
        pool.submit("a", message, SMALL)
    assert pool.poll(["a"])["a"].state is PoolState.UNKNOWN
    assert pool.poll(["first"])["first"].state in (PoolState.PENDING, PoolState.RUNNING)
    pool.kill("first")
    until(lambda: submitted(pool, message))


def refused(pool, message):
    try:
        pool.submit(f"probe-{time.monotonic_ns()}", message, SMALL)
    except PoolRefused:
        return True
    return False


@pytest.mark.kill
def test_a_schedd_that_stands_still_is_unknown_in_time_and_knows_the_job_again_after(opened, message, condor):
    pool = opened(program="import time; time.sleep(60)", answer_s=2)
    pool.submit("a", message, SMALL)
    schedd = daemon(condor.server("ncsa"), "condor_schedd")
    schedd.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        until(lambda: pool.poll(["a"])["a"].state is PoolState.UNKNOWN)
        with pytest.raises(PoolUnavailable):
            pool.submit("b", message, SMALL)
        assert time.monotonic() - began < 30
    finally:
        schedd.send_signal(signal.SIGCONT)
    until(lambda: pool.poll(["a"])["a"].state in (PoolState.PENDING, PoolState.RUNNING))
    pool.kill("a")
    until(lambda: pool.poll(["a"])["a"].state is PoolState.GONE)


@pytest.mark.kill
def test_a_job_outlives_its_schedd_and_runs_once(opened, message, condor, tmp_path):
    pool = opened(program=f"import time; open({str(tmp_path / 'runs')!r}, 'a').write('x'); time.sleep(3)")
    name = pool.submit("a", message, SMALL)
    until(lambda: pool.poll(["a"])["a"].state is PoolState.RUNNING)
    daemon(condor.server("ncsa"), "condor_schedd").kill()
    assert pool.poll(["a"])["a"].state not in (PoolState.GONE, PoolState.EXITED)
    until(lambda: pool.poll(["a"])["a"].state is PoolState.EXITED)
    assert pool.submit("a", message, SMALL) == name
    assert (tmp_path / "runs").read_text() == "x"


def test_a_submission_whose_answer_was_lost_is_adopted(opened, message, monkeypatch, tmp_path):
    pool = opened(program=f"open({str(tmp_path / 'runs')!r}, 'a').write('x')")
    submit = pool._daemons.submit
    taken = []

    def lose(*args, **how):
        taken.append(submit(*args, **how))
        raise PoolUnavailable("the line was cut")

    monkeypatch.setattr(pool._daemons, "submit", lose)
    with pytest.raises(PoolUnavailable, match="cut"):
        pool.submit("a", message, SMALL)
    other = opened(program=f"open({str(tmp_path / 'runs')!r}, 'a').write('x')")
    assert other.submit("a", message, SMALL) == f"{taken[0]}.0"
    until(lambda: other.poll(["a"])["a"].state is PoolState.EXITED)
    assert (tmp_path / "runs").read_text() == "x"


PATIENT = """
import sys, pathlib, time
while not pathlib.Path(sys.argv[1]).with_name("go").exists(): time.sleep(.05)
sys.exit(5)
"""


def test_a_job_whose_log_was_lost_is_found_in_queue_and_history(opened, message, tmp_path):
    pool = opened(program=PATIENT)
    pool.submit("a", message, SMALL)
    until(lambda: pool.poll(["a"])["a"].state is PoolState.RUNNING)
    (log,) = tmp_path.glob("jobs/dispatches/*/log")
    log.unlink()
    other = opened(program=PATIENT)
    until(lambda: other.poll(["a"])["a"].state is PoolState.RUNNING)
    (log.parent / "go").touch()
    until(lambda: other.poll(["a"])["a"].state is PoolState.EXITED)
    assert other.poll(["a"])["a"].exit_code == 5


def test_a_job_that_no_machine_can_take_says_what_it_lacks(opened, message):
    pool = opened()
    pool.submit("large", message, Resources(memory_mb=10**6))
    pool.submit("nowhere", message, Resources(memory_mb=100, only_machines=("elsewhere",)))
    until(lambda: "no slot of" in pool.why("large"))
    assert "1000448 MB" in pool.why("large")
    until(lambda: "requirements" in pool.why("nowhere"))
    assert "elsewhere" in pool.why("nowhere")


def test_where_a_job_runs_says_since_when_and_whether_it_was_started_before(opened, message):
    pool = opened(program="import time; time.sleep(60)")
    pool.submit("a", message, SMALL)

    def runs(times):
        until(lambda: pool.poll(["a"])["a"].state is PoolState.RUNNING and ("started" in pool.why("a")) == (times > 1))
        return pool.why("a")

    assert re.fullmatch(r"RUNNING at ncsa: runs on \S+@\S+ since 2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d UTC", runs(1))
    pool._daemons.act("VacateFast", f'PachonPool == "{pool._sent.id}"', "its slot is needed")
    assert runs(2).endswith("UTC, started 2 times: before it was evicted, or its machine was lost")


def test_a_machine_to_keep_away_from_is_known_by_the_name_that_jobs_report(opened, message):
    pool = opened()
    pool.submit("a", message, Resources(memory_mb=100, never_machines=(socket.gethostname(),)))
    pool.submit("b", message, Resources(memory_mb=100, only_machines=(socket.gethostname(),)))
    until(lambda: pool.poll(["b"])["b"].state is PoolState.EXITED)
    assert pool.poll(["a"])["a"].state is PoolState.PENDING


@pytest.mark.parametrize("files", ["transfer", "spool"])
def test_messages_reach_jobs_that_share_no_files_with_us(files, opened, message):
    message.write_text('{"code": 6}')
    pool = opened(program="import json, sys; sys.exit(json.load(open(sys.argv[1]))['code'])", files=files)
    pool.submit("a", message, SMALL)
    until(lambda: pool.poll(["a"])["a"].state is PoolState.EXITED)
    assert pool.poll(["a"])["a"].exit_code == 6
    pool.forget("a")
    assert pool.keys() == ()


def test_thousands_are_one_cluster_that_becomes_jobs_as_they_can_run(opened, message):
    pool = opened(program="import time; time.sleep(60)", idle_ceiling=300)
    keys = [f"k{n}" for n in range(1000)]
    names = pool.submit_many(requests(keys, message, "drp"))
    assert len({name.split(".")[0] for name in names.values()}) == 1
    until(lambda: PoolState.RUNNING in states(pool, keys[:10]))
    assert set(states(pool, keys)) <= {PoolState.PENDING, PoolState.RUNNING}
    assert len(pool._daemons.query(f'PachonPool == "{pool._sent.id}" && JobStatus == 1')) <= 310
    assert pool.capacity() == 0
    pool.kill_many(keys)
    until(lambda: set(states(pool, keys)) == {PoolState.GONE})


def test_data_becomes_neither_macro_nor_command(opened, message, tmp_path):
    pool = opened(
        program=f"import os; open({str(tmp_path / 'said')!r}, 'w').write(os.environ['WORD'])",
        environment={"WORD": 'it\'s "$(HOME)" $x'},
    )
    pool.submit("a", message, SMALL)
    until(lambda: pool.poll(["a"])["a"].state is PoolState.EXITED)
    assert (tmp_path / "said").read_text() == 'it\'s "$(HOME)" $x'
    with pytest.raises(SettingsError, match="another command"):
        opened(environment={"A": "1\nqueue"}).submit("b", message, SMALL)
    with pytest.raises(SettingsError, match="machine's value"):
        opened(environment={"A": "$$(Cpus)"}).submit("b", message, SMALL)
    with pytest.raises(SettingsError, match="job key"):
        pool.submit("../a", message, SMALL)

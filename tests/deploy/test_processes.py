import os
import signal
import sys

import psutil
import pytest

from deploy.processes import MARK, ProcessDied, Program, end, marked

# Says that it is ready, leaves a child in a group of its own as Airflow's task runners do, and waits.
FAMILY = """
import os, sys, time
if os.fork() == 0:
    os.setpgid(0, 0)
print("ready", os.getpid(), flush=True)
time.sleep(600)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def make(tmp_path):
    made = []

    def one(code, name="one"):
        program = Program(name, (sys.executable, "-c", code), dict(os.environ), tmp_path)
        made.append(program)
        return program

    yield one
    end(marked(f"{tmp_path}:"), grace_s=0.1)
    assert all(program.leader() is None for program in made)


def wait_for(program, count=1):
    """Until `count` of its processes have said that they are ready: a blocking read of the log, not a sleep."""
    while program.tail().count("ready") < count:
        program.check()
        os.sched_yield()


def test_started_twice_is_one(make):
    program = make(FAMILY)
    assert program.start() == program.start()


def test_program_outside_its_parents_group_is_found_and_ended(make):
    program = make(FAMILY)
    program.start()
    wait_for(program, 2)
    assert len({os.getpgid(p.pid) for p in program.remains()}) == 2
    assert program.stop(grace_s=5) == 2
    assert program.remains() == []
    assert not program.pid_file.exists()


def test_orphans_of_a_killed_life_are_ended_before_the_next(make):
    program = make(FAMILY)
    first = program.start()
    wait_for(program, 2)
    psutil.Process(first).kill()
    psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=5)
    assert program.leader() is None
    orphans = program.remains()
    assert len(orphans) == 1
    second = program.start()
    assert second != first
    assert not any(orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE for orphan in orphans)


def test_program_that_ignores_sigterm_is_killed(make):
    program = make(STUBBORN)
    program.start()
    wait_for(program)
    program.stop(grace_s=0.05)
    assert program.leader() is None


def test_reused_pid_is_not_ours(make):
    program = make(FAMILY)
    program.pid_file.parent.mkdir()
    program.pid_file.write_text(f'{{"pid": {os.getpid()}, "create_time": 1.0}}')
    assert program.leader() is None


@pytest.mark.parametrize("content", ["", "nonsense", "{}", '{"pid": 1}'])
def test_broken_pid_file_means_not_running(make, content):
    program = make(FAMILY)
    program.pid_file.parent.mkdir()
    program.pid_file.write_text(content)
    assert program.leader() is None


def test_program_that_died_is_reported_with_the_end_of_its_log(make):
    program = make("raise SystemExit('no such database')")
    os.waitpid(program.start(), 0)
    with pytest.raises(ProcessDied, match="no such database"):
        program.check()


def test_stop_ends_nothing_of_another_home(make, tmp_path):
    program = make(FAMILY)
    program.start()
    other = Program("one", program.argv, program.env, tmp_path / "other")
    assert other.stop() == 0
    assert program.leader() is not None


def test_environment_carries_the_mark(make):
    program = make(FAMILY)
    pid = program.start()
    assert psutil.Process(pid).environ()[MARK] == program.mark
    os.kill(pid, signal.SIGKILL)

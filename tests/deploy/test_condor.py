"""A pool of this machine: nobody comes in without a token, nothing stays behind, a full disk is said and survived."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploy.condor import pool as module
from deploy.condor.pool import CondorServer, PoolFailed
from deploy.debian import MirrorSilent, NoDebianMirror
from workflow.errors import PoolUnavailable
from workflow.pools.htcondor import CondorPool
from workflow.pools.pool import JobRequest, PoolState, Resources
from workflow.pools.settings import HTCondorPool

SETTINGS = HTCondorPool(kind="htcondor", slots=4, reserved=1, reconcile_s=0.5)
SMALL = Resources(memory_mb=100)
PATIENCE_S = 60


@pytest.fixture
def server(tmp_path):
    made = CondorServer(tmp_path, "ncsa", SETTINGS)
    yield made
    made.down()


def start(server):
    try:
        server.up()
    except (NoDebianMirror, MirrorSilent) as error:
        pytest.skip(f"no HTCondor here, and none to be had: {error}")
    except PoolFailed as error:
        if "forbids user namespaces" not in str(error):
            raise
        pytest.skip(str(error))


def client(server, program):
    script = server.home / "job.py"
    script.write_text(program)
    address = (server.folder / "address").read_text().strip()
    command = [sys.executable, "-S", str(script)]
    folder = server.home / "run" / "jobs" / "ncsa"
    return CondorPool(folder, SETTINGS, name="ncsa", collector=lambda: address, tokens=server.token_file.parent, command=command)


def message(server):
    path = server.home / "message.json"
    path.write_text("{}")
    return path


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)  # another process must come to it


def test_nothing_is_left_of_a_pool_that_is_stopped_while_jobs_run(server):
    start(server)
    pool = client(
        server, "import os, subprocess, time\nsubprocess.Popen(['sleep', '300'], start_new_session=True)\ntime.sleep(300)"
    )
    pool.submit("a", message(server), SMALL)
    until(lambda: any("sleep" in p.name() for p in server.leader.children(recursive=True)))
    all_of_it = [server.leader, *server.leader.children(recursive=True)]
    assert server.running()
    assert server.down() == 1
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in all_of_it)
    assert not server.running()
    assert server.down() == 0
    start(server)  # the queue is still there
    assert pool.poll(["a"])["a"].state in (PoolState.UNKNOWN, PoolState.PENDING, PoolState.RUNNING)


@pytest.mark.kill
def test_nothing_is_left_of_a_pool_whose_first_process_is_killed(server):
    start(server)
    all_of_it = [server.leader, *server.leader.children(recursive=True)]
    all_of_it[0].kill()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in all_of_it))
    assert not server.running()
    start(server)
    assert server.running()


def test_a_pool_listens_on_loopback_alone_and_its_secrets_are_its_owners(server):
    start(server)
    daemons = [server.leader, *server.leader.children(recursive=True)]
    listening = {c.laddr.ip for p in daemons for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    secrets = [server.token_file, server.folder / "tokens.d" / "condor", server.folder / "passwords.d" / "POOL"]
    assert {path.stat().st_mode & 0o077 for path in secrets} == {0}
    token = server.token_file.read_text().strip()
    assert not any(token in " ".join(p.cmdline()) for p in daemons)
    assert token not in (server.folder / "condor_config").read_text()


def test_root_where_namespaces_are_forbidden_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    with pytest.raises(PoolFailed, match="run as an ordinary user"):
        module.namespace()


def test_an_ordinary_user_needs_no_namespace(monkeypatch):
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    assert module.namespace() == ()


@pytest.fixture
def small_spool(server, monkeypatch):
    """The server, with a spool of 1 MB of its own."""
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "geteuid", lambda: 0)  # whoever we are: who may mount is root within, and HTCondor must not be
        plain = module.namespace()
    spool = server.folder / "spool"
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    outer = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*outer, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount in a namespace")
    monkeypatch.setattr(module, "namespace", lambda: (*outer, "sh", "-c", mount, str(spool), *plain))
    return server


@pytest.mark.kill
def test_a_full_spool_is_said_and_what_ran_and_waited_goes_on_when_there_is_room(small_spool):
    server = small_spool
    start(server)
    pool = client(server, "import time; time.sleep(5)")
    pool.submit("before", message(server), SMALL)
    until(lambda: pool.poll(["before"])["before"].state is PoolState.RUNNING)
    inside = Path(f"/proc/{_pid(server, 'condor_collector')}/root{server.folder}/spool/fill")
    with pytest.raises(OSError, match="No space"):
        fill(inside)
    many = [JobRequest(key=f"k{n}", message=message(server), resources=SMALL) for n in range(30)]
    with pytest.raises(PoolUnavailable) as told:
        pool.submit_many(many)
    assert "disk" in str(told.value)
    assert pool.poll(["k0"])["k0"].state is PoolState.UNKNOWN
    assert pool.poll(["before"])["before"].state not in (PoolState.GONE, PoolState.HELD)
    inside.unlink()
    until(lambda: _sent(pool, many))
    until(lambda: pool.poll(["before"])["before"].state is PoolState.EXITED)
    assert pool.poll(["k0"])["k0"].state in (PoolState.PENDING, PoolState.RUNNING, PoolState.EXITED)


def fill(path):
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def _sent(pool, requests):
    try:
        return len(set(pool.submit_many(requests).values())) == len(requests)
    except PoolUnavailable:
        return False


def _pid(server, name):
    (found,) = [p.pid for p in server.leader.children(recursive=True) if p.name() == name]
    return found

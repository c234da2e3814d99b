"""Homes with a tiny repository, pools that run the real runner in forks of the test, and a ledger on SQLite and PostgreSQL."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from workflow.campaigns import Campaigns
from workflow.clock import FakeClock
from workflow.context import Context
from workflow.ledger import Ledger
from workflow.pools import htcondor
from workflow.pools.description import description
from workflow.pools.fake import FakePool
from workflow.settings import EngineSettings, LocalPool, Settings, Site

TINY = Path(__file__).parent / "tiny"


@pytest.fixture(scope="session", autouse=True)
def tiny():
    """The module of tiny tasks, importable here and in every process that tests start."""
    sys.path.insert(0, str(TINY))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TINY), *([before] if before else [])])
    import tiny_tasks

    yield tiny_tasks
    sys.path.remove(str(TINY))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def plain_repo(tiny, tmp_path_factory):
    """A repository of two exposures and four detectors, to be copied (it has no absolute paths)."""
    folder = tmp_path_factory.mktemp("plain") / "repo"
    tiny.make_repo(folder, exposures=2, detectors=4)
    return folder


def forked_runner(message: Path) -> int:
    """Do a job in a fork of this process, which has imported everything: 20 ms instead of 3 s."""
    from payloads.runner.supervisor import run_job
    from workflow.job import JobMessage

    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # as in a process of its own, whatever this one has loaded
        code = 99
        try:
            code = run_job(JobMessage.model_validate_json(message.read_text()))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class World:
    """One installation under test."""

    do = staticmethod(forked_runner)

    def __init__(self, home: Path, *, ledger_url: str | None = None, pool=None, engine=None) -> None:
        self.home = home
        values = {"flush_s": 0, "first_quantum_s": 1, "shortest_job_s": 1, **(engine or {})}
        ledger = {} if ledger_url is None else {"ledger": ledger_url}
        self.settings = self.installation(home, engine=EngineSettings(**values), **ledger)
        self.settings.write()
        self.pipeline = home / "tiny.yaml"
        self.clock = FakeClock()
        self.pool = pool or FakePool(slots=1, name="local", run=forked_runner)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.context = Context(self.settings, ledger=self.ledger, clock=self.clock, pools=self.pools())
        self.campaigns = Campaigns(self.settings, context=self.context)

    def installation(self, home, **more):
        """One site; others in test_sites.py."""
        return Settings(home=home, sites=(Site(name="local", pool=LocalPool(slots=2)),), **more)

    def pools(self):
        return {"local": self.pool}

    def production(self, *steps, **more):
        """A production of the tiny pipeline; each step is a dict of which `subset` names the pipeline's."""
        made = [
            {
                "name": s["subset"],
                "inputs": ["in"],
                "where": "instrument='TinyCam'",
                **s,
                "pipeline": f"{self.pipeline}#{s['subset']}",
            }
            for s in steps
        ]
        for step in made:
            del step["subset"]
        return {"production": "tiny", "kind": "cpp", "steps": made, **more}

    def start(self, *steps, name="c1", **more):
        return self.campaigns.start(self.production(*steps, **more), name=name, actor="tester")

    def finish(self, name="c1", rounds=60):
        """Advance until it has ended and left nothing behind."""
        for _ in range(rounds):
            status = self.campaigns.advance(name)
            if status.ended and name not in self.campaigns.live():
                return status
            self.clock.sleep(1)
        raise AssertionError(f"not ended after {rounds} rounds: {status}\n{self.campaigns.report(name)}")

    def rows(self, query):
        return self.ledger.all(query)


@pytest.fixture
def make_world(tmp_path, tiny, plain_repo):
    """Makes installations; `values` as of tiny.make_repo makes a repository of its own."""
    made = []

    def make(*, name="home", exposures=None, detectors=4, values=None, kind=World, **more):
        home = tmp_path / name
        if not home.exists():
            home.mkdir()
            (home / "tiny.yaml").write_text(tiny.PIPELINE)
            if values or exposures:
                tiny.make_repo(home / "repo", exposures=exposures or 1, detectors=detectors, values=values)
            else:
                shutil.copytree(plain_repo, home / "repo")
        made.append(kind(home, **more))
        return made[-1]

    yield make
    for world in made:
        world.ledger.close()


@pytest.fixture
def world(make_world):
    return make_world()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request, tmp_path):
    """Of a new ledger of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/contract.sqlite3"
    return request.getfixturevalue("fresh_database")


@pytest.fixture
def opened(condor, tmp_path, monkeypatch):
    """Makes real pools; `over` replaces submit commands. What they sent is removed at the end."""
    made = []

    def make(*, program="import sys; sys.exit(0)", over=None, **more):
        (tmp_path / "job.py").write_text(program)
        command = [sys.executable, "-S", str(tmp_path / "job.py")]
        if over:
            monkeypatch.setattr(htcondor, "description", lambda *a, **k: {**description(*a, **k), **over})
        made.append(condor.pool(tmp_path / "jobs", command=command, reconcile_s=0.5, **more))
        return made[-1]

    yield make
    for pool in made:
        pool.kill_many(pool.keys())


@pytest.fixture
def message(tmp_path):
    path = tmp_path / "message.json"
    path.write_text("{}")
    return path

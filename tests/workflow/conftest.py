"""Homes with a tiny repository, pools that run the real runner in forks of the test, and a ledger on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest

from workflow.campaigns import Campaigns
from workflow.clock import FakeClock
from workflow.context import Context
from workflow.ledger import Ledger
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
    from lsst.utils.packages import Packages

    known = Packages.fromSystem()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Packages, "fromSystem", lambda: known)  # half a second each time, always the same
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
        self.settings = Settings(
            home=home, sites=(Site(name="local", pool=LocalPool(slots=2)),), engine=EngineSettings(**values), **ledger
        )
        self.settings.write()
        self.pipeline = home / "tiny.yaml"
        self.clock = FakeClock()
        self.pool = pool or FakePool(slots=1, name="local", run=forked_runner)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.context = Context(self.settings, ledger=self.ledger, clock=self.clock, pools={"local": self.pool})
        self.campaigns = Campaigns(self.settings, context=self.context)

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

    def make(*, name="home", exposures=None, detectors=4, values=None, **more):
        home = tmp_path / name
        if not home.exists():
            home.mkdir()
            (home / "tiny.yaml").write_text(tiny.PIPELINE)
            if values or exposures:
                tiny.make_repo(home / "repo", exposures=exposures or 1, detectors=detectors, values=values)
            else:
                shutil.copytree(plain_repo, home / "repo")
        made.append(World(home, **more))
        return made[-1]

    yield make
    for world in made:
        world.ledger.close()


@pytest.fixture
def world(make_world):
    return make_world()


def _postgresql_bin() -> str | None:
    found = shutil.which("initdb")
    if found:
        return str(Path(found).parent)
    folders = sorted(glob("/usr/lib/postgresql/*/bin"))
    return folders[-1] if folders else None


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """SQLAlchemy URL of a private PostgreSQL server; skips, saying why, where there are no binaries."""
    binaries = _postgresql_bin()
    if binaries is None:
        pytest.skip("no PostgreSQL: neither initdb in PATH nor /usr/lib/postgresql/*/bin")
    folder = tmp_path_factory.mktemp("pg")
    # The server refuses to be root: in a user namespace of its own it is an ordinary user, who owns the same files.
    other = ["unshare", "--user", "--map-user=1", "--map-group=1"] if os.geteuid() == 0 else []
    data = folder / "data"
    initdb = [*other, f"{binaries}/initdb", "-D", str(data), "-U", "pachon", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]
    made = subprocess.run(initdb, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no PostgreSQL: initdb failed: {made.stderr.strip()[-300:]}")
    socket = folder / "s"
    socket.mkdir()
    command = [*other, f"{binaries}/postgres", "-D", str(data), "-k", str(socket), "-c", "listen_addresses=", "-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"postgresql+psycopg2://pachon@/postgres?host={socket}"
    try:
        _wait(url, server, folder / "log")
        yield url
    finally:
        server.terminate()
        server.wait(20)


def _wait(url, server, log):
    import time

    import sqlalchemy as sa

    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    for _ in range(200):
        try:
            with engine.connect():
                return
        except sa.exc.OperationalError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)  # there is no event to wait for
    raise AssertionError(log.read_text())


@pytest.fixture
def fresh_database(postgresql):
    """A new database in the private server."""
    import uuid

    import sqlalchemy as sa

    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(postgresql, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    return postgresql.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request, tmp_path):
    """Of a new ledger of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/contract.sqlite3"
    return request.getfixturevalue("fresh_database")

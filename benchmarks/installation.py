"""Installations that benchmarks make and throw away: a ledger in PostgreSQL, two pools, a controller as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from record import ROOT

from deploy.condor.pool import CondorServer
from deploy.postgres import PostgresServer
from workflow.pools.settings import HTCondorPool
from workflow.settings import EngineSettings, LocalPool, Settings, Site

SITES = ("ncsa", "ccin2p3")
CONTROLLER = ROOT / "benchmarks" / "controller.py"
CLIENTS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}


_PREFIX = "pachon-bench-"


def _left(within: Path) -> nullcontext[str]:
    return nullcontext(tempfile.mkdtemp(prefix=_PREFIX, dir=within))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a controller took for one campaign."""

    quanta: int
    accepted_s: float
    """From the start to the last acceptance."""
    published_s: float
    engine_cpu_s: float
    """Of the controller, from the start on, without its imports."""
    database_cpu_s: float
    peak_mb: float
    steps: list[dict[str, Any]]
    """(seconds, accepted, published), as the controller saw it."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A home with its servers up."""

    home: Path
    database: PostgresServer
    settings: Settings

    def run(self, name: str, production: Mapping[str, Any], warm: Mapping[str, float] | None = None, failing: int = 0) -> Run:
        """Run a campaign in a controller of its own; `warm`: wall times by label, as a production that ran before knows them;
        `failing`: how many quanta must fail, all others being published.
        """
        asked = {"home": str(self.home), "name": name, "production": production, "warm": dict(warm or {}), "failing": failing}
        before = self._database_cpu_s()
        process = subprocess.Popen(
            [sys.executable, str(CONTROLLER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **CLIENTS},
        )
        out, _ = process.communicate(json.dumps(asked))
        if process.returncode:
            raise SystemExit(f"the controller of {name} ended with {process.returncode}")
        return Run(**json.loads(out.splitlines()[-1]), database_cpu_s=self._database_cpu_s() - before)

    def _database_cpu_s(self) -> float:
        """Of the server and all its backends, those that are gone too."""
        pid = int((self.database.data / "postmaster.pid").read_text().split()[0])
        # Inside a user namespace the server may have another number for itself: its data folder names it outside.
        server = next(
            p for p in psutil.process_iter(["cmdline"]) if p.pid == pid or str(self.database.data) in (p.info["cmdline"] or [])
        )
        times = server.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in server.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # its time is its parent's by the next look
                own = child.cpu_times()
                total += own.user + own.system
        return float(total)


@contextmanager
def installation(
    pools: str, *, slots: int, stay_s: float = 0, engine: Mapping[str, Any] | None = None, within: Path | None = None
) -> Iterator[Installation]:
    """A home with a ledger and two pools, `local` or `condor`, of `slots` each, whose jobs stay for `stay_s`; its files are left
    `within` a folder, or deleted.
    """
    with tempfile.TemporaryDirectory(prefix=_PREFIX) if within is None else _left(within) as folder:
        home = Path(folder) / "home"
        (home / "repo").mkdir(parents=True)
        database = PostgresServer(home)
        pool = (
            LocalPool(slots=slots, stay_s=stay_s)
            if pools == "local"
            else HTCondorPool(kind="htcondor", slots=slots, stay_s=stay_s, environment=CLIENTS)
        )
        condor = [] if pools == "local" else [CondorServer(home, name, pool) for name in SITES]
        database.up()
        try:
            url = database.database("ledger").replace("postgresql://", "postgresql+psycopg2://")
            settings = Settings(
                home=home,
                ledger=url,
                sites=tuple(Site(name=name, pool=pool) for name in SITES),
                engine=EngineSettings(**(engine or {})),
            )
            settings.write()
            for server in condor:
                server.up()
            yield Installation(home=home, database=database, settings=settings)
        finally:
            for server in condor:
                server.down()
            database.down()

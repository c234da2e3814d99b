"""The local stack: database, Airflow's four components and the engine, each a process of its own group, started until healthy.

`Stack(home).up()` may be called at any time: it starts what is not running and leaves the rest. `airflow standalone` is not used,
because a SIGTERM to it orphans its children.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil

from backbone.errors import PermanentError
from deploy.airflow import AirflowSettings, Database, bootstrap_request
from deploy.keys import secret
from deploy.ports import port
from deploy.postgres import PostgresServer
from deploy.processes import ProcessDied, Program, end, marked, tail
from deploy.servers import Server, background, servers, settings_of

_log = logging.getLogger(__name__)
# The health page's names of the components, and of their heartbeats.
HEALTH_NAMES = {
    "airflow-scheduler": ("scheduler", "latest_scheduler_heartbeat"),
    "airflow-dag-processor": ("dag_processor", "latest_dag_processor_heartbeat"),
    "airflow-triggerer": ("triggerer", "latest_triggerer_heartbeat"),
}
START_TIMEOUT_S = 240.0
POLL_S = 0.25


class StackNotReady(PermanentError):
    """A component did not become healthy in time."""


@dataclass(frozen=True)
class ComponentState:
    """One component as `pachon status` shows it."""

    name: str
    pid: int | None
    healthy: bool | None
    """None: it has no health page of its own, or that could not be read."""
    memory_mb: float | None = None


@dataclass(frozen=True)
class Stack:
    """All long-running programs of one home."""

    home: Path
    dags: Path = field(default_factory=lambda: default_dags())
    database: Database = "auto"
    with_engine: bool = True
    with_airflow: bool = True
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def settings(self) -> AirflowSettings:
        """Airflow's settings for this home."""
        home = self.home.resolve()
        known = settings_of(home)
        workers = known.airflow.workers if known is not None and known.airflow.executor == "celery" else 0
        return AirflowSettings(home, self.dags.resolve(), self.database, workers=workers)

    @property
    def api_url(self) -> str:
        """Airflow's address, for browsers and for REST."""
        return self.settings.api_url

    def password(self, user: str) -> str:
        """The password of one of the users in deploy/roles.yaml."""
        return secret(self.home, f"user-{user}")

    def programs(self, environment: Mapping[str, str]) -> list[Program]:
        """Every program of the stack, in the order of starting."""
        home = self.settings.home
        airflow = [sys.executable, "-m", "airflow"]
        components = self.settings.components() if self.with_airflow else {}
        programs = [Program(name, (*airflow, *argv), environment, home) for name, argv in components.items()]
        if self.with_engine:
            engine = (sys.executable, "-m", "deploy.cli", "engine", "--home", str(home))
            programs.insert(0, Program("engine", engine, environment, home))
        known = settings_of(home)
        if known is not None:
            ours = background(known)
            programs[:0] = [
                Program(name, (sys.executable, "-m", "deploy.cli", *argv, "--home", str(home)), environment, home)
                for name, argv in ours.items()
            ]
        return programs

    def servers(self) -> list[Server]:
        """What runs besides the programs, in the order of starting."""
        celery = self.with_airflow and self.settings.workers > 0
        return servers(self.settings.home, with_postgres=self._airflow_in_postgres, with_broker=celery)

    @property
    def _airflow_in_postgres(self) -> bool:
        return self.with_airflow and self.settings.uses_postgres

    def up(self, say: Callable[[str], None] = _log.info) -> None:
        """Start what is not running; returns when all is healthy, raises with the end of the culprit's log when it is not."""
        self.home.mkdir(parents=True, exist_ok=True)
        started = self.clock()
        self._settle_ports()
        if self.with_airflow:
            self.settings.obtain(say)
        for server in self.servers():
            server.up()
            say(f"{server.name} is up")
        if self._airflow_in_postgres:
            PostgresServer(self.settings.home).database("airflow")
        environment = self.settings.environment()
        if self.with_airflow:
            self._bootstrap(environment, say)
        programs = self.programs(environment)
        for program in programs:
            program.start()
        if not self.with_airflow:
            say(f"up after {self.clock() - started:.1f} s, without Airflow")
            return
        self._wait(programs, say)
        say(f"healthy after {self.clock() - started:.1f} s: {self.api_url} (password of admin: {self.home}/secrets/user-admin)")

    def down(self, say: Callable[[str], None] = _log.info) -> int:
        """End every program of the stack and all that came from it, the servers last; returns how many processes were ended."""
        home = self.settings.home
        # All at once: one after another, a scheduler would wait for an API server that is gone.
        count = end(marked(f"{home}:"))
        count += sum(program.stop() for program in self.programs({}))
        count += sum(server.down() for server in reversed(self.servers()))
        say(f"{count} processes ended")
        return count

    def status(self) -> list[ComponentState]:
        """What runs, and whether Airflow's own health page calls it healthy."""
        health = self._health()
        states = []
        for program in self.programs({}):
            leader = program.leader()
            healthy = _healthy(program.name, health, _born(program)) if leader else False
            states.append(ComponentState(program.name, leader.pid if leader else None, healthy, _memory_mb(program)))
        return states + [ComponentState(server.name, None, server.running()) for server in self.servers()]

    def restart(self, name: str) -> None:
        """End one program with all that came from it and start it again; returns when all is healthy."""
        for program in self.programs({}):
            if program.name == name:
                program.stop()
        self.up()

    def _settle_ports(self) -> None:
        running = any(program.leader() for program in self.programs({}))
        port(self.settings.home, "airflow-api", in_use_by_us=running)

    def _bootstrap(self, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        """Tables, roles, users, pools: once for each Airflow version, database and content of the data files."""
        request = json.dumps({**bootstrap_request(self.settings), "database": environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]})
        stamp = self.settings.airflow_home / "bootstrapped"
        mark = _digest(request)
        if stamp.exists() and stamp.read_text() == mark:
            return
        say("making Airflow's tables, roles and users")
        self.settings.airflow_home.mkdir(parents=True, exist_ok=True)
        log_file = self.home / "log" / "bootstrap.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "operators.bootstrap"],
                input=request.encode(),
                env=dict(environment),
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=START_TIMEOUT_S,
                cwd=self.home,
            )
        if done.returncode != 0:
            raise ProcessDied(f"Airflow's tables and roles could not be made; the end of {log_file}:\n{tail(log_file)}")
        stamp.write_text(mark)

    def _wait(self, programs: list[Program], say: Callable[[str], None]) -> None:
        limit = self.clock() + START_TIMEOUT_S
        waiting, needed = [program.name for program in programs], self.servers()
        while waiting:
            for program in programs:
                program.check()
            if dead := [server.name for server in needed if not server.running()]:
                raise ProcessDied(f"{', '.join(dead)} ended while the programs were starting; `pachon up` starts what is missing")
            health = self._health()
            ready = [] if health is None else [p for p in programs if p.name in waiting and _ready(p, health)]
            for program in ready:
                say(f"{program.name} is up")
                waiting.remove(program.name)
            if waiting and self.clock() > limit:
                ends = "\n".join(f"--- {p.log_file}\n{p.tail()}" for p in programs if p.name in waiting)
                raise StackNotReady(f"not healthy after {START_TIMEOUT_S:.0f} s: {', '.join(waiting)}\n{ends}")
            if waiting:
                self.sleep(POLL_S)

    def _health(self) -> dict[str, Any] | None:
        try:
            answer = httpx.get(f"{self.api_url}/api/v2/monitor/health", timeout=5, trust_env=False)
            answer.raise_for_status()
            document: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError):
            return None
        return document


def default_dags() -> Path:
    """The dags/ folder of the checkout: beside this package, or, where that is an installed wheel, in the working directory."""
    beside = Path(__file__).resolve().parents[1] / "dags"
    return beside if beside.is_dir() else Path.cwd() / "dags"


def _digest(text: str) -> str:
    return hashlib.sha256(f"{version('apache-airflow')}\n{text}".encode()).hexdigest()


def _healthy(name: str, health: dict[str, Any] | None, since: float = 0.0) -> bool | None:
    """Healthy by Airflow's page and by a heartbeat after `since` (seconds since 1970); None where that cannot be said.

    The page alone calls a component healthy for a while after `kill -9`, and so would pass the heartbeat of its former life.
    """
    if health is None:
        return None
    if name == "airflow-api-server":
        return bool(health["metadatabase"]["status"] == "healthy")
    if name not in HEALTH_NAMES:
        return None
    key, beat_key = HEALTH_NAMES[name]
    component = health.get(key) or {}
    beat = component.get(beat_key)
    return component.get("status") == "healthy" and beat is not None and datetime.fromisoformat(beat).timestamp() >= since


def _ready(program: Program, health: dict[str, Any]) -> bool:
    return _healthy(program.name, health, _born(program)) is not False


def _born(program: Program) -> float:
    leader = program.leader()
    return float(leader.create_time()) if leader is not None else time.time()


def _memory_mb(program: Program) -> float | None:
    """Memory of the program and all its processes; shared pages count once where the system can say so (Linux)."""
    total = 0.0
    for process in program.remains():
        try:
            info = process.memory_full_info()
            total += getattr(info, "pss", info.uss) / 1e6
        except psutil.Error:
            continue
    return total or None

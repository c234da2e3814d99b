"""What is soaked: a home of its own with S3 servers, a database and movers, each a process that may be killed at any moment."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from backbone.backbone import Backbone
from backbone.errors import PermanentError
from backbone.home import backbone_settings
from deploy import postgres, seaweedfs
from deploy.passwords import without_password
from deploy.postgres import PostgresServer
from deploy.processes import Program
from deploy.seaweedfs import ObjectStore

PLACES = ("base", "ncsa", "ccin2p3")
POLICY = {
    "policies": [
        {
            "name": "soak",
            "description": "three copies of everything",
            "copies": [{"at": name, "within": "10m"} for name in PLACES],
            "floor": len(PLACES),
        }
    ]
}


@dataclass(frozen=True)
class Stand:
    """A home under test; `real`: S3 servers and PostgreSQL, else folders and SQLite."""

    home: Path
    movers: int = 2
    real: bool = True

    @property
    def store(self) -> ObjectStore:
        """The S3 servers, one a place."""
        return ObjectStore(self.home, {name: (name,) for name in PLACES})

    @property
    def database(self) -> PostgresServer:
        """The catalog's server."""
        return PostgresServer(self.home)

    def mover(self, number: int) -> Program:
        """One mover process."""
        argv = (sys.executable, "-m", "deploy.cli", "backbone", "mover", "--home", str(self.home))
        return Program(f"mover-{number}", argv, dict(os.environ), self.home)

    def up(self) -> Backbone:
        """Start everything; returns the backbone."""
        self.home.mkdir(parents=True, exist_ok=True)
        if self.real:
            self.store.up()
            self.database.up()
        self._write_settings()
        backbone = self.open()
        for number in range(self.movers):
            self.mover(number).start()
        return backbone

    def open(self) -> Backbone:
        """The backbone of the home."""
        return Backbone.open(backbone_settings(self.home), self.home)

    def down(self) -> None:
        """Stop everything that `up` started, and what was revived since."""
        for number in range(self.movers):
            self.mover(number).stop(grace_s=3.0)
        if self.real:
            with contextlib.suppress(PermanentError):
                self.database.down()
            self.store.down()

    def remove(self) -> None:
        """Remove the home."""
        shutil.rmtree(self.home, ignore_errors=True)

    def _write_settings(self) -> None:
        (self.home / "policies.yaml").write_text(yaml.safe_dump(POLICY))
        mover = {"lease_s": 10.0, "retry_min_s": 0.3, "retry_max_s": 5.0, "poll_s": 0.2, "attempts": 1000}
        said: dict[str, object] = {"policies": ["policies.yaml"], "mover": mover, "intent_grace_s": 5.0}
        if self.real:
            keys = str(seaweedfs.credentials_file(self.home))
            said["endpoints"] = {name: {"uri": self.store.uri(name), "credentials": keys} for name in PLACES}
            url = self.database.database("backbone").replace("postgresql://", "postgresql+psycopg2://")
            said["catalog"] = without_password(url, self.home)
        else:
            said["endpoints"] = {name: {"uri": f"places/{name}"} for name in PLACES}
        (self.home / "pachon.yaml").write_text(yaml.safe_dump({"backbone": said}))

    def check(self) -> None:
        """ProcessDied, with the end of its log, for a mover that nobody killed."""
        for number in range(self.movers):
            self.mover(number).check()

    def victims(self) -> dict[str, tuple[str, ...]]:
        """What may be killed, by kind."""
        movers = tuple(f"mover-{number}" for number in range(self.movers))
        return {"mover": movers, **({"server": PLACES, "database": ("database",)} if self.real else {})}

    def kill(self, kind: str, name: str) -> int:
        """SIGKILL to all of its processes at once; returns how many."""
        return _kill(self._processes(kind, name))

    def revive(self, kind: str, name: str) -> None:
        """Start it again; returns when it serves."""
        if kind == "mover":
            self.mover(int(name.rpartition("-")[2])).start()
        elif kind == "server":
            self.store.nodes[name].start()
            self.store.nodes[name].wait()
        else:
            self.database.up()

    def lose_place(self, name: str) -> None:
        """A server and everything it held are gone; an empty one of the same name and keys is up."""
        self.kill("server", name)
        shutil.rmtree(self.store.nodes[name].folder)
        self.revive("server", name)

    def lose_catalog(self) -> None:
        """The movers are stopped, the catalog is gone with everything in it, an empty database stands in its place."""
        import psycopg2

        for number in range(self.movers):
            self.mover(number).stop(grace_s=3.0)
        with contextlib.closing(psycopg2.connect(self.database.url("postgres"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("DROP DATABASE backbone WITH (FORCE)")
        self.database.database("backbone")

    def _processes(self, kind: str, name: str) -> Iterable[psutil.Process]:
        if kind == "mover":
            return self.mover(int(name.rpartition("-")[2])).remains()
        if kind == "server":
            return self.store.nodes[name].processes()
        with contextlib.suppress(psutil.NoSuchProcess):
            if (postmaster := self.database.leader) is not None:
                return [postmaster, *postmaster.children(recursive=True)]
        return []


def _kill(processes: Iterable[psutil.Process]) -> int:
    killed = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
            killed.append(process)
    psutil.wait_procs(killed, timeout=10)
    return len(killed)


def can_be_real() -> bool:
    """Whether S3 servers and PostgreSQL can be had here."""
    return seaweedfs.weed() is not None and postgres.obtained()

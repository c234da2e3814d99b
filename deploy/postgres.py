"""A private PostgreSQL server under HOME/servers/pg: loopback only, password from a mode-600 file, if the binaries exist.

PostgreSQL refuses to run as root; root therefore gets a user namespace of its own (`unshare`), an ordinary user needs nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from psycopg2 import sql

from backbone.errors import PermanentError
from deploy.keys import secret
from deploy.ports import LOOPBACK, port
from deploy.processes import tail

USER = "pachon"
START_TIMEOUT_S = 60


class DatabaseServerFailed(PermanentError):
    """The server could not be made, started or stopped; the message has the end of its log."""


def available() -> bool:
    """Whether the three programs are installed (and `unshare`, where we are root)."""
    names = ["initdb", "pg_ctl", "postgres"] + (["unshare"] if os.geteuid() == 0 else [])
    return all(shutil.which(name, path=search_path()) for name in names)


def search_path() -> str:
    """PATH, and where Debian hides the server's programs, newest version first."""
    hidden = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, hidden)])


@dataclass(frozen=True)
class PostgresServer:
    """The database server of one home."""

    home: Path

    @property
    def data(self) -> Path:
        """The cluster's directory."""
        return self.home / "servers" / "pg"

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.home / "log" / "postgres.log"

    def up(self) -> None:
        """Make the cluster once, start the server unless it runs; returns when it accepts connections."""
        if self.running():
            return
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        # No Unix socket: its path would be too long under a deep home. fsync stays on.
        options = f"-p {port(self.home, 'postgres')} -c listen_addresses={LOOPBACK} -c unix_socket_directories='' -N 200"
        arguments = ["-w", "-t", str(START_TIMEOUT_S), "-l", str(self.log_file), "-o", options, "start"]
        self._run("pg_ctl", "-D", str(self.data), *arguments)

    def down(self) -> bool:
        """Stop at once but cleanly (connections are ended); False if it did not run."""
        if not self.running():
            return False
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "fast", "stop")
        return True

    def running(self) -> bool:
        """Whether the server of this cluster runs."""
        if not (self.data / "PG_VERSION").exists():
            return False
        return _call("pg_ctl", "-D", str(self.data), "status").returncode == 0

    def database(self, name: str) -> str:
        """Make the database unless it exists; returns its URL, `postgresql://…`, password included."""
        connection = psycopg2.connect(self.url("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                if cursor.fetchone() is None:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        finally:
            connection.close()
        return self.url(name)

    def url(self, name: str) -> str:
        """The URL of a database of this server."""
        number = port(self.home, "postgres", in_use_by_us=True)
        return f"postgresql://{USER}:{secret(self.home, 'postgres')}@{LOOPBACK}:{number}/{name}"

    def _initdb(self) -> None:
        self.data.parent.mkdir(parents=True, exist_ok=True)
        secret(self.home, "postgres")
        password = f"--pwfile={self.home / 'secrets' / 'postgres'}"
        self._run("initdb", "-D", str(self.data), "-U", USER, "-A", "scram-sha-256", password, "-E", "UTF8", "--locale=C")

    def _run(self, *argv: str) -> None:
        done = _call(*argv)
        if done.returncode != 0:
            raise DatabaseServerFailed(f"{' '.join(argv)} failed: {done.stderr.strip()}\n{self.log_file}:\n{tail(self.log_file)}")


def _call(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which(name, path=search_path())
    if program is None:
        raise DatabaseServerFailed(f"{name} is not installed: install PostgreSQL's server, or choose SQLite")
    argv = [program, *arguments]
    if os.geteuid() == 0:
        argv = ["unshare", "--user", "--map-user=1", "--map-group=1", *argv]
    env = os.environ | {"LC_ALL": "C"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=2 * START_TIMEOUT_S, env=env)

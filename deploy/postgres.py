"""A private PostgreSQL server under HOME/servers/pg: loopback only, password from a mode-600 file.

The system's programs where installed, else Debian's, unpacked into the user's cache (deploy/debian.py). PostgreSQL refuses to run
as root; root therefore gets a user namespace of its own (`unshare`), an ordinary user needs nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql

from backbone.errors import PermanentError
from deploy.debian import Bundle, MirrorSilent, NoDebianMirror
from deploy.keys import secret
from deploy.ports import LOOPBACK, port
from deploy.processes import tail

USER = "pachon"
START_TIMEOUT_S = 60
_POLL_S = 0.2
_FORMER_LIFE = re.compile(rb"pre-existing shared memory block|lock file .* already exists|Address already in use")
# The ledger of a release is written in bulk: checkpoints by time, not by every gigabyte; its queries go by index and are short,
# so that compiling them costs more than it saves.
_TUNING = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "random_page_cost": "1.1",
    "jit": "off",
    "autovacuum_naptime": "20s",
}
# The libraries that the server loads; without LLVM, since queries are not compiled. The programs find share/ beside themselves.
BUNDLE = Bundle(
    name="postgresql",
    suite="trixie",
    packages=("postgresql-17",),
    only=r"^(libaudit1|libc6|libcap-ng0|libcap2|libcom-err2|libgcc-s1|libgssapi-krb5-2|libicu76|libk5crypto3|libkeyutils1|libkrb5-3"
    r"|libkrb5support0|libldap2|liblz4-1|liblzma5|libpam0g|libpq5|libsasl2-2|libselinux1|libssl3t64|libstdc\+\+6|libsystemd0|libxml2"
    r"|libxslt1.1|libzstd1|zlib1g)$",
    leave="^$",
    skip_paths=("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "*/gconv", "*/bitcode", "*/llvmjit*"),
)
_PROGRAMS = ("initdb", "pg_ctl", "postgres")


class DatabaseServerFailed(PermanentError):
    """The server could not be made, started or stopped; the message has the end of its log."""


def system_programs() -> Path | None:
    """The folder of those that the system has installed, if all three are there: in PATH, or where Debian hides them."""
    hidden = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders = [*(Path(f) for f in os.environ.get("PATH", os.defpath).split(os.pathsep) if f), *hidden]
    return next((f for f in folders if all(os.access(f / name, os.X_OK) for name in _PROGRAMS)), None)


def programs(say: Callable[[str], None] = lambda _: None) -> Path:
    """Their folder, installed first if they are nowhere; `NoDebianMirror` or `MirrorSilent` where that cannot be."""
    return system_programs() or next(BUNDLE.install(say).glob("usr/lib/postgresql/*/bin"))


def available() -> bool:
    """Whether PostgreSQL can run here as things are: its programs (and, where we are root, `unshare`) are there."""
    return _may_be_another() and (system_programs() is not None or BUNDLE.installed)


def obtained(say: Callable[[str], None] = lambda _: None) -> bool:
    """Whether PostgreSQL can run here, its programs being installed first if they are nowhere; says why where it cannot."""
    if not _may_be_another():
        say("no PostgreSQL: it refuses to run as root, and there is no `unshare` (package util-linux) to be another user with")
        return False
    try:
        programs(say)
    except (NoDebianMirror, MirrorSilent) as error:
        say(f"no PostgreSQL here, and none to be had: {error}")
        return False
    return True


def _may_be_another() -> bool:
    return os.geteuid() != 0 or shutil.which("unshare") is not None


@dataclass(frozen=True)
class PostgresServer:
    """The database server of one home."""

    home: Path
    databases: tuple[str, ...] = ()
    """Made when it comes up, if they are not there."""
    name: str = "postgres"
    durable: bool = True
    """False, for what is thrown away anyway: does not wait for the disk. A killed server loses nothing, a dead machine may."""

    @property
    def data(self) -> Path:
        """The cluster's directory, by the one name that its server is started with and found by."""
        return self.home.resolve() / "servers" / "pg"

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.home / "log" / "postgres.log"

    def up(self) -> None:
        """Make the cluster once, start the server unless it runs; returns when it accepts connections and has its databases."""
        if not self.running():
            self._start()
        for name in self.databases:
            self.database(name)

    def _start(self) -> None:
        made_before = (self.data / "PG_VERSION").exists()
        if not made_before:
            self._initdb()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        # No Unix socket: its path would be too long under a deep home.
        tuning = _TUNING if self.durable else {**_TUNING, "fsync": "off", "synchronous_commit": "off"}
        tuned = " ".join(f"-c {name}={value}" for name, value in tuning.items())
        # Its port is in URLs that others wrote down: it stays, and one that is taken is waited for.
        number = port(self.home, "postgres", in_use_by_us=made_before)
        options = f"{tuned} -p {number} -c listen_addresses={LOOPBACK} -c unix_socket_directories='' -N 200"
        arguments = ["-w", "-t", str(START_TIMEOUT_S), "-l", str(self.log_file), "-o", options, "start"]
        limit = time.monotonic() + START_TIMEOUT_S
        while True:
            told = self.log_file.stat().st_size if self.log_file.exists() else 0
            try:
                self._run("pg_ctl", "-D", str(self.data), *arguments)
                return
            except DatabaseServerFailed:
                # After kill -9: it refuses to start until all of its former life is gone, which takes a moment.
                if time.monotonic() > limit or not _FORMER_LIFE.search(self.log_file.read_bytes()[told:]):
                    raise
                time.sleep(_POLL_S)

    def down(self) -> bool:
        """Stop at once but cleanly (connections are ended); False if it did not run."""
        if not self.running():
            return False
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "fast", "stop")
        return True

    def running(self) -> bool:
        """Whether the server of this cluster runs; one that was killed does not, even before its parent has noticed."""
        process = self.leader
        with contextlib.suppress(psutil.Error):
            return process is not None and process.status() != psutil.STATUS_ZOMBIE
        return False

    @property
    def leader(self) -> psutil.Process | None:
        """The server's first process, if it is there: its command names the cluster, which tells it from another of its pid."""
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            return process if str(self.data) in process.cmdline() else None
        return None

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
    argv = [str(programs() / name), *arguments]
    if os.geteuid() == 0:
        argv = ["unshare", "--user", "--map-user=1", "--map-group=1", *argv]
    env = os.environ | {"LC_ALL": "C"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=2 * START_TIMEOUT_S, env=env)

"""One HTCondor pool of a home: made once, started until it would take a job, stopped completely.

Root becomes user 1 of a user namespace, so that HTCondor takes itself for an ordinary user's personal pool while files and jobs
keep root's view of the file system; an ordinary user stays himself. A process namespace around it makes the stop complete: with
the master all that came from it ends, whatever it did to its process group.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from backbone.errors import PermanentError
from deploy.condor.config import USER, PoolConfig
from deploy.condor.programs import Programs, programs
from deploy.ports import LOOPBACK, port
from deploy.processes import Program, tail
from workflow.pools.settings import HTCondorPool

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.1
# Of root: some commands, too, refuse to be root where there is no account named condor.
_USER_NAMESPACE = ("unshare", "--user", "--map-user=1", "--map-group=1")


class PoolFailed(PermanentError):
    """A pool could not be made or started; the message has the end of its log."""


@dataclass(frozen=True)
class CondorServer:
    """The pool of one site, on this machine."""

    home: Path
    site: str
    pool: HTCondorPool

    @property
    def name(self) -> str:
        """As `pachon status` shows it."""
        return f"condor-{self.site}"

    @property
    def folder(self) -> Path:
        """Everything of the pool but the client's token."""
        return self.home / "servers" / "condor" / self.site

    @property
    def token_file(self) -> Path:
        """The token with which the engine submits."""
        return self.home / self.pool.tokens / self.site

    @cached_property
    def programs(self) -> Programs:
        """HTCondor's programs, installed at the first use."""
        return programs()

    def up(self) -> None:
        """Start the pool unless it runs; returns when its schedd and a slot are in its collector."""
        if self.running():
            return
        number = port(self.home, self.name)
        self._make(number)
        program = self._program((*namespace(), str(self.programs.sbin / "condor_master"), "-f"))
        program.start()
        limit = time.monotonic() + START_TIMEOUT_S
        while not self._answers(number):
            if program.leader() is None:
                raise PoolFailed(f"pool {self.site} ended at once; {program.log_file}:\n{program.tail()}\n{self._log()}")
            if time.monotonic() > limit:
                raise PoolFailed(f"pool {self.site} was not ready after {START_TIMEOUT_S:.0f} s:\n{self._log()}")
            time.sleep(_POLL_S)
        (self.folder / "address").write_text(f"{LOOPBACK}:{number}\n")

    def down(self) -> int:
        """Stop at once: running jobs are put back into the queue. Returns 1, or 0 if nothing ran."""
        program = self._program()
        leader = program.leader()
        if leader is not None:
            with contextlib.suppress(psutil.Error):
                (leader.children() or [leader])[0].send_signal(signal.SIGQUIT)
                leader.wait(STOP_TIMEOUT_S)
        left = program.stop()
        return int(leader is not None or left > 0)

    def running(self) -> bool:
        """Whether the pool's master runs."""
        return self._program().leader() is not None

    @property
    def leader(self) -> psutil.Process | None:
        """The process that holds the whole pool, if it runs."""
        return self._program().leader()

    def command(self, name: str, *arguments: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run one of HTCondor's commands as the pool's own administrator."""
        path = self.programs.bin / name if (self.programs.bin / name).exists() else self.programs.sbin / name
        argv = [*(_USER_NAMESPACE if os.geteuid() == 0 else ()), str(path), *arguments]
        return subprocess.run(argv, env=self._environment(), capture_output=True, text=True, check=False, timeout=timeout_s)

    def _program(self, argv: tuple[str, ...] = ()) -> Program:
        # The folder, not the home, is the program's: `pachon down` sends SIGTERM to all that bears the home's mark at once.
        return Program("master", argv, self._environment(), self.folder)

    def _environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.folder),
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "CONDOR_CONFIG": str(self.folder / "condor_config"),
        }

    def _make(self, number: int) -> None:
        for name in ("log", "spool", "execute", "lock", "run"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for path in (self.folder / "passwords.d", self.folder / "tokens.d", self.token_file.parent):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
        config = PoolConfig(self.site, self.folder, number, self.programs, self.pool, self._program().mark)
        (self.folder / "condor_config").write_text(config.text())
        key = self.folder / "passwords.d" / "POOL"
        if not key.exists():
            _write_secret(key, secrets.token_bytes(48))
        for identity, path in (("condor", self.folder / "tokens.d" / "condor"), (USER, self.token_file)):
            if not path.exists():
                self._make_token(identity, path)

    def _make_token(self, identity: str, path: Path) -> None:
        done = self.command("condor_token_create", "-identity", f"{identity}@{self.site}")
        if done.returncode or not done.stdout.strip():
            raise PoolFailed(f"pool {self.site}: no token for {identity}: {done.stderr.strip()}")
        _write_secret(path, done.stdout.encode())

    def _answers(self, number: int) -> bool:
        """Whether schedd and startd have told the collector of themselves, as the submitter sees it."""
        if not (self.folder / "log" / "MasterLog").exists():
            return False
        where = ("-pool", f"{LOOPBACK}:{number}", "-af", "Name")
        return all(self.command("condor_status", *kind, *where).stdout.strip() for kind in ((), ("-schedd",)))

    def _log(self) -> str:
        path = self.folder / "log" / "MasterLog"
        return f"{path}:\n{tail(path)}"


def namespace() -> tuple[str, ...]:
    """What stands in front of the master's command; `PoolFailed` for root where user namespaces are forbidden."""
    user = _USER_NAMESPACE if os.geteuid() == 0 else ("unshare", "--user", "--map-current-user")
    argv = (*user, "--pid", "--fork", "--kill-child", "--mount-proc")
    if shutil.which("unshare") is not None:
        tried = subprocess.run([*argv, "true"], capture_output=True, check=False, timeout=30)
        if tried.returncode == 0:
            return argv
    if os.geteuid() != 0:
        return ()  # an ordinary user's pool needs none: only what a killed master leaves is then found by its mark
    raise PoolFailed(
        "this system forbids user namespaces (`unshare --user` failed), and HTCondor as root would start jobs as another user: "
        "run as an ordinary user, allow namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone; in a "
        "container its seccomp profile), or name a pool elsewhere with `collector:` in the site's settings"
    )


def _write_secret(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    part.replace(path)

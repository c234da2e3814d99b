"""Free loopback ports: chosen at random once per home, remembered, and chosen anew when another program has taken one."""

from __future__ import annotations

import fcntl
import json
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def port(home: Path, name: str, *, in_use_by_us: bool = False) -> int:
    """The port remembered for `name`; a free one is chosen and remembered when there is none or it was taken by somebody else."""
    path = home / "run" / "ports.json"
    number = _known(path).get(name)
    if number is not None and (in_use_by_us or is_free(number)):
        return number
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _known(path)
        if name in known and known[name] != number:  # another process was faster
            return known[name]
        known[name] = _choose(set(known.values()))
        part = path.with_suffix(".part")
        part.write_text(json.dumps(known, indent=1, sort_keys=True))
        part.replace(path)  # whole or not at all: without it nothing of the home can be started or stopped
        return known[name]


def _known(path: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    return found


def is_free(number: int) -> bool:
    """Whether this loopback port can be bound now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
        except OSError:
            return False
    return True


def _choose(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            number: int = probe.getsockname()[1]
        if number not in taken:
            return number

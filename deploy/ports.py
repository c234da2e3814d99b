"""Free loopback ports: chosen at random once per home, remembered, and chosen anew when another program has taken one."""

from __future__ import annotations

import json
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def port(home: Path, name: str, *, in_use_by_us: bool = False) -> int:
    """The port remembered for `name`; a free one is chosen and remembered when there is none or it was taken by somebody else."""
    path = home / "run" / "ports.json"
    known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    number = known.get(name)
    if number is not None and (in_use_by_us or is_free(number)):
        return number
    known[name] = _choose(set(known.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, sort_keys=True))
    return known[name]


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

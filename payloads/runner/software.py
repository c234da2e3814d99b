"""Which software a job runs: package → version, told once with the job's first segment."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_INSTALLED = re.compile(r"(?P<name>[^/]+?)-(?P<version>[^-/]+)\.(dist|egg)-info")


def versions(path: Iterable[str] | None = None) -> dict[str, str]:
    """Version of Python and of every installed package, sorted by name; the first found on the path counts.

    Read from the names of the packages' own folders: importlib.metadata opens every one of them, which takes half a second.
    """
    found: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        try:
            names = [p.name for p in Path(folder or ".").iterdir()]
        except OSError:  # zips, and folders that are not there
            continue
        for name in names:
            if match := _INSTALLED.fullmatch(name):
                found.setdefault(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


@cache
def own_versions() -> dict[str, str]:
    """Of this process: as they were when it first asked. What a worker has loaded stays, whatever is installed meanwhile."""
    return versions()

"""What every benchmark writes, and the README's table made from it.

A result is one document: the figures by name, and under `about` how each of them came to be. A figure that a run did not measure
keeps its value and its own words, so that a benchmark may be run in parts. The table shows what headlines.yaml names.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmarks: made by `make bench` -->", "<!-- /benchmarks -->"
_ABOUT = "about"


def record(name: str, figures: Mapping[str, Any], *, command: str, what: str) -> dict[str, Any]:
    """Write results/NAME.json with commit, machine and load of each figure, and the README's table anew; returns all of it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    about = {
        "what": what,
        "command": command,
        "commit": commit.stdout.strip(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }
    document |= dict(figures)
    document[_ABOUT] = document.get(_ABOUT, {}) | dict.fromkeys(figures, about)
    path.write_text(json.dumps(document, indent=2).replace(f"{ROOT}/", "") + "\n")  # paths: as from the project's own folder
    _table()
    return document


def _table() -> None:
    rows = ["| | measured | asked | commit, load |", "|---|---|---|---|"]
    for name, lines in yaml.safe_load((ROOT / "benchmarks" / "headlines.yaml").read_text()).items():
        path = RESULTS / f"{name}.json"
        found = json.loads(path.read_text()) if path.exists() else {_ABOUT: {}}
        about = found[_ABOUT]
        rows.append(f"| **{name}** | | | |")
        for figure, what, wanted in lines:
            if (first := figure.split(".")[0]) in about:
                value = reduce(lambda inner, key: inner[key], figure.split("."), found)
                told = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
                rows.append(f"| {what} | {told} | {wanted} | {about[first]['commit']}, {about[first]['load_1min']} |")
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{after}")

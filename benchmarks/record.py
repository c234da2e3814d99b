"""What every benchmark writes, and the README's table made from it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmarks: made by `make bench` -->", "<!-- /benchmarks -->"


def record(name: str, figures: dict[str, float], *, command: str, what: str) -> None:
    """Write results/NAME.json with commit, machine and load, and the README's table anew."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    RESULTS.mkdir(exist_ok=True)
    document: dict[str, Any] = {
        "what": what,
        "command": command,
        "figures": figures,
        "commit": commit.stdout.strip(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    _table()


def _table() -> None:
    rows = ["| benchmark | figure | value | commit, load |", "|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text())
        for key, value in found["figures"].items():
            rows.append(f"| {path.stem} | {key} | {value:g} | {found['commit']}, {found['load_1min']} |")
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{after}")

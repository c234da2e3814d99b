"""Files that could not be used: copied aside, each listed once with its reason; the originals are never touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from payloads.frames import Rejected

_LONGEST = 200  # bytes of a name; file systems hold 255, of which a copy takes some


class Aside:
    """The folder `aside/` of a home: copies, and `list.jsonl` with one line a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.list = folder / "list.jsonl"

    def entries(self) -> list[dict[str, Any]]:
        """What is listed; a half-written last line (a crash) is passed over."""
        if not self.list.exists():
            return []
        found = []
        for line in self.list.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def put(self, rejected: Iterable[Rejected], instrument: str) -> int:
        """Copy and list what is not listed yet; returns how many were new."""
        rejected = list(rejected)
        if not rejected:
            return 0  # the list of all nights need not be read
        known = {(e["path"], e["sha256"], e["reason"]) for e in self.entries()}
        new = [r for r in rejected if (str(r.path), r.sha256, r.reason.value) not in known]
        if not new:
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        needs_newline = self.list.exists() and not self.list.read_bytes().endswith(b"\n")
        with self.list.open("a", encoding="utf-8") as file:
            if needs_newline:
                file.write("\n")
            for item in new:
                entry = {
                    "time": datetime.now(UTC).isoformat(timespec="seconds"),
                    "instrument": instrument,
                    "path": str(item.path),
                    "stored": self._store(item),
                    "sha256": item.sha256,
                    "reason": item.reason.value,
                    "detail": item.detail,
                }
                file.write(json.dumps(entry) + "\n")
                file.flush()
        return len(new)

    def _store(self, item: Rejected) -> str | None:
        if item.sha256 is None:
            return None  # could not be read, so it cannot be copied either
        shown = item.path.name if len(item.path.name.encode()) <= _LONGEST else item.path.name[-_LONGEST // 4 :]
        name = f"{item.sha256[:12]}-{shown}"
        target = self.folder / name
        if not target.exists():
            part = self.folder / f".{name}.part"
            try:
                shutil.copyfile(item.path, part)
            except FileNotFoundError:
                return None  # somebody has removed it since it was read
            os.replace(part, target)
        return name

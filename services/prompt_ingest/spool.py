"""Frames between the camera and the prompt endpoint: on disk before the camera is answered, gone when the worker was told.

spool/NAME.json     what the camera said, and when it came; written last, so that with it the frame is whole
spool/NAME.fits     the bytes
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from backbone.models import Strict
from services.prompt_ingest.announced import Announced, FrameRefused


class Entry(Strict):
    """A frame in the spool."""

    announced: Announced
    received: float
    size: int


@dataclass(frozen=True)
class Spool:
    """One camera's."""

    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _coming: dict[str, str] = field(default_factory=dict, repr=False)
    """Checksums of the frames that are being written, by name."""

    def put(self, announced: Announced, content: bytes, received: float) -> Entry:
        """Keep a frame; it survives `kill -9` and power loss when this returns. The same frame again is the same entry.

        FrameRefused for other bytes under the name of one that waits: one of the two would be lost, or both.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = Entry(announced=announced, received=received, size=len(content))
        with self._claimed(announced):
            self._write(f"{announced.name}.fits", content)
            self._write(f"{announced.name}.json", entry.model_dump_json().encode())
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return entry

    @contextmanager
    def _claimed(self, announced: Announced) -> Iterator[None]:
        with self._lock:
            known = self._coming.get(announced.name) or self._kept(announced.name)
            if known not in (None, announced.sha256):
                raise FrameRefused(
                    f"exposure {announced.exposure} detector {announced.detector} waits to be sent on with other content "
                    f"(checksum {known}): two frames must not have one number"
                )
            self._coming[announced.name] = announced.sha256
        try:
            yield
        finally:
            with self._lock:
                self._coming.pop(announced.name, None)

    def _kept(self, name: str) -> str | None:
        """Checksum of the frame of this name, where one waits."""
        try:
            return Entry.model_validate_json((self.folder / f"{name}.json").read_bytes()).announced.sha256
        except (FileNotFoundError, ValidationError):
            return None

    def _write(self, name: str, content: bytes) -> None:
        part = self.folder / f".{name}.{uuid.uuid4().hex}.part"  # a camera that lost patience may be sending it twice just now
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / name)

    def entries(self) -> Iterator[Entry]:
        """Whole frames, the oldest exposure first; what a death left half is cleaned away."""
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)
        for path in sorted(self.folder.glob("*.json")):
            try:
                yield Entry.model_validate_json(path.read_bytes())
            except (FileNotFoundError, ValidationError):
                continue  # just sent on, or another version's: left for a person to see

    def path(self, entry: Entry) -> Path:
        """Of the bytes."""
        return self.folder / f"{entry.announced.name}.fits"

    def done(self, entry: Entry) -> None:
        """The worker was told: forget the frame, the bytes last."""
        (self.folder / f"{entry.announced.name}.json").unlink(missing_ok=True)
        self.path(entry).unlink(missing_ok=True)

    def depth(self) -> int:
        """Frames that wait."""
        return sum(1 for _ in self.folder.glob("*.json")) if self.folder.exists() else 0

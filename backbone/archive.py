"""The archive tier: an endpoint that is written once, keeps two copies, one of them off-site, and is slow to read.

Behind the endpoint contract stand two endpoints. A read of what is not in the recall buffer joins the recall queue, which any
process that runs `recall` (or waits in a read) works off in batches, as a robot mounts a tape once for all who ask for it. Delays
are configuration: with none it is just two copies; with a tape's, reads answer with RecallPending and when to ask again.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from backbone.cache import Cache, locked
from backbone.endpoint import Endpoint, ObjectInfo, Proving, checked_folder, sha256_of
from backbone.errors import ObjectAbsent, ObjectExists, ObjectTooLarge, PachonError, TransientError, refused
from backbone.models import Strict
from backbone.reading import digest_of

_SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE IF NOT EXISTS recall(
  key TEXT PRIMARY KEY, size INTEGER NOT NULL, asked REAL NOT NULL, ready_at REAL, reason TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS recall_next ON recall(ready_at, asked);
"""


class RecallPending(TransientError):
    """The object is on its way from the archive; `delay_s` says when to ask again."""


class ArchiveSettings(Strict):
    """How slow an archive is, and how much of it is at hand."""

    mount_s: float = Field(default=0.0, ge=0, description="s until the first byte of a recalled batch; a tape: 60–120")
    rate_mb_s: float = Field(default=1000.0, gt=0, description="MB/s at which a batch is read after that; LTO-9: 400")
    batch: int = Field(default=500, ge=1, description="objects that one mount serves at most")
    patience_s: float = Field(default=5.0, ge=0, description="s that a read waits for its recall before it says RecallPending")
    buffer_bytes: int = Field(default=10 << 30, ge=1, description="bytes of recalled objects at hand")


@dataclass(frozen=True, kw_only=True)
class Recall:
    """One entry of the recall queue; `ready_at` (Unix s) is None until its batch is mounted."""

    key: str
    size: int
    asked: float
    ready_at: float | None
    reason: str


class ArchiveEndpoint:
    """Two copies behind one contract; `near` is asked first, `off_site` restores it and is restored by it."""

    def __init__(
        self,
        near: Endpoint,
        off_site: Endpoint,
        *,
        name: str,
        folder: Path | str,
        settings: ArchiveSettings = ArchiveSettings(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self.root = name, near.root
        self.settings, self.near, self.off_site = settings, near, off_site
        self._folder, self._clock, self._sleep = Path(folder).absolute(), clock, sleep
        self._folder.mkdir(parents=True, exist_ok=True)
        self._buffer = Cache(self._folder / "buffer", max_bytes=settings.buffer_bytes, clock=clock)
        with closing(self._connect()) as db:
            db.executescript(_SCHEMA)

    def put(
        self, key: str, content: bytes | Path, *, create_only: bool = False, about: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        """Write both copies, the one off-site first: what `info` shows has two. The same bytes again are welcome."""
        written = [self._write_once(place, key, content, create_only, about) for place in (self.off_site, self.near)]
        if create_only and not written[1][1]:
            raise ObjectExists(f"put {key} at {self.name}: the key is taken")
        return written[1][0]

    def proves(self) -> bool:
        """Whether both places do."""
        return all(isinstance(place, Proving) and place.proves() for place in (self.near, self.off_site))

    def get(self, key: str) -> bytes:
        """The object's bytes, if its recall takes no longer than `patience_s`; else RecallPending."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder, "object")
            self.fetch(key, path)
            return path.read_bytes()

    def fetch(self, key: str, path: Path) -> ObjectInfo:
        """Copy the object to a local path (see `get`)."""
        limit = self._clock() + self.settings.patience_s
        while not self._buffer.holds(key):
            self.request([key])
            self.recall()
            if self._buffer.holds(key):
                break
            self._wait(key, limit)
        with self._buffer.reading(self.near, key) as source:
            return copy_whole(source, path, key)

    def info(self, key: str) -> ObjectInfo:
        """Size and checksum, from the archive's books: quick."""
        return self.near.info(key)

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that begin with `prefix`, sorted."""
        return self.near.list(prefix)

    def delete(self, key: str) -> None:
        """Refused: what is archived stays; an absent object is as good as removed."""
        try:
            self.near.info(key)
        except ObjectAbsent:
            return
        raise refused(f"delete {key} at {self.name} refused: an archive is written once and keeps what it has")

    def discard(self, prefix: str, *, keep: Set[str] = frozenset()) -> int:
        """Refused unless there is nothing but what is to be kept; halves of killed writers go."""
        kept = frozenset(self.near.list(checked_folder(prefix)))
        if kept - keep:
            raise refused(
                f"discard {prefix} at {self.name} refused: an archive keeps what it has, here {len(kept - keep)} objects"
            )
        for place in (self.near, self.off_site):
            place.discard(prefix, keep=kept)
        return 0

    def request(self, keys: Sequence[str]) -> None:
        """Queue recalls; those that are queued or at hand already stay as they are. ObjectAbsent for what was never archived,
        ObjectTooLarge for what the recall buffer cannot hold.
        """
        now = self._clock()
        rows = [(key, self._recallable(key), now) for key in keys if not self._buffer.holds(key)]
        with closing(self._connect()) as db, db:
            db.executemany("INSERT INTO recall(key, size, asked) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def _recallable(self, key: str) -> int:
        size = self.near.info(key).size
        if size > self.settings.buffer_bytes:
            raise ObjectTooLarge(
                f"{key} at {self.name} has {size} bytes, more than its recall buffer ({self.settings.buffer_bytes}): "
                "raise `archive: buffer_bytes` in the settings"
            )
        return size

    def recall(self) -> int:
        """One round of the robot: bring in what is due, mount the next batch if none is mounted. Returns how many came in.

        There is one robot: 0 while another process is it. It holds no transaction while it brings something, so that whoever
        asks for more need not wait; killed, what it had not brought is still mounted.
        """
        now = self._clock()
        with suppress(BlockingIOError), locked(self._folder / "robot", wait=False), closing(self._connect()) as db:
            due = db.execute("SELECT key FROM recall WHERE ready_at <= ?", (now,)).fetchall()
            came = sum(self._bring(db, key) for (key,) in due)
            with db:
                if not db.execute("SELECT 1 FROM recall WHERE ready_at IS NOT NULL LIMIT 1").fetchone():
                    self._mount(db, now)
            return came
        return 0

    def queue(self) -> tuple[Recall, ...]:
        """The recall queue, oldest first."""
        with closing(self._connect()) as db:
            rows = db.execute("SELECT key, size, asked, ready_at, reason FROM recall ORDER BY asked, key").fetchall()
        return tuple(Recall(key=k, size=s, asked=a, ready_at=r, reason=why) for k, s, a, r, why in rows)

    def digest(self, key: str, size: int) -> tuple[int, str]:
        """Size and SHA-256 of what is archived, both copies read where they lie (a scrub is no recall). A rotten or missing copy
        is written anew from the other one.
        """
        expected = self._expected(key)
        found = {place.name: self._read(place, key, size) for place in (self.near, self.off_site)}
        good = next((place for place in (self.near, self.off_site) if found[place.name] == (size, expected)), None)
        for place in (self.near, self.off_site):
            if good is not None and found[place.name] != (size, expected):
                self._restore(place, good, key)
        right = found[good.name] if good else found[self.near.name] or found[self.off_site.name]
        if right is None:
            raise ObjectAbsent(f"digest {key} at {self.name}: no such object")
        return right

    def _expected(self, key: str) -> str | None:
        try:
            return self.near.info(key).sha256
        except ObjectAbsent:
            return self.off_site.info(key).sha256

    def _read(self, place: Endpoint, key: str, size: int) -> tuple[int, str] | None:
        try:
            return digest_of(place, key, size)
        except ObjectAbsent:
            return None

    def _restore(self, place: Endpoint, good: Endpoint, key: str) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder, "object")
            good.fetch(key, path)
            place.put(key, path, about=good.info(key).about)

    def _write_once(
        self, place: Endpoint, key: str, content: bytes | Path, create_only: bool, about: Mapping[str, str] | None
    ) -> tuple[ObjectInfo, bool]:
        """The object as it is at one of the two places, and whether we wrote it."""
        try:
            return place.put(key, content, create_only=True, about=about), True
        except ObjectExists as error:
            there, checksum = place.info(key), sha256_of(content)
            if there.sha256 != checksum:
                why = "taken" if create_only else "taken by other bytes, and an archive is written once"
                raise ObjectExists(f"put {key} at {self.name}: the key is {why}") from error
            if self._read(place, key, there.size) != (there.size, checksum):
                return place.put(key, content, about=about), False  # rotten: the same bytes are written anew
            return there, False

    def _mount(self, db: sqlite3.Connection, now: float) -> None:
        waiting = db.execute("SELECT key, size FROM recall ORDER BY asked, key LIMIT ?", (self.settings.batch,)).fetchall()
        read_s = 0.0
        for key, size in waiting:
            read_s += size / (self.settings.rate_mb_s * 1e6)
            db.execute("UPDATE recall SET ready_at = ? WHERE key = ?", (now + self.settings.mount_s + read_s, key))

    def _bring(self, db: sqlite3.Connection, key: str) -> int:
        """Into the buffer, from whichever copy is good; a bad one is named in the queue and stays there."""
        reasons = []
        for place in (self.near, self.off_site):
            try:
                expected = self.near.info(key).sha256
                with self._buffer.reading(place, key, sha256=expected), db:
                    db.execute("DELETE FROM recall WHERE key = ?", (key,))
                return 1
            except PachonError as error:  # one object that cannot be had keeps no other from being brought
                reasons.append(f"{place.name}: {error}")
        again = self._clock() + max(self.settings.mount_s, 1.0)
        with db:
            db.execute("UPDATE recall SET reason = ?, ready_at = ? WHERE key = ?", ("; ".join(reasons), again, key))
        return 0

    def _wait(self, key: str, limit: float) -> None:
        now = self._clock()
        with closing(self._connect()) as db:
            row = db.execute("SELECT ready_at, reason FROM recall WHERE key = ?", (key,)).fetchone()
        ready_at, reason = row or (now, "")
        eta_s = (ready_at or now + self.settings.mount_s) - now
        if now + max(eta_s, 0.0) > limit or reason:
            why = f" ({reason})" if reason else ""
            message = f"{key} is being recalled from {self.name}{why}; ask again in {eta_s:.0f} s"
            raise RecallPending(message, delay_s=max(eta_s, 1.0))
        self._sleep(min(max(eta_s, 0.005), 1.0))

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._folder / "recall.sqlite3", timeout=60.0)


def copy_whole(source: Path, path: Path, key: str) -> ObjectInfo:
    """Copy a file so that `path` appears whole or not at all."""
    part = path.parent / f".part-{uuid.uuid4().hex}"
    try:
        shutil.copyfile(source, part)
        info = ObjectInfo(key=key, size=part.stat().st_size, sha256=sha256_of(part))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return info

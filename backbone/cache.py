"""A size-bounded cache of objects in a folder, shared by processes.

Pinned or in use, an object stays; of the others the least recently used goes. The index is SQLite, the truth about use and about
fills under way are kernel locks (`flock`), which die with their process. A killed fill leaves a reservation that the next one in
its stripe, or `clean`, takes back; a killed eviction a row whose file is gone, which is filled again when asked for.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backbone.endpoint import Endpoint, checked_key
from backbone.errors import ChecksumMismatch, EndpointFull, ObjectTooLarge

_TOUCH_S = 1.0  # a use this soon after the last is not written down
_BATCH = 64
_BUSY_S = 60.0
_SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE IF NOT EXISTS entry(
  name TEXT PRIMARY KEY, stripe TEXT NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL,
  pinned_until REAL NOT NULL DEFAULT 0, ready INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_used ON entry(ready, used);
CREATE INDEX IF NOT EXISTS entry_stripe ON entry(stripe) WHERE ready = 0;
CREATE TABLE IF NOT EXISTS pin(name TEXT, holder TEXT, until REAL NOT NULL, PRIMARY KEY(name, holder)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total(bytes INTEGER NOT NULL, objects INTEGER NOT NULL);
INSERT INTO total SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM total);
CREATE TRIGGER IF NOT EXISTS entry_in AFTER INSERT ON entry BEGIN
  UPDATE total SET bytes = bytes + new.size, objects = objects + 1; END;
CREATE TRIGGER IF NOT EXISTS entry_out AFTER DELETE ON entry BEGIN
  UPDATE total SET bytes = bytes - old.size, objects = objects - 1; END;
"""


@dataclass(frozen=True, kw_only=True)
class CacheUsage:
    """What a cache holds and may hold."""

    objects: int
    size_bytes: int
    max_bytes: int
    pinned_objects: int


class Cache:
    """Objects of any endpoints under their keys (which are the same everywhere), at most `max_bytes` of them.

    `min_free_bytes` is left free on the file system whatever `max_bytes` says. Any number of processes may use one folder.
    """

    def __init__(
        self, folder: Path | str, *, max_bytes: int, min_free_bytes: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = Path(folder).absolute()
        self.max_bytes, self._min_free, self._clock = max_bytes, min_free_bytes, clock
        for name in ("objects", "filling", "locks"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as db, locked(self._folder / "locks" / "schema"):
            db.executescript(_SCHEMA)

    @contextmanager
    def reading(self, endpoint: Endpoint, key: str, *, sha256: str | None = None) -> Iterator[Path]:
        """A local path of the object, filled from `endpoint` if need be; it stays there until the block is left.

        Raises what the endpoint raises; ChecksumMismatch if what came is not `sha256` (of the endpoint's own record if None);
        EndpointFull if all that is cached is pinned or in use; ObjectTooLarge if the object is larger than the cache.
        """
        name = _name(key)
        while True:
            descriptor = self._opened(name)
            if descriptor is None:
                self._fill(endpoint, key, name, sha256)
                continue
            try:
                self._touch(name)
                yield self._path(name)
            finally:
                os.close(descriptor)
            return

    def pin(self, key: str, holder: str, *, for_s: float) -> None:
        """Keep the object, once it is there, until `for_s` from now; a second pin of the same holder replaces its first."""
        until = self._clock() + for_s
        with closing(self._connect()) as db, db:
            db.execute("INSERT OR REPLACE INTO pin VALUES (?, ?, ?)", (_name(key), holder, until))
            db.execute("UPDATE entry SET pinned_until = max(pinned_until, ?) WHERE name = ?", (until, _name(key)))

    def unpin(self, holder: str) -> int:
        """Give back all pins of a holder; returns how many there were."""
        with closing(self._connect()) as db, db:
            names = [row[0] for row in db.execute("DELETE FROM pin WHERE holder = ? RETURNING name", (holder,)).fetchall()]
            left = "(SELECT coalesce(max(until), 0) FROM pin WHERE pin.name = entry.name)"
            db.executemany(f"UPDATE entry SET pinned_until = {left} WHERE name = ?", [(n,) for n in names])
        return len(names)

    def holds(self, key: str) -> bool:
        """Whether the object is here, whole."""
        return self._path(_name(key)).exists()

    def drop(self, key: str) -> None:
        """Forget the object (readers that have it keep it until they are done)."""
        name = _name(key)
        with locked(self._stripe_lock(name)), closing(self._connect()) as db:
            self._remove(db, name)

    def usage(self) -> CacheUsage:
        """Counts and bytes, fills under way included."""
        with closing(self._connect()) as db:
            size, objects = db.execute("SELECT bytes, objects FROM total").fetchone()
            pinned = db.execute("SELECT count(*) FROM entry WHERE pinned_until > ?", (self._clock(),)).fetchone()[0]
        return CacheUsage(objects=objects, size_bytes=size, max_bytes=self.max_bytes, pinned_objects=pinned)

    def clean(self, room_bytes: int = 0) -> int:
        """Take back what killed fills had reserved, drop expired pins, evict until there is room; returns the bytes there are."""
        with closing(self._connect()) as db:
            stripes = [row[0] for row in db.execute("SELECT DISTINCT stripe FROM entry WHERE ready = 0").fetchall()]
            for stripe in stripes:
                with suppress(BlockingIOError), locked(self._folder / "locks" / stripe, wait=False):
                    self._take_back(db, stripe)
            with db:
                db.execute("DELETE FROM pin WHERE until <= ?", (self._clock(),))
            while self._short_by(db, room_bytes) > 0 and self._evict_some(db):
                pass
            return self.max_bytes - self._total(db)

    def _fill(self, endpoint: Endpoint, key: str, name: str, sha256: str | None) -> None:
        with locked(self._stripe_lock(name)), closing(self._connect()) as db:
            self._take_back(db, name[:2])
            if self._path(name).exists():
                return  # another process was first
            info = endpoint.info(key)
            self._reserve(db, key, name, info.size)
            place = self._folder / "filling" / name
            place.mkdir(exist_ok=True)
            try:
                found = endpoint.fetch(key, place / "object")
                expected = sha256 or info.sha256
                if found.size != info.size or (expected and found.sha256 != expected):
                    raise ChecksumMismatch(
                        f"{key} from {endpoint.name}: {found.sha256} came, {expected} was expected; scrub that endpoint"
                    )
                self._path(name).parent.mkdir(exist_ok=True)
                (place / "object").replace(self._path(name))
                with db:
                    db.execute("UPDATE entry SET ready = 1 WHERE name = ?", (name,))
            except BaseException as error:
                self._remove(db, name)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise EndpointFull(f"cache {self._folder}: no space left on its disk for {key}") from error
                raise
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def _reserve(self, db: sqlite3.Connection, key: str, name: str, size: int) -> None:
        """Room for the object, written down before its first byte comes, so that all processes together keep to the limit."""
        if size > self.max_bytes:
            raise ObjectTooLarge(
                f"{key} has {size} bytes, more than the whole cache {self._folder} ({self.max_bytes}): read it in place"
            )
        while True:
            now = self._clock()
            db.execute("BEGIN IMMEDIATE")
            with db:
                if self._short_by(db, size) <= 0:
                    pinned = db.execute("SELECT coalesce(max(until), 0) FROM pin WHERE name = ?", (name,)).fetchone()[0]
                    db.execute("DELETE FROM entry WHERE name = ?", (name,))  # REPLACE would pass the trigger by
                    row = (name, name[:2], key, size, now, pinned)
                    db.execute("INSERT INTO entry(name, stripe, key, size, used, pinned_until) VALUES (?,?,?,?,?,?)", row)
                    return
            if not self._evict_some(db):
                raise EndpointFull(
                    f"cache {self._folder}: no room for {key} ({size} bytes), all else is pinned or in use; unpin or enlarge"
                )

    def _short_by(self, db: sqlite3.Connection, size: int) -> int:
        over = self._total(db) + size - self.max_bytes
        lacking = self._min_free + size - shutil.disk_usage(self._folder).free if self._min_free else 0
        return max(over, lacking)

    def _evict_some(self, db: sqlite3.Connection) -> bool:
        """Remove the least recently used object that nobody pins or reads; False if there is none."""
        now, position = self._clock(), (-1.0, "")
        free = "SELECT used, name FROM entry WHERE ready = 1 AND pinned_until <= ?"
        query = f"{free} AND (used, name) > (?, ?) ORDER BY used, name LIMIT ?"
        while rows := db.execute(query, (now, *position, _BATCH)).fetchall():
            for _, name in rows:
                if self._evict(db, name):
                    return True
            position = rows[-1]
        return False

    def _evict(self, db: sqlite3.Connection, name: str) -> bool:
        try:
            with self._path(name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._path(name).unlink(missing_ok=True)
        except BlockingIOError:
            return False  # somebody reads it
        except FileNotFoundError:
            pass  # an eviction was killed here
        with db:
            db.execute("DELETE FROM entry WHERE name = ? AND ready = 1", (name,))
        return True

    def _take_back(self, db: sqlite3.Connection, stripe: str) -> None:
        """Reservations of a stripe whose lock we hold have no living owner."""
        for (name,) in db.execute("SELECT name FROM entry WHERE ready = 0 AND stripe = ?", (stripe,)).fetchall():
            shutil.rmtree(self._folder / "filling" / name, ignore_errors=True)
            self._remove(db, name)

    def _remove(self, db: sqlite3.Connection, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        with db:
            db.execute("DELETE FROM entry WHERE name = ?", (name,))

    def _opened(self, name: str) -> int | None:
        """A descriptor that holds a shared lock on the object, or None if it is not here (or was evicted meanwhile)."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink == 0:
            os.close(descriptor)
            return None
        return descriptor

    def _touch(self, name: str) -> None:
        now = self._clock()
        with closing(self._connect()) as db, db:
            db.execute("UPDATE entry SET used = ? WHERE name = ? AND used < ?", (now, name, now - _TOUCH_S))

    def _total(self, db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT bytes FROM total").fetchone()[0])

    def _path(self, name: str) -> Path:
        return self._folder / "objects" / name[:2] / name

    def _stripe_lock(self, name: str) -> Path:
        return self._folder / "locks" / name[:2]

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._folder / "index.sqlite3", timeout=_BUSY_S)


def _name(key: str) -> str:
    return hashlib.sha256(checked_key(key).encode()).hexdigest()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Alone among all processes that hold this file's lock, which goes with its process; BlockingIOError where others have it
    and `wait` is false.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)

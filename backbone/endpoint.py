"""The contract of an endpoint: a place that holds whole objects under keys, and says clearly what it does not know.

One suite, tests/backbone/test_endpoint_contract.py, holds every kind of endpoint to it:

- an object is seen whole or not at all (DBB-56): a crash in `put` leaves nothing under the key, or everything;
- `create_only` has exactly one winner among any number of racers, the others get ObjectExists;
- absent (ObjectAbsent), refused (AccessRefused) and not known (TransientError) are three answers, never mixed;
- what is put is read back byte for byte, and its SHA-256 is known without reading it again;
- `discard` leaves nothing of a folder but what it is told to keep, not even the halves of objects whose writers were killed.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from backbone.errors import AccessRefused

MAX_KEY_BYTES = 1024
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What an endpoint knows of an object; `sha256` (hex) is None where it was put by somebody else without one."""

    key: str
    size: int
    sha256: str | None


class Endpoint(Protocol):
    """A place for objects; `root` is the URI under which a Butler datastore finds the same keys."""

    name: str
    root: str

    def put(self, key: str, content: bytes | Path, *, create_only: bool = False) -> ObjectInfo:
        """Store a whole object; with `create_only`, ObjectExists if the key is taken."""

    def get(self, key: str) -> bytes:
        """The object's bytes."""

    def fetch(self, key: str, path: Path) -> ObjectInfo:
        """Copy the object to a local path, which appears whole or not at all."""

    def info(self, key: str) -> ObjectInfo:
        """Size and checksum without reading the object."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that begin with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove the object; an absent one is as good as removed."""

    def discard(self, prefix: str, *, keep: Set[str] = frozenset()) -> int:
        """Remove all objects whose keys begin with `prefix`, a folder's (`a/b/`), but those in `keep`, and what killed writers
        left there, which `list` does not show. Nobody may write there meanwhile. Returns how many objects were removed.
        """


def checked_key(key: str) -> str:
    """The key itself, if it is one: relative, normal, and the same for every reader.

    Raises AccessRefused for what could leave the endpoint's root or be read as another name: `..`, empty parts, a leading slash,
    control characters, or unicode that has more than one spelling.
    """
    reason = None
    parts = key.split("/")
    if not key or len(key.encode(errors="surrogatepass")) > MAX_KEY_BYTES:
        reason = f"it must have between 1 and {MAX_KEY_BYTES} bytes"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "it has an empty, '.' or '..' part"
    elif any(ord(c) < 32 or ord(c) == 127 or c == "\\" for c in key):
        reason = "it has a control character or a backslash"
    elif unicodedata.normalize("NFKC", key) != key:
        reason = "it is not in normal form (NFKC), so two spellings would name one object"
    if reason:
        raise AccessRefused(f"key {key!r} refused: {reason}")
    return key


def checked_prefix(prefix: str) -> str:
    """A prefix may be empty or end with a slash; otherwise it obeys the rules of a key."""
    if prefix.rstrip("/"):
        checked_key(prefix.removesuffix("/"))
    return prefix


def checked_folder(prefix: str) -> str:
    """A prefix that means one folder alone; anything else is refused, since what is below it will be removed."""
    if not prefix.endswith("/"):
        raise AccessRefused(f"prefix {prefix!r} refused: it must be a folder's, with a slash at its end")
    return checked_key(prefix.removesuffix("/")) + "/"


def sha256_of(content: bytes | Path | BinaryIO) -> str:
    """SHA-256 (hex) of bytes, of a file by path, or of an open file from where it stands."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    # hashlib.file_digest refuses whatever is no file of Python's own, such as the handles of lsst.resources.
    while block := content.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()

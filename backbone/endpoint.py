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
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from backbone.errors import PachonError, refused

MAX_KEY_BYTES = 1024
_UNLIKE = frozenset(
    {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"}
)  # scripts whose letters look like no others
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What an endpoint knows of an object; `sha256` (hex) is None where it was put by somebody else without one.

    `about` is what the object carries of itself (docs/interfaces.md), known from `info` alone and no part of equality.
    """

    key: str
    size: int
    sha256: str | None
    about: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, kw_only=True)
class NewObject:
    """A small object for `put_many`; `sha256` (hex) where it is known already: what arrives must have it."""

    key: str
    content: bytes
    about: Mapping[str, str] = field(default_factory=dict)
    sha256: str | None = None


class Endpoint(Protocol):
    """A place for objects; `root` is the URI under which a Butler datastore finds the same keys."""

    name: str
    root: str

    def put(
        self, key: str, content: bytes | Path, *, create_only: bool = False, about: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        """Store a whole object; with `create_only`, ObjectExists if the key is taken. `about` goes with it (at most 2 KB)."""

    def get(self, key: str) -> bytes:
        """The object's bytes."""

    def fetch(self, key: str, path: Path) -> ObjectInfo:
        """Copy the object to a local path, which appears whole or not at all. An OSError that is none of ours (backbone.errors)
        is of the path, and says nothing of the object.
        """

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


@runtime_checkable
class Streaming(Protocol):
    """What an endpoint can do besides, so that large objects pass through memory in blocks and need no disk on their way."""

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """The object's bytes, to be read in order."""

    def put_stream(self, key: str, stream: BinaryIO, *, size: int, sha256: str, about: Mapping[str, str]) -> ObjectInfo:
        """Store what `stream` gives, if it is `size` bytes of checksum `sha256`; else ChecksumMismatch, and nothing is stored."""


@runtime_checkable
class Proving(Protocol):
    """What an endpoint can say besides; copies at one that says nothing, or no, are read once more before they count."""

    def proves(self) -> bool:
        """Whether what a put acknowledges has arrived as it was sent: whoever stores it sums up the bytes and refuses others.
        TransientError or AccessRefused where that cannot be told now.
        """


@runtime_checkable
class Bulk(Protocol):
    """What an endpoint can do besides with many small objects; each has an answer of its own, an error or what was asked for."""

    def put_many(self, objects: Sequence[NewObject]) -> list[ObjectInfo | PachonError]:
        """Store whole objects, many at the same time."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | PachonError]:
        """Read objects, many at the same time."""


def checked_key(key: str) -> str:
    """The key itself, if it is one: relative, normal, and the same for every reader.

    Raises AccessRefused for what could leave the endpoint's root or be read as another name: `..`, empty parts, a leading slash,
    control characters, unicode that has more than one spelling, and letters of several scripts, which look alike (UTS 39).
    """
    reason = None
    if not key or len(key.encode(errors="surrogatepass")) > MAX_KEY_BYTES:
        reason = f"it must have between 1 and {MAX_KEY_BYTES} bytes"
    elif any(part in ("", ".", "..") for part in key.split("/")):
        reason = "it has an empty, '.' or '..' part"
    elif _CONTROL.search(key):
        reason = "it has a control character or a backslash"
    elif not key.isascii():
        reason = _spelling(key)
    if reason:
        raise refused(f"key {key!r} refused: {reason}")
    return key


def _spelling(key: str) -> str | None:
    """Why a key that is not ASCII could be taken for another one."""
    if unicodedata.normalize("NFKC", key) != key:
        return "it is not in normal form (NFKC), so two spellings would name one object"
    if any(not c.isascii() and unicodedata.category(c)[0] not in "LMN" for c in key):
        return "it has signs that are no letters, digits or marks, and may be invisible or look like a slash"
    # A letter's name begins with its script: LATIN SMALL LETTER A, CYRILLIC SMALL LETTER A.
    scripts = {unicodedata.name(c, "?").split()[0] for c in key if c.isalpha()} - _UNLIKE
    if len(scripts) > 1:
        return f"it mixes letters of several scripts ({', '.join(sorted(scripts))}), which may look alike"
    return None


def checked_prefix(prefix: str) -> str:
    """A prefix may be empty or end with a slash; otherwise it obeys the rules of a key."""
    if prefix.rstrip("/"):
        checked_key(prefix.removesuffix("/"))
    return prefix


def checked_folder(prefix: str) -> str:
    """A prefix that means one folder alone; anything else is refused, since what is below it will be removed."""
    if not prefix.endswith("/"):
        raise refused(f"prefix {prefix!r} refused: it must be a folder's, with a slash at its end")
    return checked_key(prefix.removesuffix("/")) + "/"


def said_of_itself(text: str) -> dict[str, str]:
    """What an object carries as `about`, of its JSON; nothing where somebody else has put something else there."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


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

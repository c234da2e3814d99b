"""What the catalog is told of a file, a key with content that never changes, and what it answers about replicas and rules."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from backbone.endpoint import checked_key
from backbone.errors import PermanentError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ACCESS = re.compile(r"owner|public|group:[\w.@-]+|list:[\w.@-]+(,[\w.@-]+)*")

# States of a replica.
AVAILABLE, COPYING, BAD, LOST, DELETING = "AVAILABLE", "COPYING", "BAD", "LOST", "DELETING"
# States of a transfer; one that is DONE or CANCELLED has no row left, its history says so. WAITING: for its next attempt, or for
# a copy at a place that has a link to the target.
PENDING, WAITING, RUNNING, STUCK = "PENDING", "WAITING", "RUNNING", "STUCK"

# What files have in common that differ in key, content and date alone; policies speak of these (backbone/tables.py: cohort).
SHARED = ("dataset_type", "collection", "instrument", "tags", "media_type", "retention", "owner", "access")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewFile:
    """A file to be registered. `sha256` in hex; `created` in seconds since 1970 (UTC); `access`: owner, public, `group:NAME`,
    `list:ANNA,BO`; `retention` is a class that policies may name, such as permanent or unarchived.
    """

    key: str
    size: int
    sha256: str
    dataset_type: str
    collection: str
    created: float
    instrument: str = ""
    media_type: str = "application/octet-stream"
    tags: tuple[str, ...] = ()
    retention: str = "permanent"
    owner: str = "operator"
    access: str = "owner"

    def checked(self) -> NewFile:
        """Itself; PermanentError or AccessRefused for what no file can be."""
        checked_key(self.key)
        problem = None
        if self.size < 0:
            problem = f"size {self.size} is negative"
        elif not _SHA256.fullmatch(self.sha256):
            problem = f"sha256 {self.sha256!r} is not 64 hex digits in lower case"
        elif not _ACCESS.fullmatch(self.access):
            problem = f"access {self.access!r} is none of owner, public, group:NAME, list:NAME,NAME"
        elif not math.isfinite(self.created):
            problem = f"created {self.created} is no time in seconds since 1970"
        else:
            problem = _no_text(self.shared)
        if problem:
            raise PermanentError(f"file {self.key}: {problem}; register what the endpoint's put said")
        return self

    @property
    def shared(self) -> tuple[str, ...]:
        """The values of SHARED, tags as canonical text."""
        return (
            self.dataset_type,
            self.collection,
            self.instrument,
            tags_text(self.tags),
            self.media_type,
            self.retention,
            self.owner,
            self.access,
        )

    def about(self) -> dict[str, str]:
        """What the object carries so that a lost catalog can be rebuilt: all but the key, as text."""
        found = {name: getattr(self, name) for name in SHARED}
        return {
            **found,
            "tags": tags_text(self.tags),
            "size": str(self.size),
            "sha256": self.sha256,
            "created": repr(self.created),
        }

    @classmethod
    def from_about(cls, key: str, about: Mapping[str, str]) -> NewFile:
        """The file that `about` was made of; PermanentError if it does not say all."""
        try:
            values: dict[str, Any] = {name: about[name] for name in SHARED}
            values["tags"] = tuple(json.loads(about["tags"]))
            return cls(
                key=key, size=int(about["size"]), sha256=about["sha256"], created=float(about["created"]), **values
            ).checked()
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(f"file {key}: what its object says of it is not whole ({error}); register it by hand") from error


@lru_cache(maxsize=1024)  # most files of a batch share them
def _no_text(shared: tuple[str, ...]) -> str | None:
    """What is wrong with one of these values, if anything: databases take no control characters, nor halves of letters."""
    wrong = [text for text in shared if not isinstance(text, str) or _NO_TEXT.search(text)]
    return f"{wrong[0]!r} is no text that a catalog can hold" if wrong else None


def tags_text(tags: tuple[str, ...]) -> str:
    """Tags as they are stored: a sorted JSON list."""
    return json.dumps(sorted(set(tags))) if tags else "[]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """A file at an endpoint, or on its way there. `verified`: when its bytes were last right; `eta_s` may be unknown."""

    key: str
    endpoint: str
    state: str
    size: int
    sha256: str
    verified: float | None = None
    eta_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleProgress:
    """How far a rule is: files by state, `bytes` still to come, `eta_s` (None: nothing moves, so not known), the first reason
    found. A rule is done when `ok == total`.
    """

    name: str
    total: int
    ok: int
    replicating: int
    stuck: int
    bytes: int
    eta_s: float | None = None
    first_reason: str = ""

    @property
    def done(self) -> bool:
        """Whether every file is whole where the rule wants it."""
        return self.ok == self.total

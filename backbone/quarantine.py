"""Bad copies are kept aside at their endpoint, below `_pachon/quarantine/`, with what was expected: evidence, and a last hope.

The bad bytes also stay where they are until the good copy replaces them: removing them could remove the good ones that a mover
brings at the same moment. A replica that is BAD is offered to nobody.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backbone.endpoint import MAX_KEY_BYTES, Endpoint, sha256_of
from backbone.errors import ObjectAbsent
from backbone.manifest import OWN

_PREFIX = f"{OWN}quarantine/"


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A bad copy that is kept aside: where (`aside`), of which file, what its bytes are and what they should be."""

    aside: str
    key: str
    found: str
    expected: str
    at: float


def quarantine(endpoint: Endpoint, key: str, *, found: str, expected: str, now: float) -> str:
    """Keep the bad bytes of `key` aside; returns under which key. Twice is once; an object that is gone by now is no error."""
    aside = f"{_PREFIX}{found[:16]}/{key}"
    if len(aside.encode()) > MAX_KEY_BYTES:
        aside = f"{_PREFIX}{found[:16]}/{sha256_of(key.encode())}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bad")
        try:
            endpoint.fetch(key, path)
        except ObjectAbsent:
            return aside
        about = {"key": key, "found": found, "expected": expected, "at": repr(now)}
        endpoint.put(aside, path, about={"quarantined": json.dumps(about)})
    return aside


def quarantined(endpoint: Endpoint) -> Iterator[Quarantined]:
    """What is kept aside at an endpoint."""
    for aside in endpoint.list(_PREFIX):
        said = json.loads(endpoint.info(aside).about.get("quarantined", "{}"))
        values = {name: str(said.get(name, "")) for name in ("key", "found", "expected")}
        yield Quarantined(aside=aside, at=float(said.get("at", 0.0)), **values)


def discard_quarantined(endpoint: Endpoint) -> int:
    """Remove what is kept aside, once nobody wants to look at it; returns how many."""
    return endpoint.discard(_PREFIX)

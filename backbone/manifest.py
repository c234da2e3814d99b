"""Manifests: what the catalog was told of objects, kept beside the objects, so that a lost catalog can be rebuilt.

A batch of files is one object below `_pachon/manifests/`, written before the batch is registered: lines of JSON, a list
`[key, size, sha256, created]` a file, after a line with what the files that follow have in common. Its name is its content's
digest: the same batch again is the same manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from backbone.endpoint import Endpoint, sha256_of
from backbone.errors import ObjectExists, PermanentError
from backbone.files import SHARED, NewFile

OWN = "_pachon/"
"""Keys below this are the backbone's own: manifests and what is quarantined; never files."""
_PREFIX = f"{OWN}manifests/"


def write_manifest(endpoint: Endpoint, files: Sequence[NewFile], *, now: float) -> str:
    """Write down a batch at the endpoint that holds its objects (`now`: seconds since 1970); returns the manifest's key."""
    lines, shared = [], None
    for file in files:
        if file.shared != shared:
            shared = file.shared
            lines.append(json.dumps(dict(zip(SHARED, shared, strict=True))))
        lines.append(json.dumps([file.key, file.size, file.sha256, file.created]))
    content = ("\n".join(lines) + "\n").encode()
    key = f"{_PREFIX}{datetime.fromtimestamp(now, UTC):%Y%m%d}/{sha256_of(content)[:32]}.jsonl"
    with suppress(ObjectExists):  # the same batch, registered once more
        endpoint.put(key, content, create_only=True)
    return key


def read_manifests(endpoint: Endpoint) -> Iterator[tuple[str, list[NewFile]]]:
    """Every manifest's key and files, in the order of their days; PermanentError names one that cannot be read."""
    for key in endpoint.list(_PREFIX):
        try:
            yield key, list(_files(endpoint.get(key).decode()))
        except (ValueError, KeyError, TypeError) as error:
            raise PermanentError(
                f"manifest {key} at {endpoint.name} is damaged ({error}); remove it: its objects say for themselves"
            ) from error


def _files(text: str) -> Iterator[NewFile]:
    shared: dict[str, object] = {}
    for line in text.splitlines():
        found = json.loads(line)
        if isinstance(found, dict):
            shared = {**found, "tags": tuple(json.loads(found["tags"]))}
            continue
        key, size, sha256, created = found
        yield NewFile(key=key, size=size, sha256=sha256, created=created, **shared).checked()  # type: ignore[arg-type]

"""Reading objects to know what they are: size and SHA-256 as their bytes are now, whatever the endpoint's books say."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from backbone.endpoint import Bulk, Endpoint, Streaming, sha256_of
from backbone.errors import PachonError

_MANY_BYTES = 256 << 10  # up to here many are read at once
_IN_MEMORY_BYTES = 8 << 20
_BLOCK_BYTES = 1 << 20

Digest = tuple[int, str]


def digest_of(endpoint: Endpoint, key: str, size: int) -> Digest:
    """Size and SHA-256 (hex) of what the endpoint gives for `key`; `size` is what is expected. Raises as `get` does."""
    own: Callable[[str, int], Digest] | None = getattr(endpoint, "digest", None)  # an archive reads its copies where they lie
    if own is not None:
        return own(key, size)
    if size <= _IN_MEMORY_BYTES:
        content = endpoint.get(key)
        return len(content), sha256_of(content)
    if isinstance(endpoint, Streaming):
        digest, seen = hashlib.sha256(), 0
        with endpoint.open(key) as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                seen += len(block)
        return seen, digest.hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "object")
        endpoint.fetch(key, path)
        return path.stat().st_size, sha256_of(path)


def digests_of(endpoint: Endpoint, asked: Sequence[tuple[str, int]], pool: Executor) -> list[Digest | PachonError]:
    """The same for many (key, expected size), each with an answer of its own; small ones many at once where the endpoint can."""
    if isinstance(endpoint, Bulk) and not hasattr(endpoint, "digest"):
        small = [key for key, size in asked if size <= _MANY_BYTES]
    else:
        small = []
    if not isinstance(endpoint, Bulk) or not small:
        return list(pool.map(lambda item: _tried(endpoint, *item), asked))
    contents = dict(zip(small, endpoint.get_many(small), strict=True))
    large = [item for item in asked if item[0] not in contents]
    answers = dict(zip((key for key, _ in large), pool.map(lambda item: _tried(endpoint, *item), large), strict=True))
    for key, content in contents.items():
        answers[key] = (len(content), sha256_of(content)) if isinstance(content, bytes) else content
    return [answers[key] for key, _ in asked]


def _tried(endpoint: Endpoint, key: str, size: int) -> Digest | PachonError:
    try:
        return digest_of(endpoint, key, size)
    except PachonError as error:
        return error

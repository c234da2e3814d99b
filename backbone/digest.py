"""A stream that is checked while it is read: size and SHA-256 must come out as said, before the last bytes are given away."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from backbone.errors import ChecksumMismatch

_BLOCK_BYTES = 1 << 20


class DigestReader:
    """Reads `stream` in order. ChecksumMismatch instead of the end of it where it is not `size` bytes of `sha256` (hex).

    The last block is held back until the sum is known, so that a writer that counts bytes never has all of a wrong object.
    """

    def __init__(self, stream: BinaryIO, *, size: int, sha256: str, what: str) -> None:
        self._stream, self._size, self._sha256, self._what = stream, size, sha256, what
        self._digest, self._seen = hashlib.sha256(), 0
        self.failure: Exception | None = None
        """What went wrong with reading, for those whose client swallows it."""

    @classmethod
    def of(cls, stream: BinaryIO, *, size: int, sha256: str, what: str) -> DigestReader:
        """A reader of `stream`, or the stream itself where it is such a reader already: no byte is summed up twice."""
        if isinstance(stream, cls) and (stream._size, stream._sha256) == (size, sha256):
            return stream
        return cls(stream, size=size, sha256=sha256, what=what)

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; all that is left without it."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_BLOCK_BYTES), b""))
        try:
            block = self._stream.read(size)
            self._digest.update(block)
            self._seen += len(block)
            if self._seen >= self._size or (size and not block):
                self._check()
        except Exception as error:
            self.failure = error
            raise
        return block

    def _check(self) -> None:
        if self._seen != self._size:
            more = "more" if self._seen > self._size else "only"
            raise ChecksumMismatch(f"{self._what}: {self._seen} bytes came, {more} than the {self._size} that should be there")
        if self._digest.hexdigest() != self._sha256:
            raise ChecksumMismatch(f"{self._what}: its SHA-256 is {self._digest.hexdigest()}, not {self._sha256}")

"""What a child tells its parent, as frames in a pipe: lengths, a small header in JSON, then bytes that the parent only passes on.

One frame says that a quantum has ended and which begins: for quanta of microseconds each system call counts, and a parent that
is late reads many frames at once.
"""

from __future__ import annotations

import json
import os
import select
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_LENGTHS = struct.Struct("<II")
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """`ended` has ended with `outcome` (JSON of an `Outcome`), and `begun` begins; `broken`: the child could not begin at all."""

    ended: str | None = None
    begun: str | None = None
    succeeded: bool = False
    outcome: bytes = field(default=b"", repr=False)
    members: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Of the segment's zip."""
    broken: str = ""


def write(descriptor: int, frame: Frame) -> None:
    """The whole frame; blocks while the parent is behind."""
    sizes = {name: len(content) for name, content in frame.members.items()}
    header = json.dumps([frame.ended, frame.begun, frame.succeeded, frame.broken, len(frame.outcome), sizes]).encode()
    body = b"".join((header, frame.outcome, *frame.members.values()))
    left = memoryview(_LENGTHS.pack(len(header), len(body)) + body)
    while left:
        left = left[os.write(descriptor, left) :]


class Reader:
    """The parent's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self.ended = False
        """Whether the child has closed its end, by its death at the latest."""

    def read(self, wait_s: float) -> Iterator[Frame]:
        """Every frame that is whole by now, waiting for the first up to `wait_s`; half a frame of a dead child is nothing."""
        if not select.select([self._descriptor], [], [], wait_s)[0]:
            return
        some = os.read(self._descriptor, _READ_BYTES)
        self.ended = not some
        self._buffer += some
        start = 0
        while len(self._buffer) - start >= _LENGTHS.size:
            header, body = _LENGTHS.unpack_from(self._buffer, start)
            if len(self._buffer) - start < _LENGTHS.size + body:
                break
            start += _LENGTHS.size
            yield _parsed(bytes(self._buffer[start : start + body]), header)
            start += body
        del self._buffer[:start]

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def _parsed(body: bytes, header: int) -> Frame:
    ended, begun, succeeded, broken, size, sizes = json.loads(body[:header])
    members, start = {}, header + size
    for name, length in sizes.items():
        members[name] = body[start : start + length]
        start += length
    return Frame(
        ended=ended, begun=begun, succeeded=succeeded, broken=broken, outcome=body[header : header + size], members=members
    )

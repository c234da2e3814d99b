"""The contract of a way for alerts to subscribers.

One suite, tests/services/alerts/test_transport_contract.py, holds every kind to it:

- a stream is read in its order from any position, by any number of readers at their own pace; none waits for another;
- positions are those of the outbox: the same at every transport, and the same after whatever was killed;
- publishing again what is published already changes nothing;
- a reader is let in by its own secret, to its own stream, and to no other.

What makes delivery exactly once is on both sides of it: positions without gaps before (services/alerts/distributor.py), and a
subscriber that stores its position with what it did (services/alerts/follow.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Delivered:
    """One alert as a subscriber gets it: its position in the stream, and its packet in the wire form (packets.py)."""

    position: int
    body: bytes


class Reader(Protocol):
    """A stream being read, from the position after the one that was asked for."""

    def take(self, limit: int, timeout_s: float) -> Sequence[Delivered]:
        """The next alerts, at most `limit`, as soon as there are any; none after `timeout_s`. TransientError: open it anew."""


class Transport(Protocol):
    """A way to subscribers."""

    def published(self, stream: str) -> int:
        """The last position that is on its way for good; 0 for a stream that has none, or is not there."""

    def publish(self, stream: str, first: int, bodies: Sequence[bytes]) -> None:
        """Bring bodies with the positions `first`, `first + 1`, … on their way for good; what is there already is left out."""

    def reader(self, stream: str, *, name: str, secret: str, after: int = 0) -> AbstractContextManager[Reader]:
        """Read a stream as the subscriber `name`. AccessRefused if the secret is wrong, or the stream another's."""

    def close(self) -> None:
        """Let go of all connections."""

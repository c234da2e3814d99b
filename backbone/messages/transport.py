"""The contract of a message transport.

One suite, tests/backbone/test_transport_contract.py, holds every kind of transport to it:

- what `send` returned from is kept: it survives `kill -9` of the sender, of the receiver and of whoever keeps it;
- a message is delivered again until it is acknowledged: at least once, never "at most once". Receivers know what they did;
- a receiver that dies without a word gives its deliveries up within `lease_s`; one that lives keeps them by `renew`;
- messages of one queue arrive in the order of sending, but for those that are delivered again;
- nobody there is TransientError, and never an empty queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from backbone.errors import PermanentError, TransientError

LEASE_S = 5.0
MAX_BYTES = 1 << 20


class TransportDown(TransientError):
    """Nobody keeps messages at the moment: those not known to be sent are to be sent again."""


class MessageRefused(PermanentError, ValueError):
    """No message that could ever be sent: too large, or not plain data."""


@dataclass(frozen=True)
class Delivery:
    """One message as one receiver has it."""

    body: Mapping[str, Any]
    tag: int
    """The transport's own; means something to the receiver that it was delivered to."""
    again: bool = False
    """Somebody had it before and did not acknowledge it, as far as the transport knows."""


class Receiver(Protocol):
    """Takes messages from one queue; used by one thread of one process."""

    def receive(self, wait_s: float = 0.0) -> Delivery | None:
        """The next message, or None when none came within `wait_s`. TransportDown if that cannot be known."""

    def acknowledge(self, delivery: Delivery) -> None:
        """It is dealt with. Of a delivery that was taken back meanwhile nothing happens: it comes again."""

    def give_back(self, delivery: Delivery) -> None:
        """Somebody else, or this receiver later, shall have it."""

    def renew(self) -> None:
        """Still alive: keep what was delivered and not acknowledged."""

    def close(self) -> None:
        """Give everything back that was not acknowledged."""


class Transport(Protocol):
    """Keeps messages in queues by name."""

    def send(self, queue: str, body: Mapping[str, Any]) -> None:
        """Keep a message; returns when it is safe. TransportDown: not known whether it is, send it again."""

    def receiver(self, queue: str) -> Receiver:
        """A receiver on this queue. Any number may be; each message has one of them at a time."""

    def waiting(self, queue: str) -> int:
        """Messages that nobody has."""

    def close(self) -> None:
        """Let go of all connections."""

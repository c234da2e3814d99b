"""Messages in RabbitMQ (AMQP 0-9-1, by kombu): durable queues, persistent messages, publisher confirms.

A receiver is its connection: when its process dies, the broker sees the connection end and delivers to the next. After a
broken connection everything that was delivered comes again, under new tags; acknowledging an old one does nothing.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import kombu
from kombu.exceptions import OperationalError

from backbone.messages.stored import checked
from backbone.messages.transport import Delivery, TransportDown

_LOG = logging.getLogger(__name__)
CONNECT_S = 3.0
HEARTBEAT_S = 20
CONFIRM_S = 10.0
ANSWER_S = 20.0
"""The longest that a broker may say nothing where it is asked for something, and take nothing where it is told something."""
PREFETCH = 64
_ROUND = 1 << 32
"""Tags of the n-th connection begin at n times this: the broker counts from 1 on each."""


def durable(queue: str) -> kombu.Queue:
    """The queue as the broker has it."""
    return kombu.Queue(queue, routing_key=queue, durable=True, auto_delete=False)


class _Line:
    """One connection and channel, made when first used and again after it broke. Without a heartbeat where nobody would beat:
    a sender may have nothing to say for an hour, and learns at the next message what became of its connection.
    """

    def __init__(self, url: Callable[[], str], heartbeat_s: int = 0) -> None:
        self._url, self._heartbeat_s = url, heartbeat_s
        self._connection: kombu.Connection | None = None
        self._channel: Any = None
        self.round = 0

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """The open channel; TransportDown, and a new connection at the next use, if the broker goes away meanwhile."""
        errors: tuple[type[BaseException], ...] = (OperationalError, OSError)
        try:
            if self._channel is None:
                self._open()
            assert self._connection is not None  # noqa: S101 - for mypy
            errors += tuple(self._connection.connection_errors) + tuple(self._connection.channel_errors)
            yield self._channel
        except errors as error:
            self.drop()
            raise TransportDown(f"the message broker does not answer: {type(error).__name__} {error}; is it up?") from error

    def _open(self) -> None:
        connection = kombu.Connection(
            self._url(),
            connect_timeout=CONNECT_S,
            heartbeat=self._heartbeat_s,
            transport_options={"confirm_publish": True, "read_timeout": ANSWER_S, "write_timeout": ANSWER_S},
        )
        connection.connect()
        self._connection, self._channel = connection, connection.channel()
        self.round += 1

    def drain(self, wait_s: float) -> None:
        """Let messages come in for at most so long."""
        assert self._connection is not None  # noqa: S101 - for mypy
        self._connection.heartbeat_check()
        try:
            self._connection.drain_events(timeout=max(wait_s, 0.001))
        except TimeoutError:
            return

    def drop(self) -> None:
        """Let the connection go; a broken one without a word."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            connection.collect(socket_timeout=0.1)


class AmqpTransport:
    """Queues of a RabbitMQ broker; `url` is asked for at each connection, so that a password is read when it is needed."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url, self._line = url, _Line(url)
        self._known: set[tuple[int, str]] = set()

    def send(self, queue: str, body: Mapping[str, Any]) -> None:
        """See the contract."""
        text = checked(body)
        with self._line.channel() as channel:
            declare = [] if (self._line.round, queue) in self._known else [durable(queue)]
            kombu.Producer(channel).publish(
                text,
                routing_key=queue,
                exchange="",
                delivery_mode=2,
                content_type="application/json",
                content_encoding="utf-8",
                declare=declare,
                mandatory=True,
                confirm_timeout=CONFIRM_S,
            )
            self._known.add((self._line.round, queue))

    def receiver(self, queue: str) -> AmqpReceiver:
        """See the contract."""
        return AmqpReceiver(self._url, queue)

    def waiting(self, queue: str) -> int:
        """See the contract."""
        with self._line.channel() as channel:
            return int(durable(queue)(channel).queue_declare(passive=False).message_count)

    def close(self) -> None:
        """See the contract."""
        self._line.drop()


class AmqpReceiver:
    """One consumer, with a connection of its own."""

    def __init__(self, url: Callable[[], str], queue: str) -> None:
        self._line, self._queue = _Line(url, HEARTBEAT_S), queue
        self._arrived: deque[Delivery] = deque()
        self._consuming = 0

    def receive(self, wait_s: float = 0.0) -> Delivery | None:
        """See the contract."""
        with self._line.channel() as channel:
            if self._consuming != self._line.round:
                self._arrived.clear()
                consumer = kombu.Consumer(
                    channel, [durable(self._queue)], on_message=self._take, accept=["json"], prefetch_count=PREFETCH
                )
                consumer.consume()
                self._consuming = self._line.round
            if not self._arrived:
                self._line.drain(wait_s)
        return self._arrived.popleft() if self._arrived else None

    def _take(self, incoming: Any) -> None:
        tag = self._line.round * _ROUND + int(incoming.delivery_tag)
        again = bool(incoming.delivery_info.get("redelivered"))
        try:
            body = json.loads(incoming.body)
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, dict):
            self._arrived.append(Delivery(body=body, tag=tag, again=again))
        else:  # kept, it would come again and again and let nothing by
            _LOG.error("%s: a message of %d bytes that is no JSON object is dropped", self._queue, len(incoming.body))
            incoming.reject()

    def acknowledge(self, delivery: Delivery) -> None:
        """See the contract."""
        if delivery.tag // _ROUND == self._line.round:
            with self._line.channel() as channel:
                channel.basic_ack(delivery.tag % _ROUND)

    def give_back(self, delivery: Delivery) -> None:
        """See the contract."""
        if delivery.tag // _ROUND == self._line.round:
            with self._line.channel() as channel:
                channel.basic_reject(delivery.tag % _ROUND, requeue=True)

    def renew(self) -> None:
        """The connection's heartbeat says it, and what is wrong with it shows at the next call."""

    def close(self) -> None:
        """See the contract."""
        self._line.drop()

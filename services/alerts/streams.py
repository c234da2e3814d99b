"""RabbitMQ streams as transport, by rstream, over TLS.

A message's publishing id is its position in the outbox: the broker leaves out what is not above the last one it has (of this
publisher's name, kept with the stream), so that whatever is published twice is there once. The message says its position too (an
AMQP 1.0 annotation): the broker's offsets run ahead of positions, by one for each file that it begins. A reader that would have
to leave out positions, because the broker has let go of them, says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rstream import AMQPMessage, ConfirmationStatus, Producer, RawMessage, exceptions
from rstream.recovery import BackOffRecoveryStrategy

from backbone.errors import AccessRefused, TransientError
from services.alerts.event_loop import ANSWER_S, EventLoop
from services.alerts.stream_reader import POSITION, StreamReader
from services.broker import Broker

PUBLISHER = "outbox"
_SEGMENT_BYTES = 500_000_000  # of a file of the broker's, its own default: it lets go of whole files
_FRAME_BYTES = 1_000_000  # a publish frame may have 1 MiB with all that is around the messages


class StreamTransport:
    """The streams of a broker."""

    def __init__(self, broker: Broker, *, keep_bytes: int) -> None:
        self._broker, self._keep_bytes = broker, keep_bytes
        self._loop = EventLoop()
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the connections and the thread."""
        self._drop()
        self._loop.close()

    def published(self, stream: str) -> int:
        """By the broker's own word; the stream is made if it is not there."""
        with self._lock, self._dropping():
            return self._loop.run(self._published(stream))

    def publish(self, stream: str, first: int, bodies: Sequence[bytes]) -> None:
        """Returns when the broker has said yes to all of them."""
        with self._lock, self._dropping():
            self._loop.run(self._publish(stream, first, bodies), ANSWER_S + len(bodies) * 0.1)

    @contextmanager
    def reader(self, stream: str, *, name: str, secret: str, after: int = 0) -> Iterator[StreamReader]:
        """A connection of the reader's own, with its own secret."""
        if not secret:
            raise AccessRefused(f"subscriber {name} has no secret")
        reader = StreamReader(self._loop, self.connection(name, secret), stream, after)
        try:
            reader.open()
            yield reader
        finally:
            reader.close()

    async def _published(self, stream: str) -> int:
        producer = await self._connected()
        if not await producer.stream_exists(stream):
            sizes = {
                "max-length-bytes": self._keep_bytes,
                "stream-max-segment-size-bytes": min(_SEGMENT_BYTES, self._keep_bytes // 8),
            }
            await producer.create_stream(stream, sizes, exists_ok=True)
        client = await producer.default_client
        return int(await client.query_publisher_sequence(stream, PUBLISHER))

    async def _publish(self, stream: str, first: int, bodies: Sequence[bytes]) -> None:
        producer, answers = await self._connected(), _Answers(len(bodies))
        messages = [
            RawMessage(bytes(AMQPMessage(body=body, message_annotations={POSITION: first + n})), publishing_id=first + n)
            for n, body in enumerate(bodies)
        ]
        for frame in frames(messages):
            await producer.send_batch(stream, frame, publisher_name=PUBLISHER, on_publish_confirm=answers.take)
        await answers.all

    async def _connected(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(**self.connection())
            await self._producer.start()
        return self._producer

    def connection(self, user: str | None = None, password: str | None = None) -> dict[str, Any]:
        """What a client of rstream needs; without a user, as the services' own."""
        user, password = user or self._broker.settings.user, self._broker.password() if password is None else password
        return {
            "host": self._broker.settings.host,
            "port": self._broker.port("stream"),
            "ssl_context": self._broker.tls(),
            "vhost": self._broker.settings.vhost,
            "username": user,
            "password": password,
            "recovery_strategy": BackOffRecoveryStrategy(False),  # whoever calls opens anew, from where its own books are
        }

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """After an error the connection is not used again: what it has still under way is not known."""
        try:
            yield
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(TransientError, AccessRefused):
                self._loop.run(producer.close(), 10.0)


class _Answers:
    """Counts what the broker says of messages."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, status: ConfirmationStatus) -> None:
        """One message."""
        self._left -= 1
        if self.all.done():
            return
        if not status.is_confirmed:
            self.all.set_exception(exceptions.ServerError(f"message {status.message_id} was not taken: {status.response_code}"))
        elif self._left == 0:
            self.all.set_result(None)


def frames(messages: Sequence[RawMessage]) -> Iterator[list[RawMessage]]:
    """Messages in groups that fit into a frame of the protocol."""
    frame: list[RawMessage] = []
    size = 0
    for message in messages:
        if frame and size + len(message.data) > _FRAME_BYTES:
            yield frame
            frame, size = [], 0
        frame.append(message)
        size += len(message.data) + 16
    if frame:
        yield frame

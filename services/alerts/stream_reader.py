"""A reader of one of RabbitMQ's streams, with a connection and a secret of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rstream import (
    AMQPMessage,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    StreamDoesNotExist,
    amqp_decoder,
)

from backbone.errors import AccessRefused, PermanentError, TransientError
from services.alerts.event_loop import ANSWER_S, EventLoop
from services.alerts.transport import Delivered

_log = logging.getLogger(__name__)
_CHUNKS_AHEAD = 2  # of the broker's, in a reader's memory
_MESSAGES_AHEAD = 64
_GONE = "the connection to the broker ended"
POSITION = b"x-position"
"""Annotation of a message: its position in the outbox. Offsets are no help, for the broker gives some to records of its own."""


class PositionsGone(PermanentError):
    """The broker has let go of what a reader asks for."""


class _CutOff(TransientError):
    """The broker did not finish letting a reader in."""


class StreamReader:
    """A stream being read. What comes ahead is bounded: the broker waits for a reader's credit, and nobody waits for a reader."""

    def __init__(self, loop: EventLoop, connection: Mapping[str, Any], stream: str, after: int) -> None:
        self._loop, self._connection, self._stream, self._next = loop, connection, stream, after + 1
        self._who = str(connection["username"])
        self._consumer = Consumer(**connection, on_close_handler=self._on_close)
        self._ahead: asyncio.Queue[Delivered | None] = asyncio.Queue(_MESSAGES_AHEAD)
        self._ended = False

    def open(self) -> None:
        """Subscribe. The broker often cuts off whom it will not let in without a word: twice, while it answers, is a refusal."""
        for again in (False, True):
            try:
                return self._loop.run(self._open())
            except _CutOff as error:
                if again and self._broker_answers():
                    raise AccessRefused(
                        f"{self._who} is cut off by the broker when it names itself: wrong name or secret"
                    ) from error
        raise TransientError(_GONE, delay_s=1.0)

    def close(self) -> None:
        """Let go, in whatever state it is."""
        self._ended = True
        with suppress(TransientError, AccessRefused):
            self._loop.run(self._close(), 20.0)

    def take(self, limit: int, timeout_s: float) -> Sequence[Delivered]:
        """The next alerts; TransientError when the connection has ended, PositionsGone when there is a gap."""
        return self._loop.run(self._take(limit, timeout_s), timeout_s + ANSWER_S)

    async def _open(self) -> None:
        try:
            await self._consumer.start()
        except TimeoutError as error:
            raise _CutOff(_GONE) from error
        # No position has an offset lower than this; what comes before it is passed over.
        place = ConsumerOffsetSpecification(OffsetType.OFFSET, self._next - 1)
        try:
            await self._consumer.subscribe(
                self._stream, self._on_message, offset_specification=place, initial_credit=_CHUNKS_AHEAD, decoder=_delivered
            )
        except StreamDoesNotExist as error:
            raise TransientError(f"the broker has no stream {self._stream} yet; the distributor makes it") from error

    def _broker_answers(self) -> bool:
        address = self._connection["host"], self._connection["port"]
        try:
            with socket.create_connection(address, timeout=10) as plain:
                self._connection["ssl_context"].wrap_socket(plain, server_hostname=address[0]).close()
        except OSError:
            return False
        return True

    async def _close(self) -> None:
        while not self._ahead.empty():
            self._ahead.get_nowait()
        await self._consumer.close()

    async def _on_message(self, message: Delivered | None, context: MessageContext) -> None:
        if message is None:
            _log.error("stream %s: the message at offset %d has no position; left out", self._stream, context.offset)
        elif not self._ended:
            await self._ahead.put(message)

    async def _on_close(self, _: object) -> None:
        self._ended = True
        if self._ahead.empty():
            self._ahead.put_nowait(None)  # wakes whoever waits

    async def _take(self, limit: int, timeout_s: float) -> list[Delivered]:
        taken: list[Delivered] = []
        try:
            found = await asyncio.wait_for(self._first(), timeout_s)
        except TimeoutError:
            return taken
        while True:
            if found is None:
                if taken:
                    return taken
                raise TransientError(_GONE, delay_s=1.0)
            if found.position > self._next:
                raise PositionsGone(
                    f"stream {self._stream}: the broker has {found.position} where {self._next} is next; read what lies between "
                    "from the archive (`pachon alerts replay`)"
                )
            if found.position == self._next:
                self._next += 1
                taken.append(found)
            if len(taken) == limit or self._ahead.empty():
                return taken
            found = self._ahead.get_nowait()

    async def _first(self) -> Delivered | None:
        if self._ended and self._ahead.empty():
            return None
        return await self._ahead.get()


def _delivered(raw: bytes) -> Delivered | None:
    """The message in a record of the broker's; None where it is not the distributor's. What is missing then, positions tell."""
    try:
        message: AMQPMessage = amqp_decoder(raw)
        position = int((message.message_annotations or {})[POSITION])
    except Exception:  # the decoder raises whatever it runs into; raised on, it would end the delivery of all that follows
        return None
    return Delivered(position, message.body if isinstance(message.body, bytes) else b"")

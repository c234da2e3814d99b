"""Reports to the OCS by RabbitMQ (kombu, AMQP over TLS): in their order, each acknowledged by the broker before the next batch.

While the OCS's broker is away they wait in the database. A gateway that dies between the broker's yes and its own note sends some
again, with the same positions: the OCS's side (services/telemetry/receiver.py) leaves out what it has.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Sequence
from typing import Any

from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import OperationalError

from backbone.errors import AccessRefused, PachonError, TransientError
from services.broker import Broker
from services.telemetry.telemetry import Telemetry, Told

_log = logging.getLogger(__name__)
_IDLE_S = 0.2
_LONGEST_WAIT_S = 15.0
_ANSWER_S = 20.0


def durable(name: str) -> Queue:
    """The OCS's queue: it survives the broker, and what is in it is on disk."""
    return Queue(name, Exchange(""), routing_key=name, durable=True)


def connected(broker: Broker, *, user: str | None = None, password: str | None = None) -> Connection:
    """A connection to the OCS's broker; `user` and `password` where they are not the services' own."""
    settings = broker.settings
    tls = {"ca_certs": str(broker.home / settings.authority), "server_hostname": settings.host, "cert_reqs": ssl.CERT_REQUIRED}
    connection = Connection(
        hostname=settings.host,
        port=broker.port("amqps"),
        virtual_host=settings.vhost,
        userid=user or settings.user,
        password=password if password is not None else broker.password(),
        ssl=tls,
        connect_timeout=_ANSWER_S,
        heartbeat=30,
        transport_options={"confirm_publish": True, "read_timeout": _ANSWER_S, "write_timeout": _ANSWER_S},
    )
    try:
        connection.connect()
    except (*connection.connection_errors, *connection.channel_errors) as error:  # a refusal is one of the channel's
        connection.release()
        if "ACCESS_REFUSED" in str(error):
            raise AccessRefused(f"the OCS's broker refuses {user or settings.user}: {error}") from error
        raise TransientError(f"the OCS's broker at {settings.host} did not answer: {error}") from error
    return connection


class Gateway:
    """Sends what has not been sent. One at a time has work; two do no harm."""

    def __init__(self, telemetry: Telemetry, broker: Broker, queue: str, *, batch: int = 100) -> None:
        self._telemetry, self._broker, self._queue, self._batch = telemetry, broker, queue, batch
        self._connection: Connection | None = None

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; while the OCS is away it is tried again, less and less often."""
        wait = _IDLE_S
        while not stop.is_set():
            try:
                if not self.round():
                    stop.wait(_IDLE_S)
                wait = _IDLE_S
            except PachonError as error:  # one that stays is for a person, who may mend it while we wait
                _log.log(logging.WARNING if isinstance(error, TransientError) else logging.ERROR, "%s; reports wait", error)
                stop.wait(wait := min(wait * 2, _LONGEST_WAIT_S))

    def round(self) -> int:
        """Send a batch; how many reports that was."""
        reports = self._telemetry.read(self._telemetry.state()[1], self._batch)
        if reports:
            self._send(reports)
            self._telemetry.sent(reports[-1].position)
        return len(reports)

    def _send(self, reports: Sequence[Told]) -> None:
        """A connection that had nothing to say for a while may have been ended by the other side: then a new one sends."""
        if self._connection is not None:
            try:
                self._sent_by(self._connection, reports)
            except TransientError as error:
                _log.info("%s; by a new connection", error)
            else:
                return
        self._connection = connected(self._broker)
        self._sent_by(self._connection, reports)

    def _sent_by(self, connection: Connection, reports: Sequence[Told]) -> None:
        try:
            queue = durable(self._queue)(connection.default_channel)
            queue.declare()
            producer = Producer(connection.default_channel)
            for report in reports:
                self._publish(producer, report)
        except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
            self.close()
            raise TransientError(f"the OCS's broker did not take reports: {error}") from error

    def _publish(self, producer: Any, report: Told) -> None:
        producer.publish(
            report.as_json().encode(),
            routing_key=self._queue,
            exchange="",
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            message_id=f"{report.position}",
            timeout=_ANSWER_S,
        )

    def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

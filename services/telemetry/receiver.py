"""The OCS's side of the gateway: what it does with a report, and the report's position, are stored together.

A real OCS turns reports into events of its own (SAL); this one hands them to a function, and shows what it must keep to.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Protocol

from kombu import Connection, Consumer
from kombu.message import Message

from backbone.errors import PermanentError
from services.telemetry.gateway import durable

_log = logging.getLogger(__name__)


class Effect(Protocol):
    """What the OCS does with reports."""

    def position(self) -> int:
        """Of the last report whose effect is stored."""

    def apply(self, report: dict[str, Any]) -> None:
        """Do what there is to do, and store its position with it."""


class ReportRefused(PermanentError):
    """A message that is no report."""


def report_of(body: bytes | str) -> dict[str, Any]:
    """The report in a message; ReportRefused says why there is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ReportRefused(f"message of {len(body)} bytes: no JSON: {error}"[:200]) from error
    if not isinstance(found, dict) or not isinstance(found.get("values"), dict):
        raise ReportRefused(f"message of {len(body)} bytes: no report: it has no values")
    position = found.get("position")
    if isinstance(position, bool) or not isinstance(position, int) or position < 1:
        raise ReportRefused(f"message of {len(body)} bytes: its position is {str(position)[:40]!r}, no number from 1 on")
    return found


class ReportsMissing(PermanentError):
    """A report came before the one that it follows."""


def receive(connection: Connection, queue: str, effect: Effect, *, done: Callable[[], bool], wait_s: float = 1.0) -> None:
    """Take reports from the queue until `done`; each is acknowledged after its effect, and one that came before is left out."""

    def take(message: Message) -> None:
        try:
            report = report_of(message.body)
        except ReportRefused as error:
            _log.error("%s: %s; left out", queue, error)
            message.reject()
            return
        last = effect.position()
        if report["position"] > last + 1:
            message.requeue()
            raise ReportsMissing(f"report {report['position']} came where {last + 1} is next; see `pachon telemetry read`")
        if report["position"] == last + 1:
            effect.apply(report)
        message.ack()

    with Consumer(connection, [durable(queue)], on_message=take, prefetch_count=50):
        while not done():
            try:
                connection.drain_events(timeout=wait_s)
            except TimeoutError:
                connection.heartbeat_check()

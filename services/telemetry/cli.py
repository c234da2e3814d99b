"""Commands: `pachon telemetry …`."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path

import click

from services.broker import Broker
from services.settings import section
from services.telemetry.settings import TelemetrySettings
from services.telemetry.telemetry import Telemetry

_HOME = click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)


@click.group()
def telemetry() -> None:
    """What the observatory control system (OCS) is told."""


@telemetry.command()
@click.option("--after", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Begin after this position.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@_HOME
def read(after: int, limit: int, home: Path) -> None:
    """Print reports in their order, a line of JSON each."""
    with Telemetry.open(home) as found:
        for report in found.read(after, limit):
            click.echo(report.as_json())


@telemetry.command()
@_HOME
def status(home: Path) -> None:
    """Print how many reports there are, and how many the OCS's broker has."""
    with Telemetry.open(home) as found:
        last, sent = found.state()
    waits = section(home, "telemetry", TelemetrySettings).transport == "rabbitmq"
    click.echo(f"{last} reports, {sent} sent" + (f", {last - sent} wait" if waits else "; the OCS reads the database"))


@telemetry.command()
@click.option("--once", is_flag=True, help="End when everything is sent.")
@_HOME
def forward(once: bool, home: Path) -> None:
    """Send reports to the OCS's broker, as `pachon up` does."""
    from services.telemetry.gateway import Gateway  # kombu is for those who have a broker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = section(home, "telemetry", TelemetrySettings)
    with Telemetry.open(home) as found:
        gateway = Gateway(found, Broker(settings.broker, home), settings.queue)
        try:
            if not once:
                gateway.run(stop)
            while once and not stop.is_set() and (count := gateway.round()):
                click.echo(f"{count} sent")
        finally:
            gateway.close()

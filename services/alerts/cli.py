"""Commands: `pachon alerts …`. Thin: they parse, call the service, print."""

from __future__ import annotations

import getpass
import json
import logging
import signal
import sys
import threading
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from backbone.errors import PermanentError
from backbone.models import nearest
from payloads.ids import exposures_of
from services.alerts.book import FULL
from services.alerts.collected import collect
from services.alerts.damaged import all_damaged, damaged_of
from services.alerts.database_transport import position_at
from services.alerts.follow import Collection, follow
from services.alerts.frames import alerts_of, withheld
from services.alerts.packets import container, encode
from services.alerts.service import AlertService
from services.broker import keep_secret, secret_in
from services.cli_options import night_options

NUMBER = click.IntRange(0, 2**63 - 1)
F = TypeVar("F", bound=Callable[..., Any])


def with_home(function: F) -> F:
    """The option that every command has."""
    return click.option(
        "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
    )(function)


def until_told() -> threading.Event:
    """Set by SIGTERM and SIGINT: services end after what they are doing."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def log_to_output() -> None:
    """What a service says goes into the log that `pachon up` keeps of it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    for noisy in ("rstream", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@click.group()
def alerts() -> None:
    """Find alerts again, and bring them to subscribers."""


@alerts.command()
@click.argument("alert", type=NUMBER)
@click.option("--avro", "path", type=click.Path(path_type=Path, dir_okay=False), help="Write the packet to an Avro file instead.")
@click.option("--cutouts", is_flag=True, help="Print the cut-outs too, in base64.")
@click.option("--of", "origin", help="The one that was withheld from this night or RUN (`pachon alerts withheld`).")
@with_home
def get(alert: int, path: Path | None, cutouts: bool, origin: str | None, home: Path) -> None:
    """Print the packet of an alert, found by its id."""
    with AlertService(home) as service:
        packet = service.outbox.archive.get(alert, withheld_from=origin)
        if path is not None:
            path.write_bytes(container([encode(packet)])[0])
            click.echo(f"alert {alert}: written to {path}")
            return
    click.echo(json.dumps({k: _plain(v, cutouts) for k, v in packet.items()}, indent=1))


def _plain(value: Any, cutouts: bool) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode() if cutouts else f"{len(value)} bytes"
    return value


@alerts.command()
@click.argument("visit", type=NUMBER)
@with_home
def visit(visit: int, home: Path) -> None:
    """List detector and id of every alert of a visit."""
    with AlertService(home) as service:
        for detector, alert in service.outbox.archive.of_visit(visit):
            click.echo(f"{detector}\t{alert}")


@alerts.command("object")
@click.argument("number", type=NUMBER)
@with_home
def of_object(number: int, home: Path) -> None:
    """List the ids of every alert about a DIAObject."""
    with AlertService(home) as service:
        for alert in service.outbox.archive.of_object(number):
            click.echo(str(alert))


@alerts.command("collect")
@night_options
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@with_home
def collect_(instrument: str, day_obs: int, as_json: bool, home: Path) -> None:
    """Bring the alerts that batch productions made of a night to the subscribers. Twice is the same as once."""
    found = collect(home, instrument, day_obs)
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    click.echo(f"{found.new} alerts of {found.read} frames are on their way; {found.known} of {found.frames} frames were already")
    for words in found.withheld:
        click.echo(f"{words}; `pachon alerts withheld` lists them")
    for words in found.damaged:
        click.echo(f"left out: {words}")


@alerts.command("withheld")
@night_options
@with_home
def withheld_(instrument: str, day_obs: int, home: Path) -> None:
    """List the alerts of an observing day that nobody gets, since others had told their frames: visit, detector, id, whose it
    is, who told and when. `pachon alerts get ID --of WHOSE` prints one."""
    with AlertService(home) as service:
        book = service.outbox.book
        for call in withheld(book, instrument, *exposures_of(day_obs)):
            at = datetime.fromtimestamp(call.told_at, UTC).isoformat(timespec="seconds")
            for alert in alerts_of(book, call):
                told = f"told by {call.told_by or 'another'} at {at}"
                click.echo(f"{call.visit}\t{call.detector}\t{alert}\t{call.origin}\t{told}")


@alerts.command()
@with_home
def status(home: Path) -> None:
    """Print each stream: alerts promised, published, who subscribes, and how many packets came damaged if any did."""
    with AlertService(home) as service:
        names: dict[str, list[str]] = {}
        bad = damaged_of(service.outbox.book)
        for subscriber in service.subscribers.all():
            names.setdefault(subscriber.stream, []).append(subscriber.name)
        for stream, (last, _) in sorted(service.outbox.book.streams().items()):
            published = service.outbox.published(stream)
            readers = ", ".join(names.get(stream, [])) or "no subscriber"
            damaged = f"\t{bad[stream]} damaged" if stream in bad else ""
            click.echo(f"{stream}\t{last} promised\t{published} published\t{readers}{damaged}")


@alerts.command("damaged")
@with_home
def damaged_(home: Path) -> None:
    """List the packets that came damaged and were set aside: stream, position, which alert was promised there, who met it and
    when, the reason. `pachon alerts get ID` prints what the archive has of it."""
    with AlertService(home) as service:
        for one in all_damaged(service.outbox.book):
            at = datetime.fromtimestamp(one.at, UTC).isoformat(timespec="seconds")
            alert = "no alert" if one.alert is None else one.alert
            click.echo(f"{one.stream}\t{one.position}\t{alert}\t{one.subscriber} at {at}\t{one.reason}")


@alerts.command()
@click.option("--once", is_flag=True, help="End when everything is published.")
@with_home
def distribute(once: bool, home: Path) -> None:
    """Publish what the outbox promises, as `pachon up` does; any number may run."""
    log_to_output()
    stop = until_told()
    with AlertService(home) as service:
        transport = service.transport()
        try:
            distributor = service.distributor(transport)
            if not once:
                distributor.run(stop)
            while once and not stop.is_set() and (done := distributor.round()).published:
                click.echo(f"{done.published} published")
        finally:
            transport.close()


@alerts.command()
@click.option("--as", "name", required=True, help="Name of the subscriber.")
@click.option(
    "--secret", "secret", required=True, type=click.Path(path_type=Path, exists=True), help="Mode-600 file of its secret."
)
@click.option(
    "--into", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="SQLite file that collects packets."
)
@click.option("--archive", is_flag=True, help="Read from the archive: what the broker has let go of too.")
@click.option("--since", type=click.DateTime(), help="Begin with what was promised from then on (UTC); for a new file only.")
@click.option("--until", type=int, help="End after this position.")
@with_home
def replay(name: str, secret: Path, path: Path, archive: bool, since: datetime | None, until: int | None, home: Path) -> None:
    """Collect a subscriber's alerts, from where the file is: each once, however often this is broken off and begun again."""
    log_to_output()
    if not path.absolute().parent.is_dir():
        raise PermanentError(f"{path.absolute().parent} is no folder: alerts cannot be collected into {path}")
    with AlertService(home) as service:
        stream = service.subscribers.stream_of(name)
        start = 0 if since is None else position_at(service.outbox.book, stream, since.replace(tzinfo=UTC).timestamp())
        collection = Collection(path, start=start)
        transport = service.archive_transport() if archive else service.transport()
        try:
            last = follow(
                transport, collection, stream=stream, name=name, secret=secret_in(secret), stop=until_told(), until=until
            )
        finally:
            transport.close()
        click.echo(f"{path}: {len(collection.received())} alerts, the last at position {last}")
        if refused := collection.damaged():
            click.echo(
                f"{len(refused)} packets are damaged (table `damaged`), the first at position {refused[0][0]}: {refused[0][1]}"
            )


@alerts.group()
def subscriber() -> None:
    """Who may read which stream."""


@subscriber.command()
@click.argument("name")
@click.option("--stream", default=FULL, show_default=True)
@click.option("--actor", default=getpass.getuser, show_default="your name")
@with_home
def add(name: str, stream: str, actor: str, home: Path) -> None:
    """Make a subscriber; its secret goes to HOME/secrets/alerts-NAME, and is kept nowhere else."""
    with AlertService(home) as service:
        streams = {FULL, *service.outbox.book.streams()}
        if stream not in streams:
            raise PermanentError(f"there is no stream {stream!r}; {nearest(stream, sorted(streams))}")
        click.echo(
            f"subscriber {name} of {stream}: secret in {_kept(home, name, service.subscribe(name, actor=actor, stream=stream))}"
        )


@subscriber.command()
@click.argument("name")
@with_home
def renew(name: str, home: Path) -> None:
    """Make a new secret; the old one is refused from then on."""
    with AlertService(home) as service:
        click.echo(f"subscriber {name}: new secret in {_kept(home, name, service.renew(name))}")


@subscriber.command()
@click.argument("name")
@with_home
def remove(name: str, home: Path) -> None:
    """Let a subscriber in no more."""
    with AlertService(home) as service:
        service.unsubscribe(name)
    (home / "secrets" / f"alerts-{name}").unlink(missing_ok=True)
    click.echo(f"subscriber {name}: gone")


@subscriber.command("list")
@with_home
def list_(home: Path) -> None:
    """List subscribers and their streams."""
    with AlertService(home) as service:
        for found in service.subscribers.all():
            made = datetime.fromtimestamp(found.made, UTC).isoformat(timespec="seconds")
            click.echo(f"{found.name}\t{found.stream}\tmade {made} by {found.made_by}")


@alerts.command()
def schema() -> None:
    """Print the Avro schema of packets, whole, as readers of other languages want it."""
    from payloads.alert_schema import printable
    from payloads.alert_schema import schema as of_packets

    click.echo(json.dumps(printable(of_packets()), indent=1))


def _kept(home: Path, name: str, secret: str) -> Path:
    path = home / "secrets" / f"alerts-{name}"
    keep_secret(path, secret)
    return path

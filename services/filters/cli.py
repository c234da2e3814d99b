"""Commands: `pachon filter …`. Thin: they parse, call, print."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click
import yaml

from backbone.errors import PermanentError
from backbone.models import nearest
from payloads.alert_schema import schema
from services.alerts.book import FULL
from services.alerts.cli import log_to_output, until_told, with_home
from services.alerts.follow import follow
from services.alerts.service import AlertService
from services.broker import keep_secret, secret_in
from services.filters.book import FilterBook, feed
from services.filters.filter import Filter
from services.filters.functions import AGGREGATES, FUNCTIONS
from services.filters.kinds import kind_of
from services.filters.run import SERVICE, Filtering
from services.settings import database_url


def predefined() -> dict[str, str]:
    """Texts of the filters that anybody may take, by name."""
    found: dict[str, str] = yaml.safe_load(resources.files("services.filters").joinpath("predefined.yaml").read_text())
    return found


def opened(service: AlertService) -> FilterBook:
    """The filters of an alert service, in its database."""
    return FilterBook.open(database_url(service.settings.database, service.home))


def _text(text: str | None, name: str | None) -> str:
    if (text is None) == (name is None):
        raise PermanentError("give the filter's text, or --predefined with a name")
    known = predefined()
    if name is not None and name not in known:
        raise PermanentError(f"no predefined filter {name!r}; {nearest(name, list(known))}")
    return text if text is not None else known[str(name)]


@click.group("filter")
def filters() -> None:
    """Small expressions on what is in an alert: what passes goes to their user's own stream."""


@filters.command()
@click.argument("name")
@click.argument("text", required=False)
@click.option("--user", required=True)
@click.option("--predefined", "ready", help="Take one of `pachon filter predefined` instead of a text.")
@with_home
def add(name: str, text: str | None, user: str, ready: str | None, home: Path) -> None:
    """Define a filter, or give one another text; holds for alerts from now on."""
    with AlertService(home) as service:
        streams = {SERVICE: FULL, **{one.name: one.stream for one in service.subscribers.all()}}
        if streams.get(user, feed(user)) != feed(user):
            raise PermanentError(f"{user} is a subscriber of {streams[user]}: whoever has filters needs a name of its own")
        opened(service).define(user, name, _text(text, ready), service.settings)
        if user not in streams:
            path = home / "secrets" / f"alerts-{user}"
            keep_secret(path, service.subscribe(user, actor=user, stream=feed(user)))
            click.echo(f"user {user}: reads {feed(user)} with the secret in {path}")
    click.echo(f"filter {name} of {user} is in force")


@filters.command()
@click.argument("text", required=False)
@click.option("--predefined", "ready")
@click.option(
    "--on", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Avro file of packets to try it on."
)
def check(text: str | None, ready: str | None, path: Path | None) -> None:
    """Say whether a filter can be used, and what it lets pass of a file's packets (of whatever schema the file has)."""
    wanted = _text(text, ready)
    if path is None:
        Filter.of(wanted, kind_of(schema()))
        click.echo("can be used")
        return
    import fastavro

    with path.open("rb") as stream:
        try:
            reader = fastavro.reader(stream)
            made = Filter.of(wanted, kind_of(reader.writer_schema))
            found = [made.passes(packet) for packet in reader]  # type: ignore[arg-type]
        except PermanentError:
            raise
        except Exception as error:  # fastavro raises whatever its readers run into
            raise PermanentError(f"{path}: not a whole Avro file of packets: {error!r}"[:300]) from error
    click.echo(f"{sum(found)} of {len(found)} pass")


@filters.command()
@click.argument("name")
@click.option("--user", required=True)
@with_home
def remove(name: str, user: str, home: Path) -> None:
    """End a filter; what it has sent stays sent."""
    with AlertService(home) as service:
        opened(service).remove(user, name)
    click.echo(f"filter {name} of {user} is gone")


@filters.command("list")
@click.option("--user", help="Of this user alone, with what was sent of each visit.")
@with_home
def list_(user: str | None, home: Path) -> None:
    """List filters in force."""
    with AlertService(home) as service:
        book = opened(service)
        for one in book.in_force():
            if user in (None, one.user):
                click.echo(f"{one.user}\t{one.name}\t{one.text}")
        for visit, sent, over in book.sent(user) if user else ():
            click.echo(f"visit {visit}\t{sent} sent\t{over} more passed")


@filters.command("predefined")
def predefined_() -> None:
    """List the filters that anybody may take, and the functions of the language."""
    for name, text in predefined().items():
        click.echo(f"{name}\t{text}")
    click.echo(f"functions\t{' '.join(sorted([*FUNCTIONS, *AGGREGATES, 'count', 'any', 'all']))}")


@filters.command()
@click.option("--until", type=int, help="End after this position of the full stream.")
@with_home
def run(until: int | None, home: Path) -> None:
    """Filter alerts as they come, as `pachon up` does; several may run, one at a time has work."""
    log_to_output()
    with AlertService(home) as service:
        secret = _own_secret(service)
        effect = Filtering(opened(service), service.outbox.book, per_visit=service.settings.alerts_per_visit)
        transport = service.transport()
        try:
            follow(transport, effect, stream=FULL, name=SERVICE, secret=secret, stop=until_told(), until=until)
        finally:
            transport.close()


def _own_secret(service: AlertService) -> str:
    """Made at the first run; made anew where its file is lost, or where its user at the broker may not have been made."""
    path = service.home / "secrets" / f"alerts-{SERVICE}"
    if path.exists():
        return secret_in(path)
    known = SERVICE in {one.name for one in service.subscribers.all()}
    secret = service.renew(SERVICE) if known else service.subscribe(SERVICE, actor="pachon")
    keep_secret(path, secret)
    return secret

"""Commands: `pachon backbone …`, what people do with files. Thin: they parse, call the backbone, print. Care of it: cli_care."""

from __future__ import annotations

import getpass
import json
import mimetypes
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table

from backbone.access import Principal
from backbone.backbone import Backbone
from backbone.endpoint import checked_key
from backbone.errors import PachonError, PermanentError, UnknownFile
from backbone.home import open_backbone
from backbone.page import date_text, size_text
from backbone.transfers import retry, transfers
from backbone.usage import overview

F = TypeVar("F", bound=Callable[..., Any])
_COLOUR = {
    "AVAILABLE": "green",
    "BAD": "red",
    "LOST": "red",
    "STUCK": "red",
    "COPYING": "cyan",
    "RUNNING": "cyan",
    "WAITING": "yellow",
}
# Commands of other modules, imported when asked for.
_ELSEWHERE = {
    **dict.fromkeys(("policy", "page", "history"), "backbone.cli_look"),
    **dict.fromkeys(("scrub", "repair", "recover", "quarantine", "cache", "archive"), "backbone.cli_care"),
    "mover": "backbone.mover_cli",
}


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            command: click.Command = getattr(import_module(_ELSEWHERE[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)


def with_home(function: F) -> F:
    """The option that every command has."""
    return click.option(
        "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
    )(function)


def with_json(function: F) -> F:
    """The option of commands that print."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def with_actor(function: F) -> F:
    """The option of commands that change something."""
    return click.option("--actor", default=getpass.getuser, show_default="your name", help="Who does this, for the history.")(
        function
    )


def console() -> Console:
    """Wide where nobody watches: a pipe must not get folded tables."""
    return Console(width=None if sys.stdout.isatty() else 200)


def progress_bar(of: Literal["bytes", "files"] = "bytes") -> Progress:
    """A bar on the terminal's other stream; nothing where nobody watches."""
    err = Console(stderr=True)
    counted = (DownloadColumn(), TransferSpeedColumn()) if of == "bytes" else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def plain(value: Any) -> Any:
    """Dataclasses, alone or in sequences, as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple | set) else value


def coloured(state: str) -> str:
    """A state with the colour that says how it is."""
    return f"[{_COLOUR[state]}]{state}[/]" if state in _COLOUR else state


def print_json(value: Any) -> None:
    """One document on standard output."""
    click.echo(json.dumps(plain(value)))


@click.group(cls=_Group)
def backbone() -> None:
    """Put, find and look after files at all places."""


@backbone.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--at", required=True, help="Endpoint that receives them; policies say where else they go.")
@click.option("--key", help="Key of a single file; default: its name, below --prefix.")
@click.option("--prefix", default="", help="Begin of the keys, such as raw/20260101/.")
@click.option("--type", "dataset_type", required=True, help="Dataset type, which policies speak of.")
@click.option("--collection", default="manual", show_default=True)
@click.option("--instrument", default="")
@click.option("--tag", "tags", multiple=True)
@click.option("--retention", default="permanent", show_default=True)
@click.option("--access", default="owner", show_default=True, help="owner, public, group:NAME or list:NAME,NAME")
@with_actor
@with_home
@with_json
def put(
    paths: tuple[Path, ...],
    at: str,
    key: str | None,
    prefix: str,
    dataset_type: str,
    collection: str,
    instrument: str,
    tags: tuple[str, ...],
    retention: str,
    access: str,
    actor: str,
    home: Path,
    as_json: bool,
) -> None:
    """Store files at an endpoint and register them. The same again is a success."""
    if key is not None and len(paths) > 1:
        raise PermanentError("--key names one file; for several give --prefix")
    found, opened = [], open_backbone(home)
    about = {"dataset_type": dataset_type, "collection": collection, "instrument": instrument, "tags": tags}
    with progress_bar() as bar:
        task = bar.add_task(f"put at {at}", total=sum(path.stat().st_size for path in paths))
        for path in paths:
            more = {"retention": retention, "access": access, "owner": actor, "created": path.stat().st_mtime}
            media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            name = checked_key(key or prefix + path.name)
            found.append(opened.put(at, name, path, {**about, **more, "media_type": media_type}, actor))
            bar.advance(task, found[-1].size)
    if as_json:
        print_json([{"key": info.key, "size": info.size, "sha256": info.sha256} for info in found])
    else:
        for info in found:
            click.echo(f"{info.key}  {size_text(info.size)}  sha256 {info.sha256}")


@backbone.command()
@click.argument("key")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--near", help="Endpoint to ask first.")
@click.option("--as", "user", help="Read as this user: access rules hold, refusals are written down.")
@click.option("--group", "groups", multiple=True, help="With --as: a group of that user.")
@with_home
@with_json
def get(
    key: str, path: Path | None, near: str | None, user: str | None, groups: tuple[str, ...], home: Path, as_json: bool
) -> None:
    """Copy a file to PATH (default: its name, here), from a whole replica, its checksum verified."""
    target = path or Path(key.rpartition("/")[2])
    if target.is_dir():
        target = target / key.rpartition("/")[2]
    who = None if user is None else Principal(name=user, groups=frozenset(groups))
    opened = open_backbone(home)
    with progress_bar() as bar:
        known = opened.locate([key], who).get(key, ())
        task = bar.add_task(f"get {key}", total=known[0].size if known else None)
        info = opened.fetch(key, target.absolute(), who=who, near=near)
        bar.update(task, total=info.size, completed=info.size)
    if as_json:
        print_json({"key": key, "path": str(target), "size": info.size, "sha256": info.sha256})
    else:
        click.echo(f"{target}  {size_text(info.size)}  sha256 {info.sha256}")


@backbone.command()
@click.argument("keys", nargs=-1, required=True)
@with_home
@with_json
def locate(keys: tuple[str, ...], home: Path, as_json: bool) -> None:
    """Where files are, and where they are on their way."""
    found = _located(open_backbone(home), keys)
    if as_json:
        print_json(found)
        return
    table = Table(Column("KEY", overflow="fold"), "WHOLE AT", "ON THEIR WAY TO", "DAMAGED AT")
    for key, replicas in found.items():
        whole = [r.endpoint for r in replicas if r.state == "AVAILABLE"]
        coming = [
            f"{r.endpoint} ({'no ETA' if r.eta_s is None else f'{r.eta_s:.0f} s'})" for r in replicas if r.state == "COPYING"
        ]
        bad = [f"{r.endpoint} ({r.state})" for r in replicas if r.state not in ("AVAILABLE", "COPYING")]
        table.add_row(key, " ".join(whole), " ".join(coming), " ".join(bad))
    console().print(table)


def _located(opened: Backbone, keys: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = opened.locate(keys)
    for key in keys:
        if key not in found:
            raise UnknownFile(f"the backbone has no file {key!r}; see `pachon backbone usage`, or register it first")
    return found


@backbone.command()
@click.argument("key")
@with_home
@with_json
def replicas(key: str, home: Path, as_json: bool) -> None:
    """Every replica of a file: its state, when its bytes were last verified, and what is wrong."""
    found = _located(open_backbone(home), [key])[key]
    if as_json:
        print_json(found)
        return
    click.echo(f"{key}  sha256 {found[0].sha256 if found else '?'}")
    table = Table("AT", "STATE", "VERIFIED", "ETA", "REASON")
    for r in found:
        table.add_row(
            r.endpoint, coloured(r.state), date_text(r.verified), "" if r.eta_s is None else f"{r.eta_s:.0f} s", r.reason
        )
    console().print(table)


@backbone.command("transfers")
@click.option("--state", type=click.Choice(["PENDING", "WAITING", "RUNNING", "STUCK"]), help="Only these.")
@click.option("--to", "target", help="Only those to this endpoint.")
@click.option("--key", "keys", multiple=True, help="Only those of this file; may be repeated.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--retry", "again", is_flag=True, help="Let what is STUCK be tried again.")
@with_actor
@with_home
@with_json
def transfers_(
    state: str | None, target: str | None, keys: tuple[str, ...], limit: int, again: bool, actor: str, home: Path, as_json: bool
) -> None:
    """What is still to be copied, STUCK first, each with its last reason."""
    opened = open_backbone(home)
    number = None if target is None else opened.catalog.endpoint_id(target)
    if again:
        count = retry(opened.catalog, actor=actor, now=opened.now(), keys=keys or None, target=number)
        print_json({"retried": count}) if as_json else click.echo(f"{count} transfers are tried again")
        return
    found = transfers(opened.catalog, keys=keys or None, state=state, target=number, limit=limit)
    if as_json:
        print_json(found)
        return
    table = Table("STATE", "FROM", "TO", "PRIORITY", "DEADLINE", "TRIES", Column("KEY", overflow="fold"), "REASON")
    for x in found:
        row = (x.source or "?", x.target, str(x.priority), date_text(x.deadline), str(x.attempts), x.key, x.reason)
        table.add_row(coloured(x.state), *row)
    console().print(table)


@backbone.command()
@with_home
@with_json
def usage(home: Path, as_json: bool) -> None:
    """Files and bytes by place and state, links and their backlog."""
    seen = overview(open_backbone(home))
    if as_json:
        print_json(seen.as_json())
        return
    table = Table(title=f"{seen.files:,} files, {size_text(seen.size_bytes)}", title_justify="left")
    for name in ("PLACE", "AVAILABLE", "BAD", "LOST", "DELETING", "ON THEIR WAY", "STUCK", "BYTES", "LAST SCRUBBED"):
        table.add_column(name, justify="left" if name == "PLACE" else "right")
    for p in seen.places:
        counts = [str(p.replicas.get(state, 0)) for state in ("AVAILABLE", "BAD", "LOST", "DELETING")]
        coming = (str(sum(p.arriving.values())), str(p.arriving.get("STUCK", 0)))
        size = size_text(p.size_bytes) + (f" of {size_text(p.room_bytes)}" if p.room_bytes is not None else "")
        table.add_row(p.name, *counts, *coming, size, date_text(p.scrub.ended if p.scrub else None))
    console().print(table)
    console().print(_links(seen.links))


def _links(links: Iterable[Any]) -> Table:
    table = Table("FROM", "TO", "RATE", "PENDING", "BYTES", "RUNNING", "WAITING", "STUCK", "FAILURES")
    for x in links:
        if x.bytes_per_s or x.pending or x.running or x.waiting or x.stuck or x.failures:
            counts = [str(n) for n in (x.running, x.waiting, x.stuck, x.failures)]
            table.add_row(
                x.source, x.target, f"{size_text(x.bytes_per_s)}/s", str(x.pending), size_text(x.pending_bytes), *counts
            )
    return table


def main(args: Sequence[str] | None = None) -> None:
    """For processes of our own: errors of ours are a message and exit code 1."""
    try:
        backbone.main(args=args, prog_name="pachon backbone")
    except PachonError as error:
        click.echo(f"pachon: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

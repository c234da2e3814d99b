"""Commands about one quantum: `pachon quantum show`, `rerun`, `log`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from workflow.cli_options import console, home_option, json_option
from workflow.context import Context
from workflow.selection import Selection
from workflow.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def quantum() -> None:
    """What one quantum read, wrote and needed; run it again and compare; its logs."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("lsst").setLevel(logging.ERROR)


def _which(function: F) -> F:
    """ID, or --campaign with --label and --data-id."""
    for option in (
        click.option("--data-id", "where", default="", metavar="EXPRESSION", help='As "visit=12 AND detector=3".'),
        click.option("--label", help="Its task."),
        click.option("--campaign", help="Its campaign, where no id is given."),
        click.argument("name", metavar="[ID]", required=False),
    ):
        function = option(function)
    return function


def _found(home: Path, name: str | None, campaign: str | None, label: str | None, where: str) -> tuple[Context, Any]:
    from workflow import quanta  # brings the Butler

    context = Context(Settings.load(home))
    selection = Selection.said(label=label, where=where) if label or where else None
    return context, quanta.find(context, name=name, campaign=campaign, selection=selection)


@quantum.command()
@_which
@home_option
@json_option
def show(name: str | None, campaign: str | None, label: str | None, where: str, home: Path, as_json: bool) -> None:
    """Inputs, outputs, configuration, and every attempt with its host, software, times, memory and end."""
    context, row = _found(home, name, campaign, label, where)
    from workflow import quanta

    found = quanta.show(context, row)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{found['id']}  {found['campaign']}/{found['step']}/{found['label']} {found['data_id']}: {found['state']}")
    click.echo(f"generation {found['generation']}{'' if found['current'] else ' (no longer current)'}, RUN {found['run']}")
    click.echo(f"configuration {(found['config_digest'] or '–')[:12]}: dataset {found['config_dataset']}")
    for ref in found["inputs"]:
        click.echo(f"  reads {ref['dataset_type']} {ref['data_id']} of {ref['run']} ({ref['dataset']})")
    table = Table(
        "ATTEMPT", "AT", "SOFTWARE", "MEMORY", "END", "WALL s", "PEAK MB", "WHAT", title="attempts", title_justify="left"
    )
    for one in found["attempts"]:
        for o in one["outcomes"] or [{}]:
            end = o.get("state", one["job_state"]) + (" accepted" if one["accepted"] else "")
            what = o.get("error") or ", ".join(f"{w['dataset_type']} {w['key']}" for w in o.get("outputs", []))
            place = f"{one['site']} {one['host'] or ''}"
            numbers = [f"{o[key]:.2f}" if key in o else "" for key in ("wall_s", "peak_mb")]
            software = (one["software"] or "not told")[:12]
            table.add_row(one["attempt"], place, software, f"{one['memory_mb']} MB", end, *numbers, what.partition("\n")[0])
    console().print(table)


@quantum.command()
@_which
@click.option("--compare", is_flag=True, help="Exit code 1 unless it wrote the same, but for what is declared to differ.")
@home_option
@json_option
def rerun(
    name: str | None, campaign: str | None, label: str | None, where: str, compare: bool, home: Path, as_json: bool
) -> None:
    """Run it again here, from its own graph, configuration and inputs, in a place that is removed; compare what it writes."""
    context, row = _found(home, name, campaign, label, where)
    from workflow.rerun import rerun as again

    done = again(context, row)
    if as_json:
        click.echo(json.dumps(done.as_json()))
    else:
        click.echo(f"{row.label} {row.data_id}: {done.state} in {done.wall_s:.2f} s, before in {done.wall_before_s:.2f} s")
        if done.error:
            click.echo(done.error)
        for o in done.outputs:
            click.echo(f"  {o.verdict:10} {o.dataset_type} {o.dataset} {o.words}".rstrip())
    if compare and not done.same:
        sys.exit(1)


@quantum.command()
@_which
@home_option
@json_option
def log(name: str | None, campaign: str | None, label: str | None, where: str, home: Path, as_json: bool) -> None:
    """What the task logged in each attempt, and how it failed."""
    context, row = _found(home, name, campaign, label, where)
    from workflow import quanta

    found = quanta.logs(context, row)
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        click.secho(f"attempt {one['attempt']} at {one['site']} {one['host'] or ''}", bold=True)
        for line in (*one["lines"], *one["errors"]):
            click.echo(line)

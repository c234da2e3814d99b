"""Commands about sites: `pachon campaign why` and `pachon campaign sites`."""

from __future__ import annotations

import getpass
import json
from itertools import groupby
from pathlib import Path

import click

from workflow.broker import Word
from workflow.campaigns import Campaigns


@click.command("why")
@click.argument("name")
@click.option("--group", "group_name", metavar="STEP/GROUP", help="One group alone.")
@click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def why(name: str, group_name: str | None, home: Path, as_json: bool) -> None:
    """Why it is not running, why here, why it failed."""
    found = Campaigns.open(home).why(name, group_name)
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    for subject, findings in groupby(found.findings, key=lambda one: one.subject):
        click.secho(subject, bold=True)
        for one in findings:
            label = "" if one.question == "state" else f"why {one.question}: "
            click.echo(f"  {label}{one.answer}")


@click.command("sites")
@click.argument("name")
@click.option("--step", default="", help="One step alone.")
@click.option("--group", "group_name", default="", help="One group of that step alone.")
@click.option("--only", multiple=True, metavar="SITE", help="Only these sites; may be repeated.")
@click.option("--never", multiple=True, metavar="SITE", help="Never these sites; may be repeated.")
@click.option("--only-machine", multiple=True, metavar="HOST", help="Only these machines; may be repeated.")
@click.option("--never-machine", multiple=True, metavar="HOST", help="Never these machines; may be repeated.")
@click.option("--reason", default="", help="Why, for the audit.")
@click.option("--actor", default=getpass.getuser, show_default="your name", help="Who does this, for the audit.")
@click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)
def sites(
    name: str,
    step: str,
    group_name: str,
    only: tuple[str, ...],
    never: tuple[str, ...],
    only_machine: tuple[str, ...],
    never_machine: tuple[str, ...],
    reason: str,
    actor: str,
    home: Path,
) -> None:
    """Say where a campaign may run and where not; without options it may run anywhere again."""
    word = Word(only=only, never=never, only_machines=only_machine, never_machines=never_machine)
    Campaigns.open(home).say_sites(name, word, actor=actor, step=step, group=group_name, why=reason)
    click.echo(f"campaign {name}: noted; it holds from the engine's next round on")

"""Commands about sites: `pachon campaign why` and `pachon campaign sites`."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import click

from workflow.broker import Word
from workflow.campaigns import Campaigns
from workflow.cli_options import actor_option, home_option, json_option, reason_option
from workflow.words import in_words


@click.command("why")
@click.argument("name")
@click.option("--group", "group_name", metavar="STEP/GROUP", help="One group alone.")
@home_option
@json_option
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
@reason_option
@actor_option
@home_option
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
    click.echo(f"campaign {name}: {in_words(word)}; it holds from the engine's next round on")

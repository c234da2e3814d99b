"""Commands by which operators look closely at a campaign and act on it: report, retry, move, priority, hotfix."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import yaml

from workflow import tables_text
from workflow.campaigns import Campaigns, RetryReport
from workflow.cli_options import actor_option, console, home_option, json_option, reason_option, yes_option
from workflow.errors import ProductionError
from workflow.selection import Selection


@click.command()
@click.argument("name")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots that loads nothing.")
@home_option
@json_option
def report(name: str, html: Path | None, home: Path, as_json: bool) -> None:
    """Task label by state, with EXPECTED; errors, core-hours and badput, versions, outliers, projected finish."""
    found = Campaigns.open(home).report(name)
    if html is not None:
        from workflow.page import page

        html.write_text(page(found, time.time()), encoding="utf-8")
        click.echo(f"{html} written", err=True)
    if as_json:
        click.echo(json.dumps(found.as_json()))
    elif html is None:
        for table in tables_text.report_tables(found):
            console().print(table)


@click.command()
@click.argument("name")
@yes_option
@click.option("--dry-run", is_flag=True, hidden=True, help="What is done without --yes.")
@click.option("--at-most", type=int, help="Refuse if more quanta would run than this, the number that was shown.")
@reason_option
@actor_option
@home_option
@json_option
def retry(name: str, yes: bool, dry_run: bool, at_most: int | None, reason: str, actor: str, home: Path, as_json: bool) -> None:
    """Give failed quanta, and what was given up for them, another life. Shows what would run; --yes runs it."""
    only_show = dry_run or not yes
    done = Campaigns.open(home).retry(name, actor, dry_run=only_show, at_most=at_most, reason=reason)
    if as_json:
        click.echo(json.dumps(done.as_json() | {"quanta": done.quanta}))
        return
    click.echo(_retry_words(done, only_show))
    if done.labels:
        console().print(tables_text.effect_table(done.labels, "by task"))
    if done.unplanned:
        click.echo(f"{done.unplanned} quanta that could not be planned again are left alone: a hot fix plans them")
    if only_show and (done.quanta or done.steps):
        click.echo(f"nothing is done yet; to run exactly these: pachon campaign retry {name} --yes --at-most {done.quanta}")


def _retry_words(done: RetryReport, only_show: bool) -> str:
    steps = ", ".join(done.steps)
    if done.quanta:
        verb, cost = "would go" if only_show else "go", tables_text.hours(done.core_hours)
        return f"{done.failed} failed and {done.pruned} pruned quanta {verb} again, in steps: {steps}; about {cost} of core time"
    if done.steps:
        return (
            f"no quantum failed; {'would be' if only_show else 'is'} planned or finished again, which failed before: step {steps}"
        )
    return "nothing failed: there is nothing to run again"


@click.command()
@click.argument("name")
@click.option("--to", "to", required=True, metavar="SITE", help="Where what has not started goes from now on.")
@click.option("--step", default="", help="One step alone.")
@click.option("--group", "group_name", default="", help="One group of that step alone.")
@yes_option
@reason_option
@actor_option
@home_option
@json_option
def move(name: str, to: str, step: str, group_name: str, yes: bool, reason: str, actor: str, home: Path, as_json: bool) -> None:
    """Send pending work to another site. Jobs that run are left to end; undone by `pachon campaign sites NAME`."""
    done = Campaigns.open(home).move(name, to, actor, step=step, group=group_name, reason=reason, dry_run=not yes)
    if as_json:
        click.echo(json.dumps(done.as_json()))
        return
    verb = "are given back" if yes else "would be given back; nothing is done yet, --yes does it"
    click.echo(f"to {to}: {done.jobs} waiting jobs with {done.quanta} quanta {verb}")


@click.command()
@click.argument("name")
@click.argument("priority", type=int)
@reason_option
@actor_option
@home_option
def priority(name: str, priority: int, reason: str, actor: str, home: Path) -> None:
    """Which campaign of its kind goes first: higher does. Default 0."""
    old = Campaigns.open(home).prioritise(name, priority, actor, reason)
    click.echo(f"{name}: priority {old} → {priority}")


@click.command()
@click.argument("name")
@click.option("--step", help="Quanta of this step.")
@click.option("--label", help="Quanta of this task.")
@click.option("--where", default="", metavar="EXPRESSION", help='By data ID: "visit > 100 AND detector IN (1, 4..7)".')
@click.option("--state", "states", multiple=True, help="Quanta in this state; may be repeated.")
@click.option("--version", "version", metavar="PACKAGE=VERSION", help="Quanta made with this version (or PACKAGE!=VERSION).")
@click.option("--software", metavar="NAME", help="New software: one that every site lists under `software:`.")
@click.option("--config", "pairs", multiple=True, metavar="LABEL:FIELD=VALUE", help="New task configuration; may be repeated.")
@yes_option
@reason_option
@actor_option
@home_option
@json_option
def hotfix(
    name: str,
    software: str | None,
    pairs: tuple[str, ...],
    yes: bool,
    reason: str,
    actor: str,
    home: Path,
    as_json: bool,
    **said: Any,
) -> None:
    """Other software or configuration for chosen quanta, what descends from them, and all not yet run.

    Shows the blast radius; --yes does it. Outputs of accepted quanta that are concerned leave the published collections, and
    their quanta run again as a new generation, in a RUN of its own.
    """
    selection = Selection.said(**said)
    effect = Campaigns.open(home).hotfix(
        name,
        selection,
        actor=actor,
        reason=reason or ("" if yes else "shown"),
        software=software,
        config=configuration(pairs),
        dry_run=not yes,
    )
    if as_json:
        click.echo(json.dumps(effect.as_json()))
        return
    click.echo(f"{name}: {effect.selection}: {effect.quanta} quanta, about {tables_text.hours(effect.core_hours)} of core time")
    console().print(tables_text.effect_table(effect.selected, "chosen"))
    if effect.descendants:
        console().print(tables_text.effect_table(effect.descendants, "what descends from them"))
    for step, count in effect.bound.items():
        click.echo(f"step {step}: {count} more quanta not yet run get the new binding" if count else f"step {step}: bound anew")
    click.echo(f"outputs of {effect.withdrawn} accepted quanta leave the published collections")
    for other, count in effect.users_elsewhere.items():
        click.echo(f"campaign {other} used withdrawn calibrations in {count} quanta: nothing is done there")
    if not yes:
        click.echo("nothing is done yet; --yes --reason WHY does it")


def configuration(pairs: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """LABEL:FIELD=VALUE, ... as label → field → value, each value read as YAML reads it."""
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        target, equals, value = pair.partition("=")
        label, colon, field = target.partition(":")
        if not (equals and colon and label and field):
            raise ProductionError(f"--config {pair}: write LABEL:FIELD=VALUE")
        found.setdefault(label, {})[field] = yaml.safe_load(value)
    return found


COMMANDS = (report, retry, move, priority, hotfix)

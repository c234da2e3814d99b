"""Commands: `pachon qc …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from backbone.cli import console, print_json, with_actor, with_home, with_json
from backbone.page import date_text
from backbone.qc.alarms import Alarm
from backbone.qc.metric import subject_text
from backbone.qc.quality import Quality


@click.group()
def qc() -> None:
    """Quality control: metrics, thresholds, alarms."""


@qc.command()
@click.option("--name", help="Name or glob: 'flat_*'.")
@click.option("--instrument")
@click.option("--since", "first_day", type=int, metavar="YYYYMMDD")
@click.option("--until", "last_day", type=int, metavar="YYYYMMDD")
@click.option("--source", help="A campaign.")
@click.option("--limit", type=int, default=1000, show_default=True)
@with_home
@with_json
def metrics(
    name: str | None,
    instrument: str | None,
    first_day: int | None,
    last_day: int | None,
    source: str | None,
    limit: int,
    home: Path,
    as_json: bool,
) -> None:
    """What was measured."""
    found = Quality.open(home).metrics(
        name=name, instrument=instrument, first_day=first_day, last_day=last_day, source=source, limit=limit
    )
    if as_json:
        print_json([asdict(one) for one in found])
        return
    table = Table("DAY", "INSTRUMENT", "METRIC", "SUBJECT", "VALUE", "UNIT", "SOURCE")
    for one in found:
        value = "not known" if one.known is None else f"{one.known:.5g}"
        table.add_row(str(one.day_obs), one.instrument, one.name, subject_text(one.subject), value, one.unit, one.source)
    console().print(table)


@qc.command()
@click.option("--instrument")
@click.option("--all", "everything", is_flag=True, help="Cleared ones too.")
@with_home
@with_json
def alarms(instrument: str | None, everything: bool, home: Path, as_json: bool) -> None:
    """What wants somebody to look; exit code 0 whether there is any or not."""
    _show(Quality.open(home).alarms(instrument=instrument, open_only=not everything), as_json)


@qc.command()
@click.argument("alarm", type=int)
@click.option("--reason", default="", help="What you are doing about it.")
@with_actor
@with_home
@with_json
def acknowledge(alarm: int, reason: str, actor: str, home: Path, as_json: bool) -> None:
    """Say that you see to ALARM: it will not escalate."""
    _show([Quality.open(home).acknowledge(alarm, actor=actor, why=reason)], as_json)


@qc.command()
@click.argument("alarm", type=int)
@click.option("--reason", required=True, help="Why it is over.")
@with_actor
@with_home
@with_json
def clear(alarm: int, reason: str, actor: str, home: Path, as_json: bool) -> None:
    """Say that ALARM is over; one whose metric comes back within its band clears itself."""
    _show([Quality.open(home).clear(alarm, actor=actor, why=reason)], as_json)


@qc.command()
@with_actor
@with_home
@with_json
def escalate(actor: str, home: Path, as_json: bool) -> None:
    """Raise the level of alarms that nobody acknowledged in time."""
    _show(Quality.open(home).escalate(actor=actor), as_json)


@qc.command()
@click.option("--apply", "path", type=click.Path(path_type=Path), help="YAML to put in the place of all that are in force.")
@with_actor
@with_home
@with_json
def thresholds(path: Path | None, actor: str, home: Path, as_json: bool) -> None:
    """What metrics are held to."""
    quality = Quality.open(home)
    found = quality.apply_thresholds(path, actor=actor) if path else quality.thresholds()
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    table = Table("NAME", "METRIC", "INSTRUMENT", "LOW", "HIGH", "SEVERITY", "WHY")
    for one in found:
        band = ["" if limit is None else f"{limit:g}" for limit in (one.low, one.high)]
        table.add_row(one.name, one.metric, one.instrument, *band, one.severity, one.why)
    console().print(table)


def _show(found: list[Alarm], as_json: bool) -> None:
    if as_json:
        print_json([asdict(one) for one in found])
        return
    table = Table("NUMBER", "SEVERITY", "STATE", "LEVEL", "SINCE", "TIMES", "INSTRUMENT", "SUBJECT", "WORDS")
    for one in found:
        state = f"{one.state} by {one.acknowledged_by}" if one.state == "ACKNOWLEDGED" else str(one.state)
        numbers = [str(one.level), date_text(one.first_at), str(one.count)]
        table.add_row(str(one.id), one.severity, state, *numbers, one.instrument, subject_text(one.subject), one.words)
    console().print(table)

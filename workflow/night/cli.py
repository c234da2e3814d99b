"""Commands: `pachon night …`. Thin: they parse, call `Nights`, and print."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click

from workflow.cli_options import actor_option, console, home_option, json_option, reason_option
from workflow.loop import Stop
from workflow.night.nights import Nights, NightStatus
from workflow.settings import Settings


@click.group()
def night() -> None:
    """Open nights of prompt processing, watch them, end them."""


def _show(status: NightStatus, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status.as_json()))
        return
    parts = ", ".join(f"{n} {state}" for state, n in status.parts.items() if n) or "nothing yet"
    armed = f"{status.armed} of {len(status.detectors)} detectors armed"
    console().print(f"{status.name}: {status.state.value}, {armed}, {status.visits} visits, {parts} {status.reason}".strip())


@night.command()
@home_option
def run(home: Path) -> None:
    """Supervise every open night until told to stop (SIGTERM, SIGINT). More than one may run."""
    from workflow.night.loop import run_nights

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    stop = Stop().install()
    run_nights(Nights(Settings.load(home)), stop=stop)


@night.command("open")
@click.argument("name")
@click.option("--instrument", required=True)
@click.option("--day-obs", required=True, type=int, help="Observing day, YYYYMMDD.")
@click.option("--skymap", default="", help="Sky map; default: the one named as the instrument.")
@click.option("--detectors", required=True, help="Detectors, as 0,1,2.")
@actor_option
@home_option
@json_option
def open_(name: str, instrument: str, day_obs: int, skymap: str, detectors: str, actor: str, home: Path, as_json: bool) -> None:
    """Begin the night NAME: its supervisor (`pachon night run`) arms a worker for each detector."""
    words = detectors.split(",")
    if not all(word.strip().isdigit() for word in words):
        raise click.BadParameter(f"{detectors!r}: write numbers, as 0,1,2", param_hint="--detectors")
    numbers = [int(word) for word in words]
    nights = Nights.open(home)
    made = nights.begin(name, instrument=instrument, day_obs=day_obs, skymap=skymap or instrument, detectors=numbers, actor=actor)
    _show(made, as_json)


@night.command()
@click.argument("name")
@reason_option
@actor_option
@home_option
@json_option
def drain(name: str, reason: str, actor: str, home: Path, as_json: bool) -> None:
    """End a night: what is in flight is finished, nothing new is begun, then it is closed."""
    _show(Nights.open(home).drain(name, actor, reason), as_json)


@night.command()
@click.argument("name")
@home_option
@json_option
def status(name: str, home: Path, as_json: bool) -> None:
    """State of a night."""
    _show(Nights.open(home).status(name), as_json)


@night.command("list")
@click.option("--newest", type=click.IntRange(1), default=30, show_default=True, help="So many of them.")
@home_option
@json_option
def list_(newest: int, home: Path, as_json: bool) -> None:
    """The newest nights, the oldest of these first."""
    for found in Nights.open(home).every(newest=newest):
        _show(found, as_json)


@night.command()
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@home_option
def report(name: str, folder: Path, home: Path) -> None:
    """Write the data-quality and the performance report of a night into FOLDER, as HTML and JSON."""
    from workflow.night.reports import write_reports

    for path in write_reports(Nights.open(home), name, folder):
        click.echo(str(path))

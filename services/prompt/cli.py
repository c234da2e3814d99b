"""Commands of prompt processing that belong to `pachon night` (deploy/cli_night.py). Thin: they call and print."""

from __future__ import annotations

import json
from pathlib import Path

import click

from services.cli_options import night_options
from services.prompt.collected import collect


@click.command("collect")
@night_options
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)
def collect_(instrument: str, day_obs: int, as_json: bool, home: Path) -> None:
    """Put the sources that workers found in a night into the repository, for the day after. Twice is the same as once."""
    found = collect(home, instrument, day_obs)
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    click.echo(f"{found.frames} frames with {found.sources} sources are new in the repository, {found.already} were there")
    if found.unknown:
        some = ", ".join(str(visit) for visit in found.unknown[:5])
        click.echo(f"{len(found.unknown)} visits have no raw frames in the repository: {some}; `pachon ingest` them, then again")


COMMANDS = (collect_,)

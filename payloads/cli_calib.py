"""Commands on calibrations that look at the science: `pachon calib report | order | templates`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from payloads.cli_options import DAY

home_option = click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)


@click.command()
@click.option("--instrument", required=True)
@click.option("--day", "day_obs", type=DAY, required=True, metavar="YYYYMMDD")
@click.option("--json", "as_json", is_flag=True, help="Print report.json too.")
@click.argument("out", type=click.Path(path_type=Path))
@home_option
def report(instrument: str, day_obs: int, as_json: bool, out: Path, home: Path) -> None:
    """Write the calibration report of a day into the folder OUT: index.html and report.json."""
    from payloads.report.calibration import write_calibration_report

    document = write_calibration_report(home, instrument, day_obs, out)
    click.echo(json.dumps(document, default=str) if as_json else f"{out / 'index.html'} written")


@click.command()
@click.option("--pipeline", default="resource://payloads/pipelines/calibration.yaml", show_default=True, metavar="URI")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def order(pipeline: str, as_json: bool) -> None:
    """In which order products are made, as follows from what their tasks read."""
    from payloads.calibration_order import product_order

    found = product_order(pipeline)
    if as_json:
        click.echo(json.dumps([{"task": t.label, "makes": list(t.makes), "after": list(t.after)} for t in found]))
        return
    for t in found:
        click.echo(f"{', '.join(t.makes)} ({t.label})" + (f"  after {', '.join(t.after)}" if t.after else ""))


@click.command()
@click.option("--instrument", required=True)
@click.option("--skymap", default="", help="Sky map  [default: the one named as the instrument]")
@click.option("--days", type=(DAY, DAY), required=True, metavar="FIRST LAST", help="Observing days, YYYYMMDD.")
@click.option("--least-visits", type=click.IntRange(1), default=3, show_default=True, help="That a template is made of.")
@click.option(
    "--tried", type=(DAY, DAY), multiple=True, metavar="FIRST LAST", help="Days that templates were made of; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: null where none is missing.")
@home_option
def templates(
    instrument: str,
    skymap: str,
    days: tuple[int, int],
    least_visits: int,
    tried: tuple[tuple[int, int], ...],
    as_json: bool,
    home: Path,
) -> None:
    """Which templates are missing: patches that were observed and have none."""
    from payloads.repository import open_repository
    from payloads.template_need import template_need

    butler = open_repository(home / "repo")
    need = template_need(butler, instrument, skymap or instrument, days=days, least_visits=least_visits, tried=tried)
    if as_json:
        click.echo(json.dumps(need and need.as_json()))
    else:
        click.echo(need.words() if need else "no template is missing")


COMMANDS = (report, order, templates)

"""Commands: `pachon campaign …` and `pachon engine`. Thin: they parse, call `Campaigns`, and print."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.live import Live

from workflow import cli_acts, cli_sites, tables_text
from workflow.campaigns import Campaigns
from workflow.cli_options import actor_option, console, home_option, json_option, reason_option
from workflow.errors import ProductionError
from workflow.loop import Pace, Stop, run_engine, run_until_ended
from workflow.settings import Settings
from workflow.states import CampaignState
from workflow.status import CampaignStatus


@click.group()
def campaign() -> None:
    """Start campaigns, watch them, act on them."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("lsst").setLevel(logging.ERROR)  # what a plan complains of is in its step's reason


def _show(status: CampaignStatus, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status.as_json()))
    else:
        console().print(tables_text.status_table(status))


def _pace(settings: Settings) -> Pace:
    return Pace(settings.engine.poll_min_s, settings.engine.poll_max_s)


def _parameters(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ProductionError(f"--param {pair}: write NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


@campaign.command()
@click.argument("production", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the campaign; the same name again is the same campaign.")
@click.option("--param", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter of the production; may be repeated.")
@click.option("--hold-steps", is_flag=True, help="Release no step yet: `pachon campaign release` does, one by one.")
@click.option("--wait", is_flag=True, help="Return when it has ended; exit code 1 unless it succeeded.")
@click.option("--local", is_flag=True, help="Run the engine in this process (implies --wait).")
@actor_option
@home_option
@json_option
def start(
    production: Path,
    name: str,
    pairs: tuple[str, ...],
    hold_steps: bool,
    wait: bool,
    local: bool,
    actor: str,
    home: Path,
    as_json: bool,
) -> None:
    """Start the campaign NAME of PRODUCTION (a YAML file)."""
    settings = Settings.load(home)
    campaigns = Campaigns(settings)
    release: Literal["all", "none"] = "none" if hold_steps else "all"
    status = campaigns.start(production, name=name, parameters=_parameters(pairs), actor=actor, release=release)
    if wait or local:
        terminal = Console(stderr=True)
        with Live(console=terminal, transient=not terminal.is_terminal, auto_refresh=False) as line:
            status = run_until_ended(
                campaigns,
                name,
                pace=_pace(settings),
                show=lambda s: line.update(tables_text.progress_line(s), refresh=terminal.is_terminal),
                advance=local,
                stop=Stop().install(),
            )
    _show(status, as_json)
    if (wait or local) and status.state is not CampaignState.SUCCEEDED:
        sys.exit(1)


@campaign.command()
@click.argument("name")
@home_option
@json_option
def status(name: str, home: Path, as_json: bool) -> None:
    """State of a campaign, step by step."""
    _show(Campaigns.open(home).status(name), as_json)


@campaign.command("list")
@click.option("--live", is_flag=True, help="Only those that have not ended.")
@home_option
@json_option
def list_(live: bool, home: Path, as_json: bool) -> None:
    """All campaigns, oldest first."""
    found = Campaigns.open(home).every(live=live)
    if as_json:
        click.echo(json.dumps([s.as_json() for s in found]))
    else:
        console().print(tables_text.list_table(found))


@campaign.command()
@click.argument("name")
@click.option(
    "--how", type=click.Choice(["drain", "hold"]), default="drain", show_default=True, help="Let jobs end, or kill them."
)
@reason_option
@actor_option
@home_option
@json_option
def pause(name: str, how: Literal["drain", "hold"], reason: str, actor: str, home: Path, as_json: bool) -> None:
    """Dispatch nothing more."""
    _show(Campaigns.open(home).pause(name, actor, how, reason), as_json)


@campaign.command()
@click.argument("name")
@reason_option
@actor_option
@home_option
@json_option
def resume(name: str, reason: str, actor: str, home: Path, as_json: bool) -> None:
    """Undo pause."""
    _show(Campaigns.open(home).resume(name, actor, reason), as_json)


@campaign.command()
@click.argument("name")
@reason_option
@actor_option
@home_option
@json_option
def cancel(name: str, reason: str, actor: str, home: Path, as_json: bool) -> None:
    """End a campaign: its jobs are killed, what is accepted stays accepted."""
    _show(Campaigns.open(home).cancel(name, actor, reason), as_json)


@campaign.command()
@click.argument("name")
@click.argument("step")
@actor_option
@home_option
@json_option
def release(name: str, step: str, actor: str, home: Path, as_json: bool) -> None:
    """Allow a step to be planned."""
    _show(Campaigns.open(home).release(name, step, actor), as_json)


@campaign.command()
@click.argument("name", required=False)
@home_option
@json_option
def backlog(name: str | None, home: Path, as_json: bool) -> None:
    """What was due and not done, of one campaign or of all."""
    found = Campaigns.open(home).backlog(name)
    if as_json:
        click.echo(json.dumps([entry.as_json() for entry in found]))
    else:
        console().print(tables_text.backlog_table(found))


campaign.add_command(cli_sites.why)
campaign.add_command(cli_sites.sites)
for _command in cli_acts.COMMANDS:
    campaign.add_command(_command)


@click.command()
@home_option
@click.option("--verbose", is_flag=True, help="Log debug messages of the engine.")
def engine(home: Path, verbose: bool) -> None:
    """Advance all live campaigns until told to stop (SIGTERM, SIGINT). More than one engine may run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("lsst").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("workflow").setLevel(logging.DEBUG if verbose else logging.INFO)
    settings = Settings.load(home)
    stop = Stop().install()
    run_engine(Campaigns(settings), stop=stop, pace=_pace(settings))

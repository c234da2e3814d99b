"""The `pachon` command: gathers the rooms' commands and imports a room only when one of its commands is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from backbone.errors import PachonError

COMMANDS = {
    "init": "deploy.home:init",
    "simulate": "payloads.simulator.cli:simulate",
    "simulate-auxtel": "payloads.simulator.cli:simulate_auxtel",
    "ingest": "payloads.cli:ingest",
    "refcat": "payloads.cli:refcat",
    "standards": "payloads.cli:standards",
    "orbits": "payloads.cli:orbits",
    "skymap": "payloads.cli:skymap",
    "pipetask": "payloads.cli:pipetask",
    "alerts": "services.alerts.cli:alerts",
    "filter": "services.filters.cli:filters",
    "telemetry": "services.telemetry.cli:telemetry",
    "backbone": "backbone.cli:backbone",
    "calib": "deploy.cli_calib:calib",
    "campaign": "workflow.cli:campaign",
    "engine": "workflow.cli:engine",
    "qc": "backbone.qc.cli:qc",
    "prompt-ingest": "services.prompt_ingest.cli:prompt_ingest",
    "night": "deploy.cli_night:night",
    "quantum": "workflow.cli_quantum:quantum",
    "sites": "deploy.site_files:sites",
    "up": "deploy.cli_stack:up",
    "down": "deploy.cli_stack:down",
    "status": "deploy.cli_stack:status",
    "link": "deploy.cli_links:link",
    "demo": "deploy.demo.cli:demo",
}


class _Rooms(click.Group):
    """Commands by name, from the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_Rooms, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pachon")
def cli() -> None:
    """Pachón: the productions of a sky survey."""


def main(args: Any = None) -> None:
    """Entry point: an error of ours is a message and exit code 1, not a traceback."""
    try:
        cli.main(args=args, prog_name="pachon")
    except PachonError as error:
        click.echo(f"pachon: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

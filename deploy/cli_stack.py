"""`pachon up`, `pachon down`, `pachon status`: the local stack from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from deploy.airflow import Database
from deploy.stack import Stack, default_dags

_home = click.option(
    "--home", type=click.Path(path_type=Path), envvar="PACHON_HOME", required=True, help="The installation's folder."
)
_dags = click.option(
    "--dags", type=click.Path(path_type=Path, exists=True), default=default_dags, help="Folder of the DAG files."
)


@click.command()
@_home
@_dags
@click.option(
    "--database",
    type=click.Choice(get_args(Database)),
    default="auto",
    show_default=True,
    help="Where Airflow keeps its books; auto: PostgreSQL where it can be had, else SQLite.",
)
@click.option("--engine/--no-engine", default=True, show_default=True, help="Run the production engine too.")
def up(home: Path, dags: Path, database: Database, engine: bool) -> None:
    """Start what is not running of the local stack and wait until it is healthy."""
    Stack(home, dags, database, engine).up(click.echo)


@click.command()
@_home
def down(home: Path) -> None:
    """End the local stack and everything that came from it."""
    Stack(home).down(click.echo)


@click.command()
@_home
def status(home: Path) -> None:
    """Show what runs; exit code 1 unless all is healthy."""
    stack = Stack(home)
    states = stack.status()
    words = {True: "healthy", False: "DOWN", None: "running"}
    for state in states:
        memory = f"{state.memory_mb:6.0f} MB" if state.memory_mb else ""
        click.echo(f"{state.name:22s} {state.pid or '':>8} {words[state.healthy]:8s} {memory}")
    if any(state.healthy is False for state in states):
        raise SystemExit(1)
    click.echo(stack.api_url)

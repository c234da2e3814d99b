"""`pachon demo`: the whole system once, on two simulated nights or on the frames of a real camera."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from deploy.demo.drive import Drive
from deploy.demo.prepare import Frames, prepare, simulated
from deploy.demo.sites import Books, Parts, Pools, Store, default_books, make_home, settle, where
from deploy.rest import AirflowClient
from deploy.stack import Stack
from payloads.camera import Camera
from payloads.report import write_report
from workflow.campaigns import Campaigns


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), default="pachon-demo", show_default=True)
@click.option("--dags", type=click.Path(path_type=Path, exists=True, file_okay=False), default="dags", show_default=True)
@click.option("--keep", is_flag=True, help="Leave Airflow and the engine running, and say where.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Folder of raw frames of a real camera.")
@click.option("--instrument", metavar="NAME|YAML", help="The camera of --data.")
@click.option("--known", type=click.Path(path_type=Path, exists=True), help="Table of known positions: visit, x, y (CSV).")
@click.option("--preset", default="demo", show_default=True, help="What to simulate: a preset, or a survey's YAML.")
@click.option("--seed", type=int, help="Another sky.")
@click.option(
    "--sites",
    type=click.Choice(["one", "two"]),
    default="one",
    show_default=True,
    help="One site, or raw data at base, jobs at ncsa and ccin2p3, products at dac-us and dac-chile.",
)
@click.option("--store", type=click.Choice(get_args(Store)), default="s3", show_default=True, help="Of --sites two.")
@click.option("--pools", type=click.Choice(get_args(Pools)), default="htcondor", show_default=True, help="Of --sites two.")
@click.option("--books", type=click.Choice(get_args(Books)), help="Ledger, registry and catalog of --sites two.")
def demo(
    home: Path,
    dags: Path,
    keep: bool,
    data: Path | None,
    instrument: str | None,
    known: Path | None,
    preset: str,
    seed: int | None,
    sites: str,
    store: Store,
    pools: Pools,
    books: Books | None,
) -> None:
    """Take raw frames through calibration, templates, a night, the day after and a small release, and report."""
    if bool(data) != bool(instrument):
        raise click.UsageError("--data and --instrument go together: the frames, and the camera that took them")
    console = Console(highlight=False)
    seconds: dict[str, float] = {}
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    stack = Stack(home, dags)
    several = sites == "two"
    try:
        if several:
            with _stage("sites", console, seconds):
                parts = Parts(store=store, pools=pools, database=books or default_books(console.print))
                make_home(home, parts, console.print)
        with _stage("frames", console, seconds):
            frames = (
                Frames(Camera.load(instrument), data)
                if data and instrument
                else simulated(home / "survey", preset, seed, console.print)
            )
            case = prepare(home, frames, console.print)
        with _stage("airflow", console, seconds):
            stack.up(console.print)
        with AirflowClient(stack.api_url, "admin", stack.password("admin")) as client:
            drive = Drive(client, console)
            drive.run_all(case.runs())
        seconds.update(drive.seconds)
        with _stage("report", console, seconds):
            rows = _campaigns(home)
            summary = write_report(home, home / "report", case.instrument, frames.truth, known, campaigns=rows)
        if several:
            with _stage("copies", console, seconds):
                settle(home, console.print)
            summary = {**summary, **where(home)}
        _tell(home, summary, seconds, console)
    finally:
        if keep:
            console.print(f"[bold]{stack.api_url}[/]  login admin, password in {home}/secrets/user-admin; `make down` ends it")
        else:
            stack.down(console.print)


@contextmanager
def _stage(name: str, console: Console, seconds: dict[str, float]) -> Iterator[None]:
    console.rule(f"[bold]{name}", align="left")
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


def _campaigns(home: Path) -> list[dict[str, object]]:
    """A row for each step of each campaign, for the report's table."""
    return [
        {
            "campaign": campaign.name,
            "step": step.name,
            "state": step.state.value,
            "expected": step.expected,
            "published": step.published,
            "failed": step.failed,
        }
        for campaign in Campaigns.open(home).every()
        for step in campaign.steps
    ]


def _tell(home: Path, summary: dict[str, object], seconds: dict[str, float], console: Console) -> None:
    path = home / "report" / "summary.json"
    path.write_text(json.dumps({**summary, "seconds": seconds}, indent=2) + "\n")
    console.rule("[bold]summary", align="left")
    for key, value in {**summary, "seconds": seconds}.items():
        console.print(f"  {key:32s} {value:.4g}" if isinstance(value, float) else f"  {key:32s} {value}")
    console.print(f"report: {home / 'report' / 'index.html'}")

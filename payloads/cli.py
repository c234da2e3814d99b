"""Commands of the science room: ingest, refcat, standards, orbits, pipetask, and skymap from its own module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from payloads.skymap_cli import skymap as skymap

if TYPE_CHECKING:
    from payloads.ingest import IngestReport

home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="PACHON_HOME",
    required=True,
    help="The installation's folder, as made by `pachon init`; default: $PACHON_HOME.",
)


@click.command()
@home_option
@click.option("--instrument", required=True, metavar="NAME|YAML", help="A camera that Pachón knows, or the YAML of one's own.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def ingest(home: Path, instrument: str, as_json: bool, paths: tuple[Path, ...]) -> None:
    """Check raw frames (files, or folders of them) and copy them into the repository; the unusable go to DIR/aside."""
    from payloads.camera import Camera
    from payloads.ingest import ingest as run

    camera = Camera.load(instrument)
    with _progress("frames") as advance:
        report = run(home, camera, list(paths), progress=advance)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    _tell(report, home)


def _tell(report: IngestReport, home: Path) -> None:
    click.echo(
        f"{report.files} files: {report.ingested} ingested, {report.already} there already, {len(report.rejected)} set aside"
    )
    for item in report.rejected[:20]:
        click.echo(f"  {item}", err=True)
    if len(report.rejected) > 20:
        click.echo(f"  … and {len(report.rejected) - 20} more", err=True)
    if report.rejected:
        click.echo(f"the list is {home}/aside/list.jsonl", err=True)


@click.command()
@home_option
@click.argument("path", type=click.Path(path_type=Path))
def refcat(home: Path, path: Path) -> None:
    """Put a reference catalogue (parquet, csv or fits with id, ra, dec and mag_<band>) into the repository."""
    from payloads.refcat import ingest_refcat

    with _progress("shards") as advance:
        report = ingest_refcat(home, path, progress=advance)
    known = f", {report.already} of them there already" if report.already else ""
    click.echo(f"{report.sources} sources in {', '.join(report.bands)}: {report.shards} shards{known}")


@click.command()
@home_option
@click.argument("path", type=click.Path(path_type=Path))
def standards(home: Path, path: Path) -> None:
    """Put reference spectra of stars (parquet, csv or fits with target, nm and photons) into the repository."""
    from payloads.standards import ingest_standards

    click.echo(f"spectra of {ingest_standards(home, path)} stars")


@click.command()
@home_option
@click.argument("path", type=click.Path(path_type=Path))
def orbits(home: Path, path: Path) -> None:
    """Put the newest orbits of known bodies (parquet, csv or fits) into the repository; rows of no use go to DIR/aside."""
    from payloads.orbit_catalogue import ingest_orbits

    report = ingest_orbits(home, path)
    already = ", there already" if report.already else ""
    click.echo(f"orbits of {report.bodies} bodies{already}, {len(report.refused)} rows set aside")
    for refused in report.refused[:20]:
        click.echo(f"  row {refused.row}, ssObjectId {refused.id}: {refused.reason}", err=True)
    if report.aside is not None:
        click.echo(f"the list is {report.aside}", err=True)


@click.command()
@home_option
@click.option("--pipeline", required=True, metavar="URI", help="resource://payloads/pipelines/NAME.yaml#SUBSET, or a file.")
@click.option("--inputs", required=True, metavar="A,B", help="Collections, searched in this order.")
@click.option("--output-run", required=True, metavar="RUN", help="A new RUN.")
@click.option("--where", default="", metavar="QUERY", help="Butler query on data IDs.")
@click.option("-c", "--config", "settings", multiple=True, metavar="LABEL:FIELD=VALUE", help="A task's setting; repeatable.")
@click.option("-j", "--processes", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--certify", "certified", multiple=True, metavar="TYPE=COLLECTION", help="Certify outputs; repeatable.")
@click.option("--begin", metavar="DATE", help="From when the certified are valid (UTC). Default: always.")
def pipetask(
    home: Path,
    pipeline: str,
    inputs: str,
    output_run: str,
    where: str,
    settings: tuple[str, ...],
    processes: int,
    certified: tuple[str, ...],
    begin: str | None,
) -> None:
    """Run a pipeline here and now, without the engine."""
    from payloads.execute import certify_run, execute_pipeline

    overrides = _overrides(settings)
    targets = [_pair(text, "--certify", "TYPE=COLLECTION") for text in certified]
    root = home / "repo"
    quanta = execute_pipeline(
        root,
        pipeline,
        inputs=inputs.split(","),
        run=output_run,
        where=where,
        config_overrides=overrides,
        processes=processes,
    )
    click.echo(f"{quanta} quanta into {output_run}" if quanta else "no quanta: nothing to do")
    for dataset_type, into in targets:
        number = certify_run(
            root, dataset_type=dataset_type, run=output_run, instrument=into.split("/")[0], into=into, begin=begin
        )
        click.echo(f"{number} {dataset_type} certified into {into}")


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise click.BadParameter(f"{text!r} is not {form}", param_hint=option)
    return left, right


def _overrides(settings: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """`LABEL:FIELD=VALUE`; values as YAML writes them."""
    import yaml

    found: dict[str, dict[str, Any]] = {}
    for text in settings:
        key, value = _pair(text, "--config", "LABEL:FIELD=VALUE")
        label, colon, name = key.partition(":")
        if not (label and colon and name):
            raise click.BadParameter(f"{text!r} is not LABEL:FIELD=VALUE", param_hint="--config")
        found.setdefault(label, {})[name] = yaml.safe_load(value)
    return found


class _progress:  # noqa: N801 - used as a function
    """A progress bar on stderr, shown only when the work takes more than a few seconds and somebody looks."""

    _PATIENCE_S = 3.0

    def __init__(self, what: str) -> None:
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None)
        self._begun: float | None = None
        self._shown = False

    def __enter__(self) -> Any:
        return self._advance

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._bar.stop()

    def _advance(self, done: int, total: int) -> None:
        from time import monotonic

        self._begun = self._begun or monotonic()
        if not self._shown and self._bar.console.is_terminal and monotonic() - self._begun > self._PATIENCE_S:
            self._bar.start()
            self._shown = True
        self._bar.update(self._task, completed=done, total=total)

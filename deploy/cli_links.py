"""`pachon link`: cut, slow and mend links between sites, to see what happens."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.linkproxy import Links


@click.command()
@click.argument("source", required=False)
@click.argument("target", required=False)
@click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)
@click.option("--cut", is_flag=True, help="Break it, like a cable that is pulled.")
@click.option("--slow", "bytes_per_s", type=click.FloatRange(min=1), help="Let through so many bytes a second.")
@click.option("--mend", is_flag=True, help="As it should be.")
def link(source: str | None, target: str | None, home: Path, cut: bool, bytes_per_s: float | None, mend: bool) -> None:
    """Cut, slow or mend the link SOURCE TARGET, or say how all links are.

    Needs `servers: {s3: true, links: true}` in the settings, and a `url` for the link.
    """
    links = Links(home.resolve())
    if cut or mend or bytes_per_s is not None:
        if source is None or target is None:
            raise click.UsageError("name the link: SOURCE TARGET")
        links.tell(source, target, is_cut=cut, bytes_per_s=bytes_per_s)
    for name, state in links.states().items():
        slow = "" if state.bytes_per_s is None else f" {state.bytes_per_s:g} bytes/s"
        click.echo(f"{name.replace(':', '→')}: {'cut' if state.is_cut else 'open'}{slow}")

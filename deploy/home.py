"""Makes a home directory: settings, Butler repository, ledger (docs/interfaces.md)."""

from __future__ import annotations

from pathlib import Path

import click

from payloads.repository import init_repository
from workflow.ledger import Ledger
from workflow.settings import FILE, EndpointSettings, LocalPool, Settings, Site


def create_home(
    home: Path,
    *,
    registry_db: str | None = None,
    datastore: str | None = None,
    ledger: str | None = None,
    slots: int | None = None,
) -> Settings:
    """Make, or complete, the home at `home`; what is there already stays as it is.

    `registry_db` and `ledger` are database URLs (`postgresql+psycopg2://…`), `datastore` a root URI (`s3://bucket/prefix`); the
    defaults are SQLite files and a folder below `home`.
    """
    if not (home / FILE).exists():
        pool = LocalPool(slots=slots) if slots else LocalPool()
        site = Site(name="local", pool=pool, endpoint=EndpointSettings(uri=datastore or "repo"))
        values = {"ledger": ledger} if ledger else {}
        Settings(home=home.absolute(), sites=(site,), **values).write()
    settings = Settings.load(home)
    init_repository(settings.repo_uri, db=registry_db, datastore=datastore)
    Ledger.open(settings.ledger_url).close()
    return settings


@click.command()
@click.argument("home", type=click.Path(path_type=Path, file_okay=False))
@click.option("--db", "registry_db", help="registry in PostgreSQL: postgresql+psycopg2://… (default: SQLite in HOME/repo)")
@click.option("--datastore", help="root of the files: a folder or s3://bucket/prefix (default: HOME/repo)")
@click.option("--ledger", help="ledger in PostgreSQL: postgresql+psycopg2://… (default: SQLite in HOME)")
@click.option("--slots", type=click.IntRange(1), help="jobs of the local pool at the same time (default: the cores)")
def init(home: Path, registry_db: str | None, datastore: str | None, ledger: str | None, slots: int | None) -> None:
    """Make a home directory: settings, Butler repository, ledger. What is there already stays as it is."""
    settings = create_home(home, registry_db=registry_db, datastore=datastore, ledger=ledger, slots=slots)
    click.echo(f"home {settings.home}: repository {settings.repo_uri}, ledger {settings.ledger_url.split('@')[-1]}")

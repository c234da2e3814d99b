"""Makes a home directory: settings, Butler repository, ledger (docs/interfaces.md)."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.keys import write_private
from deploy.passwords import without_password
from payloads.repository import PROFILES, init_repository
from workflow.ledger import Ledger
from workflow.settings import FILE, EndpointSettings, LocalPool, Settings, Site


def create_home(
    home: Path,
    *,
    registry_db: str | None = None,
    datastore: str | None = None,
    ledger: str | None = None,
    slots: int | None = None,
    stay_s: float = 0,
    keys: Path | None = None,
) -> Settings:
    """Make, or complete, the home at `home`; what is there already stays as it is.

    `registry_db` and `ledger` are database URLs (`postgresql+psycopg2://…`), `datastore` a root URI (`s3://profile@bucket/prefix`);
    the defaults are SQLite files and a folder below `home`. Passwords in URLs go into HOME/secrets/pgpass and are written down
    nowhere else. `stay_s`: how long a job's process waits for another job (a warm worker). `keys`: a file of S3 profiles as boto3
    reads them, copied to HOME/secrets/s3.ini unless it is that file.
    """
    home = home.absolute()
    registry_db, ledger = (without_password(url, home) if url else None for url in (registry_db, ledger))
    if keys is not None and keys.absolute() != home / PROFILES:
        write_private(home / PROFILES, keys.read_text())
    if not (home / FILE).exists():
        pool = LocalPool(stay_s=stay_s, **({"slots": slots} if slots else {}))
        credentials = {"credentials": PROFILES} if (home / PROFILES).exists() and datastore else {}
        site = Site(name="local", pool=pool, endpoint=EndpointSettings(uri=datastore or "repo", **credentials))
        values = {"ledger": ledger} if ledger else {}
        Settings(home=home, sites=(site,), **values).write()
    settings = Settings.load(home)
    init_repository(settings.repo_uri, db=registry_db, datastore=datastore)
    Ledger.open(settings.ledger_url).close()
    return settings


@click.command()
@click.argument("home", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--db",
    "registry_db",
    envvar="PACHON_INIT_DB",
    show_envvar=True,
    help="registry in PostgreSQL: postgresql+psycopg2://… (default: SQLite in HOME/repo)",
)
@click.option("--datastore", help="root of the files: a folder or s3://profile@bucket/prefix (default: HOME/repo)")
@click.option(
    "--keys", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="S3 profiles, a file as boto3 reads them."
)
@click.option(
    "--ledger",
    envvar="PACHON_INIT_LEDGER",
    show_envvar=True,
    help="ledger in PostgreSQL: postgresql+psycopg2://… (default: SQLite in HOME)",
)
@click.option("--slots", type=click.IntRange(1), help="jobs of the local pool at the same time (default: the cores)")
def init(
    home: Path, registry_db: str | None, datastore: str | None, keys: Path | None, ledger: str | None, slots: int | None
) -> None:
    """Make a home directory: settings, Butler repository, ledger. What is there already stays as it is.

    A password on the command line can be seen by others of the machine while the command runs: give such URLs in the environment.
    """
    settings = create_home(home, registry_db=registry_db, datastore=datastore, ledger=ledger, slots=slots, keys=keys)
    click.echo(f"home {settings.home}: repository {settings.repo_uri}, ledger {settings.ledger_url.split('@')[-1]}")

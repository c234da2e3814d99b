"""Sites as files: deploy/sites/*.yaml, or anybody's own. `pachon sites` puts them into a home and shows what it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import yaml

from backbone.models import nearest
from workflow.errors import SettingsError
from workflow.models import parse
from workflow.pools.settings import HTCondorPool
from workflow.settings import Settings, Site

FOLDER = Path(__file__).with_name("sites")


def known_sites() -> list[str]:
    """Names of the sites that come with Pachón."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_site(name: str | Path) -> Site:
    """A site by its name or from a file; SettingsError names what is wrong in it."""
    path = FOLDER / f"{name}.yaml" if str(name) in known_sites() else Path(name)
    if not path.is_file():
        raise SettingsError(
            f"no site {name}: neither a file, nor one that comes with Pachón; {nearest(str(name), known_sites())}"
        )
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not readable as YAML: {error}") from error
    return parse(Site, content, what=str(path), error=SettingsError)


def use_sites(home: Path, names: Sequence[str | Path]) -> Settings:
    """Give a home these sites in place of those it has. Where the backbone has an endpoint of a site's name, that is the site's;
    else it shares the home's one endpoint.
    """
    before = Settings.load(home)
    endpoints = before.backbone.endpoints if before.backbone is not None else {}
    sites = []
    for site in map(load_site, names):
        if "endpoint" not in site.model_fields_set:
            site = site.model_copy(update={"endpoint": site.name if site.name in endpoints else before.sites[0].endpoint})
        sites.append(site)
    content = {
        **before.model_dump(mode="json", exclude_unset=True),
        "sites": [_plain(site) for site in sites],
        "home": before.home,
    }
    after = parse(Settings, content, what=f"{home} with its new sites", error=SettingsError)
    after.write()
    return after


def _plain(site: Site) -> dict[str, object]:
    chosen = site.model_dump(mode="json", exclude_unset=True)
    endpoint = site.endpoint if isinstance(site.endpoint, str) else site.endpoint.model_dump(mode="json", exclude_unset=True)
    return {**chosen, "endpoint": endpoint}


@click.group(invoke_without_command=True)
@click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)
@click.pass_context
def sites(context: click.Context, home: Path) -> None:
    """The home's sites: their pools, slots and endpoints."""
    context.obj = home
    if context.invoked_subcommand is None:
        for site in Settings.load(home).sites:
            click.echo(f"{site.name:12s} {_words(site)}")


@sites.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def use(home: Path, names: Sequence[str]) -> None:
    """Give the home these sites, by name (of deploy/sites) or by file; what runs at others should have ended."""
    for site in use_sites(home, names).sites:
        click.echo(f"{site.name:12s} {_words(site)}")


def _words(site: Site) -> str:
    endpoint = site.endpoint if isinstance(site.endpoint, str) else site.endpoint.uri
    if isinstance(site.pool, HTCondorPool):
        where = site.pool.collector or "started here by `pachon up`"
        return f"HTCondor pool {where}, {site.pool.slots} slots ({site.pool.reserved} for prompt), endpoint {endpoint}"
    return f"processes of this machine, {site.pool.slots} at a time, endpoint {endpoint}"

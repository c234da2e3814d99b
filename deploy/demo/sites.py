"""A home of several sites: raw data land at base, jobs run at ncsa and ccin2p3, scientists read at dac-us and dac-chile.

The same settings, and hence the same code, with folders or S3 servers for endpoints, with local or HTCondor pools, with SQLite or
PostgreSQL.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from backbone.errors import TransientError
from backbone.home import open_backbone
from backbone.policy import load_policies
from backbone.settings import BackboneEndpoint, BackboneSettings
from backbone.usage import overview
from deploy import postgres
from deploy.passwords import without_password
from deploy.postgres import PostgresServer
from deploy.seaweedfs import ObjectStore
from deploy.servers import servers
from payloads.repository import PROFILES, init_repository
from workflow.ledger import Ledger, tables
from workflow.pools.settings import HTCondorPool
from workflow.settings import FILE, CacheSettings, LocalPool, ServerSettings, Settings, Site

ARCHIVE, COMPUTE, ACCESS = "base", ("ncsa", "ccin2p3"), ("dac-us", "dac-chile")
POLICIES = Path(__file__).parents[1] / "policies" / "survey.yaml"
_SLOTS = 1  # of each site: two sites share this machine
_CACHE_GB = 1.0  # of masters, templates and reference catalogues at each site
_SETTLE_S = 300.0
Say = Callable[[str], None]
Store, Pools, Books = Literal["folders", "s3"], Literal["local", "htcondor"], Literal["sqlite", "postgresql"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which real parts stand in for the embedded ones."""

    store: Store = "folders"
    pools: Pools = "local"
    database: Books = "sqlite"


def make_home(home: Path, parts: Parts, say: Say) -> Settings:
    """Make the home and start the servers it needs, or only start them; returns when it can take raw frames."""
    home = home.absolute()
    if not (home / FILE).exists():
        settings = _settings(home, parts)
        settings.write()
        shutil.copyfile(POLICIES, home / "policies.yaml")
    settings = Settings.load(home)
    for server in servers(home, with_postgres=False):
        server.up()
        say(f"{server.name} is up")
    registry = _database(home, "registry") if settings.servers.postgres else None
    archive = settings.endpoint_settings(ARCHIVE).uri
    init_repository(settings.repo_uri, db=registry, datastore=settings.located(archive))
    Ledger.open(settings.ledger_url).close()
    backbone = open_backbone(home)
    try:
        policies = load_policies([home / path for path in backbone.settings.policies], backbone.endpoints)
        backbone.apply_policies(policies, "demo")
    finally:
        backbone.close()
    say(f"sites {', '.join(COMPUTE)}; archive {ARCHIVE}; {parts.store}, {parts.pools} pools, {parts.database}")
    return settings


def _settings(home: Path, parts: Parts) -> Settings:
    with_postgres = parts.database == "postgresql"
    if with_postgres:
        PostgresServer(home).up()
    names = (ARCHIVE, *COMPUTE, *ACCESS)
    if parts.store == "s3":
        store = ObjectStore(home)
        endpoints = {name: BackboneEndpoint(uri=store.uri(name), credentials=PROFILES) for name in names}
    else:
        endpoints = {name: BackboneEndpoint(uri=f"places/{name}") for name in names}
    urls = {"catalog": _database(home, "backbone")} if with_postgres else {}
    ledger = {"ledger": _database(home, "ledger")} if with_postgres else {}
    return Settings(
        home=home,
        archive=ARCHIVE,
        sites=tuple(Site(name=name, pool=_pool(parts), endpoint=name, cache=_cache(name)) for name in COMPUTE),
        backbone=BackboneSettings(endpoints=endpoints, policies=(Path("policies.yaml"),), **urls),
        servers=ServerSettings(postgres=with_postgres, s3=parts.store == "s3"),
        **ledger,
    )


def _pool(parts: Parts) -> LocalPool | HTCondorPool:
    return LocalPool(slots=_SLOTS) if parts.pools == "local" else HTCondorPool(kind="htcondor", slots=_SLOTS)


def _cache(site: str) -> CacheSettings:
    return CacheSettings(folder=Path("cache", site), max_gb=_CACHE_GB)


def _database(home: Path, name: str) -> str:
    url = PostgresServer(home).database(name).replace("postgresql:", "postgresql+psycopg2:", 1)
    return without_password(url, home)


def default_books(say: Say) -> Books:
    """PostgreSQL where it can be had."""
    return "postgresql" if postgres.obtained(say) else "sqlite"


def settle(
    home: Path, say: Say, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until the movers have brought what policies ask for; TransientError says what is still missing when they do not."""
    backbone = open_backbone(home)
    limit = clock() + _SETTLE_S
    try:
        while left := {p.name: p.arriving for p in overview(backbone).places if sum(p.arriving.values())}:
            if clock() > limit:
                raise TransientError(
                    f"copies are still on their way after {_SETTLE_S:.0f} s: {left}; see `pachon backbone transfers`"
                )
            sleep(0.5)
    finally:
        backbone.close()
    say("every copy that the policies ask for is where it should be")


def where(home: Path) -> dict[str, Any]:
    """What ran where and what is where: groups, jobs and accepted quanta by site, release groups by site, files by endpoint."""
    settings = Settings.load(home)
    ledger = Ledger.open(settings.ledger_url)
    placed, jobs, campaign = tables.placement, tables.job, tables.campaign
    per_site: dict[str, dict[str, int]] = {site.name: {} for site in settings.sites}
    try:
        is_release, group = campaign.c.kind == "drp", _key(placed)
        groups = sa.select(placed.c.site, is_release.label("release"), sa.func.count(sa.distinct(group)).label("n"))
        joined = groups.select_from(placed.join(campaign, campaign.c.name == placed.c.campaign))
        for row in ledger.all(joined.group_by(placed.c.site, is_release)):
            site = per_site[row.site]
            site["groups"] = site.get("groups", 0) + row.n
            site["release_groups"] = site.get("release_groups", 0) + (row.n if row.release else 0)
        done = sa.select(jobs.c.site, sa.func.count(sa.distinct(jobs.c.id)).label("jobs"), sa.func.count().label("quanta"))
        ended = done.select_from(jobs.join(tables.accepted, tables.accepted.c.job == jobs.c.id))
        for row in ledger.all(ended.group_by(jobs.c.site)):
            per_site[row.site] |= {"jobs": row.jobs, "quanta": row.quanta}
    finally:
        ledger.close()
    backbone = open_backbone(home)
    try:
        places = overview(backbone).places
    finally:
        backbone.close()
    holdings = {one.name: {"files": sum(one.replicas.values()), "bytes": one.size_bytes} for one in places}
    return {"sites": per_site, "endpoints": holdings}


def _key(table: sa.Table) -> sa.ColumnElement[str]:
    """What names a group, as one text."""
    c = table.c
    text: sa.ColumnElement[str] = c.campaign + "/" + c.step + "/" + sa.cast(c.generation, sa.Text) + "/" + c.group_
    return text

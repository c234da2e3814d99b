"""The servers that a home needs besides the programs of the stack: what `pachon up` starts first and `pachon down` stops last.

A server knows by itself whether it runs (pid files, its own control program), so the list may be made anew in every process.
Which of them a home has is said by its settings; a home without settings has none but Airflow's database.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from backbone.settings import BackboneSettings
from deploy.condor.pool import CondorServer
from deploy.linkproxy import Links
from deploy.postgres import PostgresServer
from deploy.rabbitmq import RabbitServer
from deploy.seaweedfs import ObjectStore
from workflow.pools.settings import HTCondorPool
from workflow.settings import FILE, Settings

OUR_DATABASES = ("ledger", "registry", "services")
"""Of a home whose settings ask for PostgreSQL (`servers: {postgres: true}`): the engine's, the Butler's, the services'."""


class Server(Protocol):
    """Something that runs in the background for a home, found again by any process."""

    @property
    def name(self) -> str:
        """As `pachon status` shows it."""

    def up(self) -> None:
        """Make what it needs once, start it unless it runs; returns when it serves, raises a PermanentError when it does not."""

    def down(self) -> int:
        """Stop it and all that came from it; returns how many servers were stopped (0: it did not run)."""

    def running(self) -> bool:
        """Whether it runs."""


def servers(home: Path, *, with_postgres: bool, with_broker: bool = False) -> list[Server]:
    """Every server of this home, in the order of starting.

    `with_postgres`: Airflow keeps its books in PostgreSQL; `with_broker`: its tasks go to Celery workers.
    """
    settings = settings_of(home)
    found: list[Server] = []
    ours = settings is not None and settings.servers.postgres
    if with_postgres or ours:
        found.append(PostgresServer(home, OUR_DATABASES if ours else ()))
    streams = settings is not None and settings.servers.rabbitmq
    if with_broker or streams:
        found.append(RabbitServer(home, streams=streams))
    if settings is not None:
        found += _pools(settings)
    if settings is not None and settings.servers.s3:
        chosen = settings.servers.s3
        store = ObjectStore(home) if chosen is True else ObjectStore(home, chosen)
        found.append(store)
        if settings.servers.links and settings.backbone is not None:
            found.append(links_of(home, settings.backbone, store))
    return found


def background(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The programs of ours that run in the background besides the engine, with their `pachon` commands."""
    found: dict[str, tuple[str, ...]] = {"night": ("night", "run")}
    for camera in settings.services.get("prompt_ingest", {}).get("cameras", {}):
        found[f"prompt-ingest-{camera}"] = ("prompt-ingest", str(camera))
    if "alerts" in settings.services:
        found["filters"] = ("filter", "run")
        if settings.services["alerts"].get("transport") == "rabbitmq":
            found["alerts"] = ("alerts", "distribute")
    if settings.services.get("telemetry", {}).get("transport") == "rabbitmq":
        found["telemetry"] = ("telemetry", "forward")
    if settings.backbone is not None:
        found["mover"] = ("backbone", "mover")
    return found


def links_of(home: Path, backbone: BackboneSettings, store: ObjectStore) -> Links:
    """A proxy for each link that has a `url` of its own and leads to a bucket of `store`."""
    at = {bucket: node.url for node in store.nodes.values() for bucket in node.buckets}
    bucket = {name: urlsplit(end.uri).netloc.rpartition("@")[2] for name, end in backbone.endpoints.items()}
    ours = {(x.source, x.target): urlsplit(x.url).port or 80 for x in backbone.links if x.url and bucket[x.target] in at}
    return Links(home, {pair: at[bucket[pair[1]]] for pair in ours}, ours)


def _pools(settings: Settings) -> list[Server]:
    """The HTCondor pools of this machine: of sites that name no collector elsewhere."""
    named = ((site.name, site.pool) for site in settings.sites)
    return [
        CondorServer(settings.home, name, pool) for name, pool in named if isinstance(pool, HTCondorPool) and not pool.collector
    ]


def settings_of(home: Path) -> Settings | None:
    """The home's settings, or None where there are none yet."""
    return Settings.load(home) if (home / FILE).exists() else None

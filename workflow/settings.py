"""Settings of one installation: `pachon.yaml` in its home directory, read once at the edge of a process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from backbone.home import LEDGER, absolute_url
from backbone.messages.opened import MessageSettings
from backbone.settings import BackboneEndpoint, BackboneSettings
from workflow.errors import SettingsError
from workflow.models import Strict, nearest, parse
from workflow.night.settings import PromptSettings
from workflow.pools.settings import HTCondorPool, Staying

FILE = "pachon.yaml"


def _slots() -> int:
    return len(os.sched_getaffinity(0))


class LocalPool(Staying):
    """Processes of this machine."""

    kind: Literal["local"] = "local"
    slots: int = Field(default_factory=_slots, ge=1, description="jobs at the same time; default: the cores this process may use")


def _kind(pool: Any) -> str:
    return str(pool.get("kind", "local") if isinstance(pool, dict) else getattr(pool, "kind", "local"))


PoolSettings = Annotated[Annotated[LocalPool, Tag("local")] | Annotated[HTCondorPool, Tag("htcondor")], Discriminator(_kind)]


class EndpointSettings(Strict):
    """Where a site's objects are."""

    uri: str = Field(description="a folder (relative to the home) or s3://bucket/prefix")
    url: str | None = Field(default=None, description="address of the S3 server, unless the profile has it")
    credentials: Path | None = Field(
        default=None, description="mode-600 file (relative to the home) of S3 profiles; none: boto3's own configuration"
    )


class CacheSettings(Strict):
    """A site's cache of inputs that many of its jobs read: worth while where its endpoint is not a disk of the same machine."""

    folder: Path = Field(description="where the site's jobs keep it (relative to the home); each machine may have its own")
    max_gb: float = Field(gt=0, description="GB (10^9 bytes) of objects at most; the least recently used go")
    free_gb: float = Field(default=0, ge=0, description="GB that stay free on its file system whatever else holds")
    dataset_types: tuple[str, ...] = Field(
        default=(), description="patterns of names, such as `flat*`; none: all inputs that are not of one exposure or visit"
    )


class Site(Strict):
    """Compute under one administration, with its pool and its bucket."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    pool: PoolSettings = LocalPool()
    endpoint: EndpointSettings | str = Field(
        default=EndpointSettings(uri="repo"), description="where its objects are; or the name of one of the backbone's endpoints"
    )
    cache: CacheSettings | None = Field(default=None, description="of its jobs' inputs; none: every job reads from the endpoint")
    software: dict[str, str] = Field(
        default_factory=dict,
        description="name → Python interpreter of an environment at this site; what hot fixes may bind quanta to",
    )

    @property
    def endpoint_name(self) -> str:
        """Of the endpoint: the site's own name, unless the site names one."""
        return self.endpoint if isinstance(self.endpoint, str) else self.name


class BrokerSettings(Strict):
    """How groups are shared out among sites, where there are several."""

    groups_ahead: int = Field(
        default=8, ge=1, description="groups of a step whose inputs are staged before there are slots for them"
    )
    deadline_s: float = Field(
        default=600, gt=0, description="by when a group's inputs, or its outputs, should be where they are needed"
    )


class EngineSettings(Strict):
    """Timings and sizes of the engine; all are safe to change between runs."""

    poll_min_s: float = Field(default=0.2, gt=0, description="sleep between rounds in which something happened")
    poll_max_s: float = Field(default=2.0, gt=0, description="longest sleep between rounds")
    lock_s: float = Field(default=120, gt=0, description="a campaign's lock is free again this long after its holder's last word")
    lease_s: float = Field(default=180, gt=0, description="a job whose pool is silent is given up this long after its heartbeat")
    flush_s: float = Field(default=5, ge=0, description="longest time an outcome may wait in a job (decision 3)")
    heartbeat_s: float = Field(default=15, gt=0, description="between two heartbeats of a job")
    first_quantum_s: float = Field(
        default=2.0, gt=0, description="least wall time that is assumed of a task that was never timed"
    )
    scout_quanta: int = Field(default=30, ge=1, description="most quanta of a job until its tasks have been timed once")
    shortest_job_s: float = Field(default=10, ge=0, description="a job's start costs 2-4 CPU s: none is made shorter than this")
    memory_mb: int = Field(default=2048, ge=256, description="memory of a job whose tasks are not known better")
    memory_max_mb: int = Field(default=16384, ge=256, description="memory is never grown beyond this")
    memory_growth: float = Field(default=2.0, gt=1, description="factor after an out-of-memory failure")
    time_limit_s: float = Field(default=3600, gt=0, description="a quantum that runs longer is hung")
    max_group_quanta: int = Field(default=20000, ge=1, description="a graph needs 2.4 GB at 100,000 quanta (decision 11)")
    plan_slice_s: float = Field(default=0.5, gt=0, description="groups are planned so long, then it is seen to what runs")
    publish_batch: int = Field(default=1000, ge=1, description="quanta published in one registry transaction")
    accept_batch: int = Field(default=50, ge=1, description="segments collected from one job in one round")


class ServerSettings(Strict):
    """What `pachon up` starts on this machine besides Airflow and the engine; on a cluster the real ones are there already."""

    postgres: bool = Field(default=False, description="a PostgreSQL server with the databases `ledger` and `registry`")
    s3: bool | dict[str, tuple[str, ...]] = Field(
        default=False, description="S3 servers by name, each with its buckets; true: the three of deploy/seaweedfs.py"
    )
    rabbitmq: bool = Field(
        default=False, description="a RabbitMQ with streams and TLS, for alerts and telemetry (celery starts one without them)"
    )
    links: bool = Field(
        default=False, description="a proxy on the loopback port of each `url` of the backbone's links, to slow and cut them"
    )


class SchedulerSettings(Strict):
    """How Airflow's tasks are run by `pachon up` on this machine."""

    executor: Literal["local", "celery"] = Field(
        default="local", description="local: by the scheduler; celery: by workers of their own, over RabbitMQ and PostgreSQL"
    )
    workers: int = Field(default=2, ge=1, description="Celery workers; they share the tasks that may run at once")


def _some_site(sites: tuple[Site, ...]) -> tuple[Site, ...]:
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError("name at least one site, and none twice")
    return sites


class Settings(Strict):
    """What an installation is made of."""

    home: Path = Field(exclude=True)
    repo: str = Field(default="repo", description="Butler repository: a folder (relative to the home) or a URI")
    ledger: str = Field(default=LEDGER, description="SQLAlchemy URL; SQLite paths are relative to the home")
    owner: str = Field(default="operator", description="owner of campaigns that name none")
    sites: Annotated[tuple[Site, ...], AfterValidator(_some_site)] = (Site(name="local"),)
    archive: str | None = Field(default=None, description="endpoint that holds the registry's files; default: the first site's")
    backbone: BackboneSettings | None = Field(
        default=None, description="endpoints, catalog, policies; none: one endpoint for all"
    )
    broker: BrokerSettings = BrokerSettings()
    engine: EngineSettings = EngineSettings()
    messages: MessageSettings = MessageSettings()
    prompt: PromptSettings = PromptSettings()
    servers: ServerSettings = ServerSettings()
    airflow: SchedulerSettings = SchedulerSettings()
    services: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings of services by name; each service checks its own (services/settings.py)"
    )

    @field_validator("ledger")
    @classmethod
    def _named_driver(cls, url: str) -> str:
        if url.startswith("postgresql://"):
            raise ValueError("write postgresql+psycopg2://…: the plain name means another driver, which is not installed")
        return url

    @model_validator(mode="after")
    def _known_endpoints(self) -> Settings:
        known = list(self.backbone.endpoints) if self.backbone else []
        for site in self.sites:
            if isinstance(site.endpoint, str) and site.endpoint not in known:
                raise ValueError(
                    f"site {site.name}: no endpoint {site.endpoint!r} under backbone: {nearest(site.endpoint, known)}"
                )
            if self.backbone and not isinstance(site.endpoint, str):
                raise ValueError(f"site {site.name}: with a backbone its endpoint is one of the backbone's, by name")
        names = known or [site.endpoint_name for site in self.sites]
        if self.archive is not None and self.archive not in names:
            raise ValueError(f"archive: no endpoint {self.archive!r}; {nearest(self.archive, names)}")
        return self

    @classmethod
    def load(cls, home: str | Path) -> Settings:
        """The settings of a home directory; SettingsError if it has none or they cannot be used."""
        folder = Path(home).absolute()
        try:
            text = (folder / FILE).read_text()
        except FileNotFoundError as error:
            raise SettingsError(f"{folder} has no {FILE}: it is no home directory; make one with `pachon init {home}`") from error
        try:
            data = yaml.safe_load(text)
            data = {} if data is None else data
        except yaml.YAMLError as error:
            raise SettingsError(f"{folder / FILE}: not readable as YAML: {error}") from error
        return parse(
            cls, {**data, "home": folder} if isinstance(data, dict) else data, what=str(folder / FILE), error=SettingsError
        )

    def write(self) -> Path:
        """Write `pachon.yaml` (mode 600: it may hold a database password), whole or not at all, without defaults."""
        self.home.mkdir(parents=True, exist_ok=True)
        path = self.home / FILE
        part = path.with_suffix(f".part-{os.getpid()}")
        part.touch(mode=0o600)
        part.write_text(yaml.safe_dump(self.model_dump(mode="json", exclude_unset=True), sort_keys=False) or "{}\n")
        part.replace(path)
        return path

    def located(self, uri: str) -> str:
        """A folder's path made absolute from the home; other URIs as they are."""
        return uri if urlsplit(uri).scheme else str(self.home / uri)

    @property
    def repo_uri(self) -> str:
        """Where the Butler repository is."""
        return self.located(self.repo)

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger, SQLite paths absolute."""
        return absolute_url(self.ledger, self.home)

    @property
    def archive_name(self) -> str:
        """The endpoint that holds the registry's files."""
        return self.archive or self.sites[0].endpoint_name

    def site(self, name: str) -> Site:
        """The site of this name; SettingsError if there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise SettingsError(f"no site {name!r}; {nearest(name, [site.name for site in self.sites])}")

    def endpoint_settings(self, name: str) -> EndpointSettings | BackboneEndpoint:
        """Of an endpoint, by its name."""
        if self.backbone:
            return self.backbone.endpoints[name]
        found = next(site.endpoint for site in self.sites if site.endpoint_name == name)
        return found if isinstance(found, EndpointSettings) else EndpointSettings(uri=found)

    def endpoint_uri(self, site: str) -> str:
        """Where a site's objects are."""
        return self.located(self.endpoint_settings(self.site(site).endpoint_name).uri)

    @property
    def has_one_endpoint(self) -> bool:
        """Whether all sites and the archive share one endpoint, so that nothing ever needs to be moved."""
        names = {self.archive_name, *(site.endpoint_name for site in self.sites)}
        return len({(found.uri, found.url) for found in map(self.endpoint_settings, names)}) == 1

    @property
    def run_dir(self) -> Path:
        """Pids, sockets, and what local jobs leave."""
        return self.home / "run"

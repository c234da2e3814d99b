"""Settings of one installation: `pachon.yaml` in its home directory, read once at the edge of a process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, Field, field_validator

from workflow.errors import SettingsError
from workflow.models import Strict, parse

FILE = "pachon.yaml"


def _slots() -> int:
    return len(os.sched_getaffinity(0))


class LocalPool(Strict):
    """Processes of this machine."""

    kind: Literal["local"] = "local"
    slots: int = Field(default_factory=_slots, ge=1, description="jobs at the same time; default: the cores this process may use")


class EndpointSettings(Strict):
    """Where a site's objects are."""

    uri: str = Field(description="a folder (relative to the home) or s3://bucket/prefix")
    url: str | None = Field(default=None, description="address of the S3 server; credentials come from the environment")


class Site(Strict):
    """Compute under one administration, with its pool and its bucket."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    pool: LocalPool = LocalPool()
    endpoint: EndpointSettings = EndpointSettings(uri="repo")


class EngineSettings(Strict):
    """Timings and sizes of the engine; all are safe to change between runs."""

    poll_min_s: float = Field(default=0.2, gt=0, description="sleep between rounds in which something happened")
    poll_max_s: float = Field(default=2.0, gt=0, description="longest sleep between rounds")
    lock_s: float = Field(default=120, gt=0, description="a campaign's lock is free again this long after its holder's last word")
    lease_s: float = Field(default=180, gt=0, description="a job whose pool is silent is given up this long after its heartbeat")
    flush_s: float = Field(default=5, ge=0, description="longest time an outcome may wait in a job (decision 3)")
    heartbeat_s: float = Field(default=15, gt=0, description="between two heartbeats of a job")
    first_quantum_s: float = Field(default=2.0, gt=0, description="assumed wall time of a task that was never timed")
    shortest_job_s: float = Field(default=10, ge=0, description="a job's start costs 2-4 CPU s: none is made shorter than this")
    memory_mb: int = Field(default=2048, ge=256, description="memory of a job whose tasks are not known better")
    memory_max_mb: int = Field(default=16384, ge=256, description="memory is never grown beyond this")
    memory_growth: float = Field(default=2.0, gt=1, description="factor after an out-of-memory failure")
    time_limit_s: float = Field(default=3600, gt=0, description="a quantum that runs longer is hung")
    max_group_quanta: int = Field(default=20000, ge=1, description="a graph needs 2.4 GB at 100,000 quanta (decision 11)")
    publish_batch: int = Field(default=1000, ge=1, description="quanta published in one registry transaction")
    accept_batch: int = Field(default=50, ge=1, description="segments collected from one job in one round")


def _some_site(sites: tuple[Site, ...]) -> tuple[Site, ...]:
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError("name at least one site, and none twice")
    return sites


class Settings(Strict):
    """What an installation is made of."""

    home: Path = Field(exclude=True)
    repo: str = Field(default="repo", description="Butler repository: a folder (relative to the home) or a URI")
    ledger: str = Field(default="sqlite:///ledger.sqlite3", description="SQLAlchemy URL; SQLite paths are relative to the home")
    owner: str = Field(default="operator", description="owner of campaigns that name none")
    sites: Annotated[tuple[Site, ...], AfterValidator(_some_site)] = (Site(name="local"),)
    engine: EngineSettings = EngineSettings()

    @field_validator("ledger")
    @classmethod
    def _named_driver(cls, url: str) -> str:
        if url.startswith("postgresql://"):
            raise ValueError("write postgresql+psycopg2://…: the plain name means another driver, which is not installed")
        return url

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
        scheme, _, path = self.ledger.partition(":///")
        return f"{scheme}:///{self.home / path}" if scheme.startswith("sqlite") else self.ledger

    def endpoint_uri(self, site: str) -> str:
        """Where a site's objects are."""
        return self.located(next(s.endpoint.uri for s in self.sites if s.name == site))

    @property
    def run_dir(self) -> Path:
        """Pids, sockets, and what local jobs leave."""
        return self.home / "run"

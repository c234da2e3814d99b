"""Settings of the backbone: the key `backbone:` of `pachon.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from backbone.archive import ArchiveSettings
from backbone.models import Strict, nearest

_NAME = r"^[a-z0-9][a-z0-9_-]*$"


class Archive(ArchiveSettings):
    """Makes an endpoint an archive (backbone/archive.py): written once, slow to read, with a second copy off-site."""

    off_site: str = Field(description="where the second copy is: a folder (relative to the home) or s3://bucket/prefix")
    url: str | None = Field(default=None, description="address of its S3 server")
    credentials: Path | None = Field(default=None, description="mode-600 file (relative to the home) of its keys")


class BackboneEndpoint(Strict):
    """A place that holds objects."""

    uri: str = Field(description="a folder (relative to the home) or s3://bucket/prefix")
    url: str | None = Field(default=None, description="address of the S3 server")
    credentials: Path | None = Field(
        default=None, description="mode-600 file (relative to the home) of the endpoint's keys; none: boto3's own configuration"
    )
    archive: Archive | None = None
    room_gb: float | None = Field(
        default=None,
        gt=0,
        description="GB (10^9 bytes) that copies there should take at most: above it, those that nothing asks for go before "
        "their grace period is over; none: no limit",
    )


class Link(Strict):
    """A way from one endpoint to another. Without any link in the settings all endpoints are joined, without limits."""

    source: str = Field(pattern=_NAME)
    target: str = Field(pattern=_NAME)
    concurrent: int = Field(default=4, ge=1, description="transfers at the same time")
    bytes_per_s: float | None = Field(default=None, gt=0, description="bandwidth limit; none: no limit")
    cost: int = Field(default=1, ge=0, description="of several sources the one with the cheapest link is taken")
    url: str | None = Field(default=None, description="the target's S3 server as this link reaches it: a proxy, another route")
    server_copy: str | None = Field(
        default=None,
        description="profile that may read the source and write the target, buckets of one server: that copies itself",
    )

    @property
    def name(self) -> str:
        """As people see it."""
        return f"{self.source}→{self.target}"


def _named_driver(url: str) -> str:
    if url.startswith("postgresql://"):
        raise ValueError("write postgresql+psycopg2://…: the plain name means another driver, which is not installed")
    return url


class MoverSettings(Strict):
    """How movers work; all are safe to change between runs."""

    lease_s: float = Field(default=60, gt=0, description="a transfer is taken up by others this long after its mover's last word")
    batch: int = Field(default=128, ge=1, description="most files that one worker of a link takes at once")
    batch_s: float = Field(default=1.0, gt=0, description="a worker takes what lasts about this long: new data waits no longer")
    small_bytes: int = Field(default=1 << 20, ge=0, description="files up to here are moved many at the same time")
    behind_s: float = Field(default=60, gt=0, description="a link whose work has waited this long takes the newest files first")
    attempts: int = Field(default=8, ge=1, description="a file that failed so often on a link that works is STUCK")
    retry_min_s: float = Field(default=1, gt=0, description="wait after the first failure; doubled after each further one")
    retry_max_s: float = Field(default=60, gt=0, description="longest wait between two attempts")
    read_back: bool = Field(
        default=False,
        description="read every copy once more before it counts. Without, that is done where nothing else proves a copy: after a "
        "copy within a server, and at S3 servers that were found to take bytes of another checksum than was said of them",
    )
    poll_s: float = Field(default=0.5, gt=0, description="sleep when nothing is to be done")


class BackboneSettings(Strict):
    """Endpoints by name, links between them, the catalog and the policies."""

    endpoints: dict[Annotated[str, Field(pattern=_NAME)], BackboneEndpoint] = Field(min_length=1)
    links: tuple[Link, ...] = ()
    catalog: Annotated[str, AfterValidator(_named_driver)] = Field(
        default="sqlite:///backbone.sqlite3", description="SQLAlchemy URL; SQLite paths are relative to the home"
    )
    policies: tuple[Path, ...] = Field(default=(), description="policy files, relative to the home")
    mover: MoverSettings = MoverSettings()
    grace_s: float = Field(default=86400, ge=0, description="a replica that nothing asks for is deleted this long after")
    intent_grace_s: float = Field(default=3600, ge=0, description="a put that broke off is settled this long after it began")
    batch: int = Field(
        default=20_000, ge=1, description="files in one transaction of a bulk registration, or of a change of policies"
    )

    @field_validator("links")
    @classmethod
    def _each_link_once(cls, links: tuple[Link, ...]) -> tuple[Link, ...]:
        pairs = [(link.source, link.target) for link in links]
        twice = {pair for pair in pairs if pairs.count(pair) > 1 or pair[0] == pair[1]}
        if twice:
            raise ValueError(f"each link joins two endpoints, once: see {' '.join(f'{a}→{b}' for a, b in sorted(twice))}")
        return links

    @model_validator(mode="after")
    def _links_of_known_endpoints(self) -> BackboneSettings:
        for link in self.links:
            for end in (link.source, link.target):
                if end not in self.endpoints:
                    raise ValueError(f"link {link.name}: no endpoint {end!r}; {nearest(end, list(self.endpoints))}")
        return self

    def all_links(self) -> tuple[Link, ...]:
        """The links, all pairs where none are set."""
        names = list(self.endpoints)
        return self.links or tuple(Link(source=a, target=b) for a in names for b in names if a != b)

    def catalog_url(self, home: Path) -> str:
        """SQLAlchemy URL of the catalog, SQLite paths absolute."""
        scheme, _, path = self.catalog.partition(":///")
        return f"{scheme}:///{home / path}" if scheme.startswith("sqlite") else self.catalog

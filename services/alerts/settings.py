"""Settings of the alert service: the key `services: alerts:` of `pachon.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from backbone.models import Strict
from services.broker import BrokerSettings
from services.settings import DATABASE, named_driver


class ArchivePlace(Strict):
    """Where alerts are kept, of an installation without a backbone."""

    uri: str = Field(default="archive", description="a folder (relative to the home) or s3://profile@bucket/prefix")
    url: str | None = Field(default=None, description="address of the S3 server, unless the profile has it")
    credentials: Path | None = Field(default=None, description="mode-600 file (relative to the home) of S3 profiles")


class AlertSettings(Strict):
    """Archive, database and transport of alerts."""

    database: Annotated[str, AfterValidator(named_driver)] = Field(
        default=DATABASE, description="SQLAlchemy URL; SQLite paths are relative to the home"
    )
    archive: ArchivePlace | str = Field(
        default=ArchivePlace(), description="where packets are kept; a text is the name of one of the backbone's endpoints"
    )
    transport: Literal["database", "rabbitmq"] = Field(
        default="database", description="database: subscribers read the outbox itself; rabbitmq: streams of a broker"
    )
    broker: BrokerSettings = BrokerSettings()
    keep_bytes: int = Field(
        default=20_000_000_000,
        ge=1_000_000,
        description="of each stream of the broker; older alerts are replayed from the archive",
    )
    alerts_per_visit: int = Field(default=20, ge=1, description="at most, to each user of filters (DMS-REQ-0343 numBrokerAlerts)")
    users: int = Field(default=100, ge=1, description="of filters, at most (DMS-REQ-0343 numBrokerUsers)")

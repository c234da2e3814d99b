"""Settings of the telemetry gateway: the key `services: telemetry:` of `pachon.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from backbone.models import Strict
from services.broker import BrokerSettings
from services.settings import DATABASE, named_driver


class TelemetrySettings(Strict):
    """Database and way out."""

    database: Annotated[str, AfterValidator(named_driver)] = Field(
        default=DATABASE, description="SQLAlchemy URL; SQLite paths are relative to the home"
    )
    transport: Literal["database", "rabbitmq"] = Field(
        default="database",
        description="database: reports are read by `pachon telemetry read`; rabbitmq: sent to the OCS's broker",
    )
    broker: BrokerSettings = Field(
        default=BrokerSettings(), description="the OCS's; without a port the broker of this home plays it"
    )
    queue: str = Field(
        default="ocs.telemetry", pattern=r"^[a-z][a-z0-9._-]{0,200}$", description="durable queue that the OCS reads"
    )

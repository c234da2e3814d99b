"""Settings of prompt ingest: the key `services: prompt_ingest:` of `pachon.yaml`, a camera each."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from backbone.messages.opened import MessageSettings
from backbone.models import Strict


class StoreSettings(Strict):
    """The prompt endpoint, as `backbone.endpoints.open_endpoint` opens it."""

    name: str = "prompt"
    uri: str = Field(default="repo", description="a folder (relative to the home) or s3://profile@bucket/prefix")
    url: str | None = Field(default=None, description="address of the S3 server, unless the profile has it")
    credentials: Path | None = Field(default=None, description="mode-600 file (relative to the home) of S3 profiles")


class CameraSettings(Strict):
    """One instance."""

    instrument: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    port: int | None = Field(default=None, ge=1, le=65535, description="of its door; none: one that is free, told in run/")
    address: str = Field(default="127.0.0.1", description="where it listens; another than loopback wants TLS")
    certificate: Path | None = Field(default=None, description="with its key, of TLS (relative to the home)")
    key: Path | None = None
    senders: int = Field(default=4, ge=1, le=64, description="frames on their way to the endpoint at the same time")
    max_mb: int = Field(default=256, ge=1, description="a larger frame is refused")


class PromptIngestSettings(Strict):
    """All cameras; AuxTel has none (LDM-148)."""

    cameras: dict[str, CameraSettings] = Field(default_factory=dict)
    store: StoreSettings = StoreSettings()
    messages: MessageSettings = MessageSettings()

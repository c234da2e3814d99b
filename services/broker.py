"""The RabbitMQ that services speak with, always by TLS: its address, and what they are let in by."""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from backbone.errors import TransientError
from backbone.models import Strict
from services.settings import ServicesUnusable

DOORS = Path("servers/rabbitmq/doors.json")
"""Written by `pachon up` (deploy/rabbitmq.py): the ports of this home's own broker."""
Door = Literal["stream", "amqps", "admin"]


class BrokerSettings(Strict):
    """A RabbitMQ with streams; a port that is not given is that of the broker that `pachon up` starts in this home."""

    host: str = Field(default="localhost", description="as its certificate says")
    stream_port: int | None = Field(default=None, description="of the stream protocol over TLS")
    amqps_port: int | None = Field(default=None, description="of AMQP over TLS")
    admin_port: int | None = Field(default=None, description="of the management API over TLS")
    vhost: str = "survey"
    user: str = Field(default="pachon-services", description="who publishes, and makes streams and subscribers")
    password: Path = Field(default=Path("secrets/broker-services"), description="mode-600 file (relative to the home)")
    authority: Path = Field(
        default=Path("servers/rabbitmq/tls/ca.crt"), description="certificate (relative to the home) that signed the server's"
    )


@dataclass(frozen=True)
class Broker:
    """The broker of a home."""

    settings: BrokerSettings
    home: Path

    def port(self, door: Door) -> int:
        """Port of a door; TransientError while this home's own broker has never been started."""
        given: int | None = getattr(self.settings, f"{door}_port")
        if given is not None:
            return given
        try:
            return int(json.loads((self.home / DOORS).read_text())[door])
        except FileNotFoundError as error:
            raise TransientError(
                f"no broker: the settings name no {door}_port and {self.home / DOORS} is not there; run `pachon up`"
            ) from error

    def password(self) -> str:
        """Of the services' user; ServicesUnusable where others can read it."""
        return secret_in(self.home / self.settings.password)

    def tls(self) -> ssl.SSLContext:
        """Trusts the broker's authority and nobody else."""
        path = self.home / self.settings.authority
        if not path.exists():
            raise TransientError(
                f"no broker: its authority's certificate {path} is not there; run `pachon up`, or name it in the settings"
            )
        return ssl.create_default_context(cafile=str(path))


def secret_in(path: Path) -> str:
    """The secret in a file that only its owner reads."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise TransientError(f"no secret: {path} is not there; run `pachon up`, or name the file in the settings") from error
    if mode & 0o077:
        raise ServicesUnusable(f"{path} can be read by others: run `chmod 600 {path}`")
    return path.read_text().strip()


def keep_secret(path: Path, secret: str) -> None:
    """Write a secret to a file that only its owner reads, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secret)
    part.replace(path)

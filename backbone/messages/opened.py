"""Opens the transport that the settings name."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from pydantic import Field

from backbone.errors import PermanentError
from backbone.messages.transport import Transport
from backbone.models import Strict


class MessageSettings(Strict):
    """Where messages between programs are kept: key `messages:` of pachon.yaml."""

    url: str = Field(
        default="sqlite:///messages.sqlite3",
        description="SQLAlchemy URL (SQLite paths are relative to the home), or amqp://USER@HOST:PORT/VHOST; without a port the "
        "broker that `pachon up` starts in this home",
    )
    password_file: Path | None = Field(
        default=None, description="mode-600 file (relative to the home) of the password, which no URL may hold"
    )


def open_transport(settings: MessageSettings, home: Path) -> Transport:
    """The transport of a home. A broker is connected to when it is first used; TransportDown if a database does not answer."""
    scheme, _, rest = settings.url.partition("://")
    if scheme == "amqp":
        from backbone.messages.amqp import AmqpTransport

        return AmqpTransport(lambda: f"amqp://{_with_password(rest, settings, home)}")
    from backbone.messages.stored import StoredTransport

    if scheme.startswith("sqlite"):
        return StoredTransport.open(f"{scheme}:///{home / rest.removeprefix('/')}")
    return StoredTransport.open(f"{scheme}://{_with_password(rest, settings, home)}")


def _with_password(rest: str, settings: MessageSettings, home: Path) -> str:
    if settings.password_file is None:
        return rest
    path = home / settings.password_file
    if path.stat().st_mode & 0o077:
        raise PermanentError(f"{path} can be read by others: run `chmod 600 {path}`")
    user, _, place = rest.rpartition("@")
    return f"{user}:{quote(path.read_text().strip(), safe='')}@{_with_port(place, home)}"


def _with_port(place: str, home: Path) -> str:
    host, slash, rest = place.partition("/")
    ports = home / "run" / "ports.json"
    if ":" in host or not ports.exists():
        return place
    return f"{host}:{json.loads(ports.read_text())['rabbitmq']}{slash}{rest}"

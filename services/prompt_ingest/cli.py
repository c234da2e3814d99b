"""`pachon prompt-ingest CAMERA`: the instance of one camera, until it is told to stop."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from pathlib import Path

import click
import uvicorn

from backbone.endpoints import open_endpoint
from backbone.errors import PermanentError
from backbone.messages.opened import open_transport
from services.prompt_ingest.app import door
from services.prompt_ingest.forwarder import Forwarder
from services.prompt_ingest.settings import CameraSettings, PromptIngestSettings
from services.prompt_ingest.spool import Spool
from services.settings import section

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command("prompt-ingest")
@click.argument("camera")
@click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)
def prompt_ingest(camera: str, home: Path) -> None:
    """Take the frames of CAMERA (a key of `services: prompt_ingest: cameras:`) until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    home = home.absolute()
    settings = section(home, "prompt_ingest", PromptIngestSettings)
    if camera not in settings.cameras:
        known = ", ".join(settings.cameras) or "none"
        raise PermanentError(
            f"no camera {camera!r} under services: prompt_ingest: cameras: in {home}/pachon.yaml; it has {known}"
        )
    serve(home, camera, settings)


def serve(home: Path, camera: str, settings: PromptIngestSettings) -> None:
    """Until SIGTERM."""
    mine, store = settings.cameras[camera], settings.store
    _check_open_to_others(camera, mine)
    uri = store.uri if "://" in store.uri else str(home / store.uri)
    credentials = home / store.credentials if store.credentials else None
    spool = Spool(home / "spool" / camera)
    forwarder = Forwarder(
        spool,
        mine.instrument,
        endpoint=lambda: open_endpoint(uri, name=store.name, url=store.url, credentials=credentials),
        transport=lambda: open_transport(settings.messages, home),
        senders=mine.senders,
    )
    app = door(spool, forwarder, token=token_of(home, camera), max_bytes=mine.max_mb << 20)
    listener = socket.create_server((mine.address, mine.port or 0), reuse_port=False)
    scheme = "https" if mine.certificate else "http"
    _tell(address_file(home, camera), f"{scheme}://{mine.address}:{listener.getsockname()[1]}\n")
    tls = (
        {"ssl_certfile": str(home / mine.certificate), "ssl_keyfile": str(home / mine.key)}
        if mine.certificate and mine.key
        else {}
    )
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5, **tls)  # type: ignore[arg-type]
    uvicorn.Server(config).run(sockets=[listener])


def address_file(home: Path, camera: str) -> Path:
    """Where the instance says its address."""
    return home / "run" / f"prompt-ingest-{camera}.url"


def token_of(home: Path, camera: str) -> str:
    """The camera's token, made at the first asking, in a file that only its owner reads."""
    path = home / "secrets" / f"camera-{camera}"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
    try:
        os.link(part, path)  # the first wins
    except FileExistsError:
        pass
    finally:
        part.unlink()
    if path.stat().st_mode & 0o077:
        raise PermanentError(f"{path} can be read by others: run `chmod 600 {path}`")
    return path.read_text()


def _tell(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def _check_open_to_others(camera: str, settings: CameraSettings) -> None:
    if settings.address not in _LOOPBACK and not (settings.certificate and settings.key):
        raise PermanentError(
            f"camera {camera}: address {settings.address} is open to other machines: give `certificate` and `key`"
        )

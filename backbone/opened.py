"""Opens the endpoints of the settings; paths are relative to the home."""

from __future__ import annotations

from pathlib import Path

from backbone.archive import ArchiveEndpoint
from backbone.endpoint import Endpoint
from backbone.endpoints import open_endpoint
from backbone.settings import BackboneEndpoint, BackboneSettings


def open_endpoints(settings: BackboneSettings, home: Path) -> dict[str, Endpoint]:
    """Every endpoint by name."""
    return {name: _open(name, endpoint, home) for name, endpoint in settings.endpoints.items()}


def _open(name: str, endpoint: BackboneEndpoint, home: Path) -> Endpoint:
    opened = _place(name, endpoint.uri, endpoint.url, endpoint.credentials, home)
    archive = endpoint.archive
    if archive is None:
        return opened
    off_site = _place(f"{name} off-site", archive.off_site, archive.url, archive.credentials, home)
    return ArchiveEndpoint(opened, off_site, name=name, folder=home / "run" / f"archive-{name}", settings=archive)


def _place(name: str, uri: str, url: str | None, credentials: Path | None, home: Path) -> Endpoint:
    located = uri if "://" in uri else str(home / uri)
    return open_endpoint(located, name=name, url=url, credentials=None if credentials is None else home / credentials)

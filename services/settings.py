"""Settings of the services: the key `services:` of `pachon.yaml`, a key below it for each service, which its own model checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml

from backbone.errors import PermanentError
from backbone.models import Strict, parse

FILE = "pachon.yaml"  # the whole of it is the engine's (workflow/settings.py)
DATABASE = "sqlite:///services.sqlite3"
M = TypeVar("M", bound=Strict)


class ServicesUnusable(PermanentError):
    """The settings of a service cannot be used."""


def section(home: Path, name: str, model: type[M]) -> M:
    """The settings of the service `name`; its defaults where the home says nothing of it."""
    path = home.absolute() / FILE
    found = _whole(path).get("services") or {}
    if not isinstance(found, dict):
        raise ServicesUnusable(f"{path}: services: expected keys and values, found {type(found).__name__}")
    return parse(model, found.get(name) or {}, what=f"{path}: services: {name}", error=ServicesUnusable)


def _whole(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError as error:
        raise ServicesUnusable(f"{path.parent} is no home directory; make one with `pachon init {path.parent}`") from error
    except yaml.YAMLError as error:
        raise ServicesUnusable(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(found, dict):
        raise ServicesUnusable(f"{path}: expected keys and values, found {type(found).__name__}")
    return found


def database_url(url: str, home: Path) -> str:
    """A SQLAlchemy URL, SQLite paths made absolute from the home."""
    scheme, _, path = url.partition(":///")
    return f"{scheme}:///{home.absolute() / path}" if scheme.startswith("sqlite") else url


def named_driver(url: str) -> str:
    """Validator of database URLs."""
    if url.startswith("postgresql://"):
        raise ValueError("write postgresql+psycopg2://…: the plain name means another driver, which is not installed")
    return url

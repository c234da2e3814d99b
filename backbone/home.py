"""What the backbone reads of a home's `pachon.yaml`: its own key `backbone:`, and where the ledger's database is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from backbone.backbone import Backbone
from backbone.errors import PermanentError
from backbone.models import parse
from backbone.settings import BackboneSettings

_FILE = "pachon.yaml"  # the whole of it is the engine's (workflow/settings.py)
LEDGER = "sqlite:///ledger.sqlite3"
"""SQLAlchemy URL of the ledger where the settings name none; SQLite paths are relative to the home."""


class NoBackbone(PermanentError):
    """The installation has no backbone."""


def backbone_settings(home: Path) -> BackboneSettings:
    """The settings of a home's backbone; NoBackbone if it has none, PermanentError if they cannot be used."""
    path = home.absolute() / _FILE
    found = _read(path)
    if "backbone" not in found:
        raise NoBackbone(f"{path} has no key `backbone:`, so there is no catalog; see docs/operations.md, 'The backbone'")
    return parse(BackboneSettings, found["backbone"], what=f"{path}: backbone", error=PermanentError)


def ledger_url(home: Path) -> str:
    """SQLAlchemy URL of the database that the ledger is in, SQLite paths absolute; quality control shares it."""
    path = home.absolute() / _FILE
    return absolute_url(str(_read(path).get("ledger", LEDGER)), home.absolute())


def absolute_url(url: str, home: Path) -> str:
    """A SQLite URL with its path made absolute from the home; others as they are."""
    scheme, _, path = url.partition(":///")
    return f"{scheme}:///{home / path}" if scheme.startswith("sqlite") else url


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError as error:
        folder = path.parent
        raise NoBackbone(f"{folder} has no {_FILE}: it is no home directory; make one with `pachon init {folder}`") from error
    except yaml.YAMLError as error:
        raise PermanentError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(found, dict):
        raise PermanentError(f"{path}: expected keys and values, found {type(found).__name__}")
    return found


def open_backbone(home: Path) -> Backbone:
    """The backbone of a home, open."""
    return Backbone.open(backbone_settings(home), home)

"""What every Butler of ours has in common: the pinned datastore name, SHA-256, and one prefix per attempt (docs/adr/0002)."""

from __future__ import annotations

from typing import Any

from lsst.daf.butler import ButlerConfig, Config
from lsst.resources import ResourcePath

from backbone.endpoint import sha256_of

# Records in a quantum graph are keyed by the datastore's name, and unpinned it is derived from the root: at another site the
# records would be ignored in silence and paths guessed.
DATASTORE = "pachon"


def attempt_prefix(attempt: str) -> str:
    """Where everything of one attempt goes, relative to any endpoint's root."""
    return f"_a/{attempt}"


def attempt_config(base: Config | str, root: str, attempt: str) -> ButlerConfig:
    """Configuration of one attempt at one site: own root, the same names, every template below the attempt's prefix."""
    # ButlerConfig merges the defaults: only after that are all templates there to be prefixed.
    config = ButlerConfig(base)
    config["datastore", "name"] = DATASTORE
    config["datastore", "root"] = root
    config["datastore", "checksum"] = True
    config["datastore", "templates"] = _prefixed(config["datastore", "templates"].toDict(), attempt_prefix(attempt))
    # The file cache is keyed by dataset id, which all attempts of a quantum share.
    config["datastore", "cached", "expiry", "mode"] = "disabled"
    return config


def _prefixed(templates: dict[str, Any], prefix: str) -> dict[str, Any]:
    """`default` alone is not enough: keys by dimension group and by dataset type win over it."""
    return {
        key: _prefixed(value, prefix) if isinstance(value, dict) else f"{prefix}/{value}" if isinstance(value, str) else value
        for key, value in templates.items()
    }


def checksum_of(uri: ResourcePath) -> str:
    """SHA-256 of what a datastore has just written, read back in blocks.

    In place of Butler's own checksum, which is off by default and of another algorithm.
    """
    with uri.open("rb") as file:
        return sha256_of(file)

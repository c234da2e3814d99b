"""The schema of alert packets: the project's own (namespace pachon.v1), one record a file.

In names, types and structure a subset of LSST's alert schema, 10.0 and 11.1, so that readers of the brokers understand it: every
field that LSST requires is there, and a packet validates in either.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import fastavro

SCHEMA_NAME = "pachon.v1.alert"


@cache
def schema() -> dict[str, Any]:
    """The parsed alert schema, all records of it."""
    return dict(_loaded(SCHEMA_NAME))


def printable(found: Any) -> Any:
    """A schema without what fastavro has noted in it for itself: for JSON, and for readers in other languages."""
    if isinstance(found, dict):
        return {key: printable(value) for key, value in found.items() if not key.startswith("__")}
    return [printable(value) for value in found] if isinstance(found, list) else found


@cache
def field_types(record: str) -> dict[str, str]:
    """Names of a record's simple fields, and the Avro type of each that is not null."""
    found = {}
    for field in _loaded(f"pachon.v1.{record}")["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        found[field["name"]] = next(kind for kind in kinds if kind != "null")
    return found


@cache
def integers(record: str) -> dict[str, int]:
    """The record's fields that are integers and never null, and the bits of each."""
    kinds = {"int": 31, "long": 63}
    fields = _loaded(f"pachon.v1.{record}")["fields"]
    return {field["name"]: kinds[field["type"]] for field in fields if isinstance(field["type"], str) and field["type"] in kinds}


@cache
def counts(record: str) -> tuple[str, ...]:
    """The record's fields that are 0 where nobody counted."""
    return tuple(field["name"] for field in _loaded(f"pachon.v1.{record}")["fields"] if field.get("default") == 0)


def _loaded(name: str) -> Any:
    with resources.as_file(resources.files(__name__)) as folder:
        return fastavro.schema.load_schema(folder / f"{name}.avsc")

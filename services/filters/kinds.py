"""Avro's schema as the types that a filter is checked against; a name that is not there is answered with the nearest that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backbone.models import nearest

_SIMPLE = {
    "int": "number", "long": "number", "float": "number", "double": "number", "boolean": "truth", "string": "text",
    "bytes": "bytes",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A type: number, truth, text, bytes, null, record (with fields), list (of an item), or another that filters cannot use."""

    name: str
    fields: Mapping[str, Kind] = field(default_factory=dict, compare=False)
    item: Kind | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"list of {self.item}" if self.item else self.name

    def near(self, word: str) -> str:
        """Advice on a field that a record has not."""
        known = list(self.fields)
        low = {name.lower(): name for name in known}
        if word.lower() in low:
            return f"did you mean {low[word.lower()]!r}?"
        advice = nearest(word, known)
        return advice if advice.startswith("did") or len(known) < 20 else f"it has {len(known)}; see `pachon alerts schema`"


NUMBER, TRUTH, TEXT, BYTES, NULL = (Kind(name) for name in ("number", "truth", "text", "bytes", "null"))
_OTHER = Kind("other")


def kind_of(schema: Any) -> Kind:
    """The kind of an Avro schema: parsed by fastavro, or JSON with its records written out, or named before they are used."""
    return _kind(schema, {})


def _kind(schema: Any, named: dict[str, Kind]) -> Kind:
    if isinstance(schema, list):
        return _union(schema, named)
    if isinstance(schema, str):
        return named.get(schema) or named.get(schema.rsplit(".", 1)[-1]) or Kind(_SIMPLE.get(schema, "other"))
    kind = schema.get("type")
    if kind == "record":
        return _record(schema, named)
    if kind == "array":
        return Kind("list", item=_kind(schema["items"], named))
    return _kind(kind, named) if kind is not None and kind not in ("map", "enum", "fixed") else _OTHER


def _union(schema: list[Any], named: dict[str, Kind]) -> Kind:
    """Null besides: everything may be null. fastavro puts a schema of several files as a list, its last the whole."""
    kinds = [_kind(part, named) for part in schema if part != "null"]
    if len(kinds) == 1 or all(kind.name == "record" for kind in kinds):
        return kinds[-1]
    return kinds[0] if len({kind.name for kind in kinds}) == 1 and kinds[0].name != "list" else _OTHER


def _record(schema: Mapping[str, Any], named: dict[str, Kind]) -> Kind:
    fields: dict[str, Kind] = {}
    record = Kind("record", fields)
    name = schema["name"]
    for key in {name, name.rsplit(".", 1)[-1], f"{schema.get('namespace', '')}.{name}"}:
        named[key] = record
    for part in schema["fields"]:
        fields[part["name"]] = _kind(part["type"], named)
    return record

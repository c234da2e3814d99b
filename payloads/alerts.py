"""Alert packets: one Avro record for each DIASource worth telling, in an object container file for each visit and detector.

The schema is Pachón's own (payloads/alert_schema, namespace pachon.v1), in names, types and structure a subset of the LSST alert
schema, so that brokers' readers understand it; `ssObject` is ours.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import fastavro
import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from payloads.dia_sources import SourceFlag
from payloads.mask import Mask

SCHEMA_NAME = "pachon.v1.alert"
HISTORY_DAYS = 365.25
_PIXEL_FLAGS = {
    "pixelFlags_bad": Mask.BAD,
    "pixelFlags_cr": Mask.CR,
    "pixelFlags_edge": Mask.EDGE,
    "pixelFlags_nodata": Mask.NO_DATA,
    "pixelFlags_interpolated": Mask.INTERP,
    "pixelFlags_saturated": Mask.SAT,
    "pixelFlags_suspect": Mask.SUSPECT,
}


@cache
def schema() -> dict[str, Any]:
    """The parsed alert schema, all records of it."""
    folder = resources.files("payloads").joinpath("alert_schema")
    with resources.as_file(folder) as path:
        loaded = fastavro.schema.load_schema(path / f"{SCHEMA_NAME}.avsc")
    return dict(loaded)


@cache
def _fields(record: str) -> dict[str, Callable[[Any], Any]]:
    """Names of a record's simple fields, and what makes a Python value of a table's for each."""
    folder = resources.files("payloads").joinpath("alert_schema")
    with resources.as_file(folder) as path:
        loaded = fastavro.schema.load_schema(path / f"pachon.v1.{record}.avsc")
    make = {"long": int, "int": int, "double": float, "float": float, "boolean": bool, "string": str}
    found = {}
    for field in loaded["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        found[field["name"]] = make[next(kind for kind in kinds if kind != "null")]
    return found


def records(table: Table, record: str) -> list[dict[str, Any]]:
    """Rows of a table as records of the schema: columns that the schema knows, NaN and masked values as null."""
    columns = {}
    for name, make in _fields(record).items():
        if name in table.colnames:
            columns[name] = [_value(value, make) for value in _plain(table[name])]
    if record == "diaSource" and "flags" in table.colnames:
        flags = np.asarray(table["flags"], np.int64)
        columns |= {name: ((flags & bit) != 0).tolist() for name, bit in _PIXEL_FLAGS.items()}
        columns["pixelFlags"] = ((flags & int(np.bitwise_or.reduce([int(b) for b in _PIXEL_FLAGS.values()]))) != 0).tolist()
        columns["centroid_flag"] = ((flags & SourceFlag.CENTROID_FAILED) != 0).tolist()
        columns["psfFlux_flag"] = ((flags & SourceFlag.TRUNCATED) != 0).tolist()
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(column: Any) -> Iterable[Any]:
    return column.filled(np.nan).tolist() if hasattr(column, "filled") and column.dtype.kind == "f" else column.tolist()


def _value(value: Any, make: Callable[[Any], Any]) -> Any:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return make(value)


def object_of_sources(source_ids: NDArray[np.int64], association: Table) -> NDArray[np.int64]:
    """Object of each source (diaObjectId), 0 where it has none."""
    if not len(association):
        return np.zeros(len(source_ids), np.int64)
    known = np.asarray(association["diaSourceId"], np.int64)
    order = np.argsort(known)
    place = np.clip(np.searchsorted(known, source_ids, sorter=order), 0, len(known) - 1)
    found = known[order[place]] == source_ids
    return np.where(found, np.asarray(association["diaObjectId"], np.int64)[order[place]], 0)


def history(sources: Table, object_ids: NDArray[np.int64], past: Table) -> list[list[dict[str, Any]]]:
    """For each source, the sources of its object in the twelve months before it, oldest first.

    `past` has the columns of dia_source and `diaObjectId`; the sources themselves may be among them.
    """
    wanted = np.isin(np.asarray(past["diaObjectId"], np.int64), object_ids[object_ids != 0]) if len(past) else np.zeros(0, bool)
    past = past[wanted]
    past.sort(["diaObjectId", "midpointMjdTai", "diaSourceId"])
    rows = records(past, "diaSource")
    owner, time = np.asarray(past["diaObjectId"], np.int64), np.asarray(past["midpointMjdTai"], float)
    out: list[list[dict[str, Any]]] = []
    for object_id, now in zip(object_ids, np.asarray(sources["midpointMjdTai"], float), strict=True):
        low, high = np.searchsorted(owner, [object_id, object_id + 1]) if object_id else (0, 0)
        first, last = low + np.searchsorted(time[low:high], [now - HISTORY_DAYS, now])
        out.append(rows[first:last])
    return out


def packets(
    sources: Table,
    *,
    association: Table,
    objects: Table,
    past: Table,
    cutouts: Callable[[float, float], Mapping[str, bytes]],
    processed_mjd_tai: float,
    observation_reason: str | None = None,
    target_name: str | None = None,
) -> Iterator[dict[str, Any]]:
    """One packet for each row of `sources` (columns of dia_source).

    `association`, `objects` and `past` are dia_association, dia_object and dia_source_history; `cutouts(x, y)` gives the bytes of
    `cutoutDifference`, `cutoutScience`, `cutoutTemplate`.
    """
    sources = sources.copy(copy_data=False)
    ids = object_of_sources(np.asarray(sources["diaSourceId"], np.int64), association)
    by_id = (
        dict(zip(np.asarray(objects["diaObjectId"], np.int64).tolist(), records(objects, "diaObject"), strict=True))
        if len(objects)
        else {}
    )
    before = history(sources, ids, past)
    for record, object_id, earlier, x, y in zip(
        records(sources, "diaSource"), ids.tolist(), before, sources["x"], sources["y"], strict=True
    ):
        known = by_id.get(object_id)
        yield {
            "diaSourceId": record["diaSourceId"],
            "observation_reason": observation_reason,
            "target_name": target_name,
            "diaSource": record | {"diaObjectId": object_id or None},
            "prvDiaSources": earlier or None,
            "diaObject": None if known is None else known | {"validityStartMjdTai": processed_mjd_tai},
            "ssObject": None,
            **cutouts(float(x), float(y)),
        }


def write_alerts(alerts: Iterable[dict[str, Any]], codec: str = "deflate") -> bytes:
    """Packets as an Avro object container file; its sync marker is fixed, so that the same packets make the same bytes."""
    out = io.BytesIO()
    fastavro.writer(out, schema(), alerts, codec=codec, validator=True, sync_marker=b"pachon-alerts-v1")
    return out.getvalue()


def read_alerts(content: bytes) -> list[dict[str, Any]]:
    """The packets of an object container file."""
    return [dict(packet) for packet in fastavro.reader(io.BytesIO(content))]

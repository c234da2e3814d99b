"""Alert packets: one Avro record (payloads/alert_schema) for each DIASource worth telling, with what is known of its object."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import fastavro
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from fastavro.validation import validate
from numpy.typing import NDArray

from backbone.errors import PermanentError
from payloads.alert_schema import counts, field_types, schema
from payloads.dia_sources import SourceFlag
from payloads.mask import Mask


class AlertsDamaged(PermanentError, ValueError):
    """A file of packets that cannot be read."""


HISTORY_DAYS = 365.25
_THIS_VISIT_DAYS = 1e-6
_PIXEL_FLAGS = {
    "pixelFlags_bad": Mask.BAD,
    "pixelFlags_cr": Mask.CR,
    "pixelFlags_edge": Mask.EDGE,
    "pixelFlags_nodata": Mask.NO_DATA,
    "pixelFlags_interpolated": Mask.INTERP,
    "pixelFlags_saturated": Mask.SAT,
    "pixelFlags_suspect": Mask.SUSPECT,
}


_PYTHON: dict[str, Callable[[Any], Any]] = {
    "long": int,
    "int": int,
    "double": float,
    "float": float,
    "boolean": bool,
    "string": str,
}
_NONE_IS_0 = ("diaObjectId", "ssObjectId", "parentDiaSourceId")
# Degrees; the ecliptic of J2000 and the galactic frame, by astropy.
_FRAMES = (("eclLambda", "eclBeta", "barycentricmeanecliptic"), ("galLon", "galLat", "galactic"))


def records(table: Table, record: str) -> list[dict[str, Any]]:
    """Rows of a table as records of the schema: columns that the schema knows, NaN and masked values as null.

    Counts that the table has not are 0: LSST's schema has no null for them.
    """
    columns: dict[str, Iterable[Any]] = {name: [0] * len(table) for name in counts(record)}
    for name, kind in field_types(record).items():
        if name in table.colnames:
            columns[name] = [_value(value, _PYTHON[kind]) for value in _plain(table[name])]
    if record == "diaSource" and "flags" in table.colnames:
        flags = np.asarray(table["flags"], np.int64)
        columns |= {name: ((flags & bit) != 0).tolist() for name, bit in _PIXEL_FLAGS.items()}
        columns["pixelFlags"] = ((flags & int(np.bitwise_or.reduce([int(b) for b in _PIXEL_FLAGS.values()]))) != 0).tolist()
        columns["centroid_flag"] = ((flags & SourceFlag.CENTROID_FAILED) != 0).tolist()
        columns["psfFlux_flag"] = ((flags & SourceFlag.TRUNCATED) != 0).tolist()
    for name in _NONE_IS_0:
        if name in columns:
            columns[name] = [value or None for value in columns[name]]
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


def history(
    record: str, times: NDArray[np.floating], object_ids: NDArray[np.int64], past: Table, *, until: float = 0.0
) -> list[list[dict[str, Any]]]:
    """For each time (MJD, TAI) and object, the object's rows of the twelve months before it, oldest first, as `record`s.

    `past` has the columns of the record, `diaObjectId` among them; what is not `until` days before a time is no history of it.
    """
    wanted = np.isin(np.asarray(past["diaObjectId"], np.int64), object_ids[object_ids != 0]) if len(past) else np.zeros(0, bool)
    past = past[wanted]
    past.sort(["diaObjectId", "midpointMjdTai", *(name for name in ("diaSourceId",) if name in past.colnames)])
    rows = records(past, record)
    owner, time = np.asarray(past["diaObjectId"], np.int64), np.asarray(past["midpointMjdTai"], float)
    out: list[list[dict[str, Any]]] = []
    for object_id, now in zip(object_ids, times, strict=True):
        low, high = np.searchsorted(owner, [object_id, object_id + 1]) if object_id else (0, 0)
        first, last = low + np.searchsorted(time[low:high], [now - HISTORY_DAYS, now - until])
        out.append(rows[first:last])
    return out


def forced_source_id(visit: int, detector: int, object_id: int) -> int:
    """Identifier of the forced photometry of an object in a frame: 63 bits of a digest of what makes it one."""
    digest = hashlib.blake2b(f"{visit}/{detector}/{object_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _forced(forced: Table | None, processed_mjd_tai: float) -> Table:
    """Forced photometry with what the record wants besides the measurements."""
    if forced is None or not len(forced):
        return Table({"diaObjectId": np.zeros(0, np.int64), "midpointMjdTai": np.zeros(0)})
    forced = forced.copy(copy_data=False)
    if "diaForcedSourceId" not in forced.colnames:
        names = zip(forced["visit"].tolist(), forced["detector"].tolist(), forced["diaObjectId"].tolist(), strict=True)
        forced["diaForcedSourceId"] = np.array([forced_source_id(*name) for name in names], np.int64)
    if "timeProcessedMjdTai" not in forced.colnames:
        forced["timeProcessedMjdTai"] = np.full(len(forced), processed_mjd_tai)
    return forced


def bodies(sources: Table) -> dict[int, dict[str, Any]]:
    """Records ssSource of the sources that have an `ssObjectId`, by diaSourceId.

    Columns of the record that the sources have (`designation`, `ephRa`, …) go into it; ecliptic and galactic places are added.
    """
    if "ssObjectId" not in sources.colnames:
        return {}
    named = sources[np.asarray(sources["ssObjectId"], np.int64) != 0]
    if not len(named):
        return {}
    places = SkyCoord(np.asarray(named["ra"], float), np.asarray(named["dec"], float), unit="deg", frame="icrs")
    for longitude, latitude, frame in _FRAMES:
        found = places.transform_to(frame).spherical
        named[longitude], named[latitude] = found.lon.deg, found.lat.deg
    return dict(zip(np.asarray(named["diaSourceId"], np.int64).tolist(), records(named, "ssSource"), strict=True))


def packets(
    sources: Table,
    *,
    association: Table,
    objects: Table,
    past: Table,
    forced: Table | None = None,
    cutouts: Callable[[float, float], Mapping[str, bytes]],
    processed_mjd_tai: float,
    observation_reason: str | None = None,
    target_name: str | None = None,
) -> Iterator[dict[str, Any]]:
    """One packet for each row of `sources` (columns of dia_source).

    `association`, `objects` and `past` are dia_association, dia_object and dia_source_history; `forced` is forced photometry of
    objects (`diaObjectId visit detector band midpointMjdTai ra dec psfFlux psfFluxErr`, nJy), this visit's included;
    `cutouts(x, y)` gives the bytes of `cutoutDifference`, `cutoutScience`, `cutoutTemplate`.
    """
    sources = sources.copy(copy_data=False)
    ids = object_of_sources(np.asarray(sources["diaSourceId"], np.int64), association)
    by_id = (
        dict(zip(np.asarray(objects["diaObjectId"], np.int64).tolist(), records(objects, "diaObject"), strict=True))
        if len(objects)
        else {}
    )
    times = np.asarray(sources["midpointMjdTai"], float)
    before = history("diaSource", times, ids, past)
    fluxes = history("diaForcedSource", times, ids, _forced(forced, processed_mjd_tai), until=-_THIS_VISIT_DAYS)
    solar = bodies(sources)
    for record, object_id, earlier, measured, x, y in zip(
        records(sources, "diaSource"), ids.tolist(), before, fluxes, sources["x"], sources["y"], strict=True
    ):
        known = by_id.get(object_id)
        yield {
            "diaSourceId": record["diaSourceId"],
            "observation_reason": observation_reason,
            "target_name": target_name,
            "diaSource": record | {"diaObjectId": object_id or None},
            "prvDiaSources": earlier or None,
            "prvDiaForcedSources": measured or None,
            "diaObject": None if known is None else known | {"validityStartMjdTai": processed_mjd_tai},
            "ssSource": solar.get(record["diaSourceId"]),
            **cutouts(float(x), float(y)),
        }


def write_alerts(alerts: Iterable[dict[str, Any]], codec: str = "deflate") -> bytes:
    """Packets as an Avro object container file; its sync marker is fixed, so that the same packets make the same bytes."""
    out = io.BytesIO()
    fastavro.writer(out, schema(), _valid(alerts), codec=codec, sync_marker=b"pachon-alerts-v1")
    return out.getvalue()


def _valid(alerts: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same packets; ValidationError at one that the schema does not allow."""
    for packet in alerts:
        # Told to raise at once, fastavro writes a message for each null that might have been: that is a third of all the time.
        if not validate(packet, schema(), raise_errors=False):
            validate(packet, schema(), raise_errors=True)
        yield packet


def read_alerts(content: bytes) -> list[dict[str, Any]]:
    """The packets of an object container file; AlertsDamaged where it is not one, whole."""
    try:
        return [dict(packet) for packet in fastavro.reader(io.BytesIO(content))]
    except Exception as error:  # fastavro raises whatever its readers run into
        raise AlertsDamaged(f"{len(content)} bytes are no whole Avro file of packets: {error!r}"[:300]) from error

"""Orbits of known bodies into the repository: every row checked, every catalogue in a RUN of its own, the newest in front.

`orbits` (ArrowAstropy, no dimensions): `ssObjectId`, the elements as payloads.orbits.Orbits has them, `error_arcsec`; sorted by
`ssObjectId`. Orbits are made anew every day; what alerts were made with stays in its RUN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
from astropy.table import Table
from lsst.daf.butler import Butler, CollectionType, DatasetType
from numpy.typing import NDArray

from backbone.errors import PermanentError
from payloads.catalogue_file import floats, identifiers, read_catalogue
from payloads.ingest import disk_may_be_full
from payloads.orbits import Array, Orbits
from payloads.repository import ORBITS, ORBITS_CHAIN, open_repository

_ERROR_ARCSEC = 0.2
"""Of bodies seen at several oppositions, where a catalogue does not say; two-body places are exact at their epoch."""
_BOUNDS = {
    "semi_major_axis_au": (0.1, 1e5),
    "eccentricity": (0.0, 0.99),  # two-body places of longer ones are not worth having, nor Kepler's equation easy
    "inclination_deg": (0.0, 180.0),
    "node_deg": (-360.0, 360.0),
    "perihelion_deg": (-360.0, 360.0),
    "mean_anomaly_deg": (-360.0, 360.0),
    "epoch_mjd": (15_000.0, 90_000.0),  # 1900 to 2105: no Julian date, and no other count of days
    "absolute_mag": (-5.0, 40.0),
    "error_arcsec": (1e-3, 3600.0),
}
_ROWS = 1 << 14


class OrbitsError(PermanentError):
    """A catalogue of orbits that cannot be used; says why."""


@dataclass(frozen=True, kw_only=True)
class RefusedOrbit:
    """A row that cannot be used: where it is in the file (from 0), whose it would be, and why not."""

    row: int
    id: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class OrbitsReport:
    """What became of a catalogue; `aside` lists its refused rows, None where there are none."""

    bodies: int
    already: bool  # the same content is the newest there
    run: str
    refused: tuple[RefusedOrbit, ...]
    aside: Path | None


def read_orbits(path: Path) -> tuple[Table, Table]:
    """The orbits of a file that can be used, and its rows that cannot, with `row` and `reason`.

    Columns: `ssObjectId` (or `id`; integers), the elements of payloads.orbits.Orbits, and where it is known `error_arcsec` (1
    sigma of the place at the epoch). OrbitsError where that is not what the file has, or no row can be used.
    """
    given = read_catalogue(path, OrbitsError)
    name = next((c for c in ("ssObjectId", "id") if c in given.colnames), "ssObjectId")
    missing = [c for c in (name, *_BOUNDS) if c not in given.colnames and c != "error_arcsec"]
    if missing:
        raise OrbitsError(f"{path}: no column {', '.join(missing)}; it has {', '.join(given.colnames)}")
    table = Table({"ssObjectId": identifiers(given, name, str(path), OrbitsError)})
    for column in _BOUNDS:
        if column in given.colnames:
            table[column] = floats(given, column, str(path), OrbitsError)
        else:
            table[column] = np.full(len(table), np.nan)
    error = table["error_arcsec"]
    error[np.isnan(error)] = _ERROR_ARCSEC
    reasons = _reasons(table)
    good = reasons == ""
    if not good.any():
        raise OrbitsError(f"{path}: no orbit that can be used" + (f"; row 0: {reasons[0]}" if len(table) else ""))
    refused = Table({"row": np.flatnonzero(~good), "reason": reasons[~good].astype(str)})
    for column in table.colnames:
        refused[column] = table[column][~good]
    table = table[good]
    table.sort("ssObjectId")
    return table, refused


def _reasons(table: Table) -> NDArray[np.object_]:
    """Why each row is of no use; empty where it is."""
    ids = np.asarray(table["ssObjectId"])
    reasons = np.full(len(table), "", object)
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    for row in np.flatnonzero(counts[inverse] > 1):  # which of them is right is not known here
        reasons[row] = f"ssObjectId is there {counts[inverse[row]]} times"
    for column, (low, high) in _BOUNDS.items():
        values = np.asarray(table[column])
        for row in np.flatnonzero(~((values >= low) & (values <= high))):
            reasons[row] = reasons[row] or f"{column} {values[row]:g} is not within {low:g} and {high:g}"
    reasons[ids <= 0] = "ssObjectId is not above 0"
    return reasons


def ingest_orbits(home: Path, path: Path) -> OrbitsReport:
    """Put the orbits of a file into the repository of `home`, in front of those there; again with the same content changes
    nothing. Rows of no use are listed in `aside/` of the home."""
    table, refused = read_orbits(path)
    butler = open_repository(home / "repo", writeable=True)
    name, dimensions, storage_class = ORBITS
    butler.registry.registerDatasetType(DatasetType(name, dimensions, storage_class, universe=butler.dimensions))
    butler.collections.register(ORBITS_CHAIN, CollectionType.CHAINED)
    run = f"{ORBITS_CHAIN}/{_digest(table)}"
    butler.collections.register(run, CollectionType.RUN)
    there = butler.find_dataset(name, collections=run) is not None
    with disk_may_be_full(home):
        aside = _set_aside(home, path, refused)
        if not there:
            butler.put(table, name, run=run)
    newest = butler.collections.get_info(ORBITS_CHAIN).children[:1] == (run,)
    if not newest:
        butler.collections.prepend_chain(ORBITS_CHAIN, run)
    rows = zip(*(refused[c].tolist() for c in ("row", "ssObjectId", "reason")), strict=True)
    return OrbitsReport(
        bodies=len(table),
        already=there and newest,
        run=run,
        refused=tuple(RefusedOrbit(row=row, id=number, reason=reason) for row, number, reason in rows),
        aside=aside,
    )


def _digest(table: Table) -> str:
    digest = hashlib.sha256()
    for column in table.colnames:
        digest.update(np.ascontiguousarray(table[column]).tobytes())
    return digest.hexdigest()[:12]


def _set_aside(home: Path, path: Path, refused: Table) -> Path | None:
    if not len(refused):
        return None
    listed = home / "aside" / f"{_digest(refused)}-{path.stem}.csv"
    listed.parent.mkdir(parents=True, exist_ok=True)
    refused.write(listed, format="ascii.csv", overwrite=True)
    return listed


def newest_orbits(butler: Butler) -> Catalogue | None:
    """The newest catalogue; None where there is none."""
    if ORBITS_CHAIN not in butler.collections.query(f"{ORBITS_CHAIN}*"):
        return None
    ref = butler.find_dataset(ORBITS[0], collections=ORBITS_CHAIN)
    return None if ref is None else Catalogue(butler.get(ref, storageClass="ArrowTable"))


class Catalogue:
    """Orbits of a repository, of a million bodies perhaps: read some ten thousand at a time, with their `error_arcsec`."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[tuple[Orbits, Array]]:
        for batch in self._table.to_batches(max_chunksize=_ROWS):
            columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
            columns["id"] = columns["ssObjectId"]
            yield Orbits(**{field.name: columns[field.name] for field in fields(Orbits)}), columns["error_arcsec"]

"""A reference catalogue into the repository: checked, and cut into htm7 shards (`ref_cat` in RUN `refcats`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from lsst.daf.butler import Butler

from backbone.errors import PermanentError
from payloads.catalogue_file import floats, identifiers, read_catalogue
from payloads.htm import htm_index
from payloads.ingest import disk_may_be_full
from payloads.repository import REFCATS_RUN, open_repository


class RefcatError(PermanentError):
    """A catalogue that cannot be used; says what is wrong with which column or row."""


@dataclass(frozen=True, kw_only=True)
class RefcatReport:
    """What became of a catalogue."""

    sources: int
    bands: tuple[str, ...]
    shards: int
    already: int  # of the shards, those that were there with the same content


def read_refcat(path: Path) -> Table:
    """Read and check a catalogue: `id` (integers, unique), `ra`, `dec` (ICRS degrees, finite), at least one `mag_<band>` (AB;
    NaN: not measured). Other columns are dropped; the result is sorted by id."""
    return _checked(read_catalogue(path, RefcatError), str(path))


def _checked(table: Table, name: str) -> Table:
    bands = sorted(c.removeprefix("mag_") for c in table.colnames if c.startswith("mag_") and len(c) > 4)
    missing = [c for c in ("id", "ra", "dec") if c not in table.colnames]
    if missing or not bands:
        wanted = [*missing, *([] if bands else ["mag_<band>"])]
        raise RefcatError(f"{name}: no column {', '.join(wanted)}; it has {', '.join(table.colnames)}")
    if len(table) == 0:
        raise RefcatError(f"{name}: the catalogue has no rows")
    columns = {"id": identifiers(table, "id", name, RefcatError)}
    columns |= {c: floats(table, c, name, RefcatError) for c in ("ra", "dec", *(f"mag_{b}" for b in bands))}
    bad = ~(np.isfinite(columns["ra"]) & (np.abs(columns["dec"]) <= 90))
    if bad.any():
        row = int(np.argmax(bad))
        raise RefcatError(f"{name}: {bad.sum()} rows without a position on the sky, first row {row} (ra, dec in degrees)")
    values, counts = np.unique(columns["id"], return_counts=True)
    if counts.max() > 1:
        raise RefcatError(f"{name}: id {values[np.argmax(counts)]} is there {counts.max()} times")
    columns["ra"] = columns["ra"] % 360.0
    checked = Table(columns)
    checked.sort("id")
    return checked


def ingest_refcat(home: Path, path: Path, *, progress: Callable[[int, int], None] | None = None) -> RefcatReport:
    """Put a catalogue into the repository of `home`; again with the same content changes nothing.

    RefcatError where a shard is there with other content: what results were made with stays as it was.
    """
    table = read_refcat(path)
    butler = open_repository(home / "repo", writeable=True)
    shards = shard(table)
    present = {int(ref.dataId["htm7"]): ref for ref in _present(butler)}
    other = [key for key in shards if key in present and not _same(butler.get(present[key]), shards[key])]
    if other:
        raise RefcatError(
            f"{path}: {len(other)} of {len(shards)} shards are there with other content (htm7 {other[0]}, …): the repository has"
            " another catalogue of this field, and datasets are never overwritten"
        )
    with disk_may_be_full(home):
        for number, (key, rows) in enumerate(shards.items(), 1):
            if key not in present:
                butler.put(rows, "ref_cat", htm7=key, run=REFCATS_RUN)
            if progress is not None:
                progress(number, len(shards))
    bands = tuple(c.removeprefix("mag_") for c in table.colnames if c.startswith("mag_"))
    return RefcatReport(sources=len(table), bands=bands, shards=len(shards), already=len(shards.keys() & present.keys()))


def shard(table: Table) -> dict[int, Table]:
    """Rows by htm7 trixel."""
    index = htm_index(table["ra"], table["dec"])
    order = np.argsort(index, kind="stable")
    keys, starts = np.unique(index[order], return_index=True)
    return {int(key): table[rows] for key, rows in zip(keys, np.split(order, starts[1:]), strict=True)}


def _present(butler: Butler) -> list:
    return butler.query_datasets("ref_cat", REFCATS_RUN, limit=None, explain=False)


def _same(a: Table, b: Table) -> bool:
    return set(a.colnames) == set(b.colnames) and all(
        np.array_equal(np.asarray(a[c]), np.asarray(b[c]), equal_nan=a[c].dtype.kind == "f") for c in b.colnames
    )

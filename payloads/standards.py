"""The catalogue of reference spectra into the repository: checked, one dataset (`standard_spectra` in RUN `refcats`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table
from lsst.daf.butler import DatasetType

from backbone.errors import PermanentError
from payloads.catalogue_file import floats, read_catalogue
from payloads.ingest import disk_may_be_full
from payloads.repository import REFCATS_RUN, STANDARDS, open_repository


class StandardsError(PermanentError):
    """A catalogue of spectra that cannot be used; says why."""


def read_standards(path: Path) -> Table:
    """Read and check: `target` (as headers name it in OBJECT), `nm`, `photons` (per nm above the atmosphere, in any unit that is
    one for all); sorted by both."""
    table = read_catalogue(path, StandardsError)
    missing = [name for name in ("target", "nm", "photons") if name not in table.colnames]
    if missing:
        raise StandardsError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.colnames)}")
    numbers = {n: floats(table, n, str(path), StandardsError) for n in ("nm", "photons")}
    table = Table({"target": np.asarray(table["target"]).astype(str), **numbers})
    if not len(table) or not (np.isfinite(table["nm"]).all() and (np.asarray(table["photons"]) > 0).all()):
        raise StandardsError(f"{path}: it has no rows, or rows without a wavelength or with photons that are not above 0")
    table.sort(["target", "nm"])
    return table


def ingest_standards(home: Path, path: Path) -> int:
    """Put it into the repository of `home`, and say how many stars it has; again with the same content changes nothing, with
    another StandardsError: what atmospheres were made with stays as it was."""
    table = read_standards(path)
    butler = open_repository(home / "repo", writeable=True)
    name, dimensions, storage_class = STANDARDS
    butler.registry.registerDatasetType(DatasetType(name, dimensions, storage_class, universe=butler.dimensions))
    there = butler.find_dataset(name, collections=REFCATS_RUN)
    if there is None:
        with disk_may_be_full(home):
            butler.put(table, name, run=REFCATS_RUN)
    elif not _same(butler.get(there), table):
        raise StandardsError(f"{path}: the repository has another catalogue of spectra, and datasets are never overwritten")
    return len(set(table["target"]))


def _same(a: Table, b: Table) -> bool:
    return len(a) == len(b) and all(np.array_equal(np.asarray(a[c]).astype(b[c].dtype), np.asarray(b[c])) for c in b.colnames)

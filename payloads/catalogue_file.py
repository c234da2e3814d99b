"""Catalogues as people bring them: one table of Parquet, CSV or FITS, read with plain errors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from astropy.table import MaskedColumn, Table

from backbone.errors import PermanentError

_FORMATS = {".parquet": "parquet", ".csv": "ascii.csv", ".fits": "fits", ".fit": "fits"}


def read_catalogue(path: Path, error: type[PermanentError]) -> Table:
    """The table as it is in the file; `error` where there is none that can be read."""
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise error(f"{path}: not a kind of table that is read; known are {', '.join(sorted(_FORMATS))}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units, lengths of texts and metadata we do not use
            return Table.read(path, format=kind)
    except FileNotFoundError as caught:
        raise error(f"{path}: no such file") from caught
    except Exception as caught:
        # Each of the readers has its own family of errors for a broken file.
        raise error(f"{path}: cannot be read as {kind}: {caught}") from caught


def floats(table: Table, column: str, name: str, error: type[PermanentError]) -> np.ndarray:
    """A column in double precision, NaN where it is masked; `error` about the catalogue `name` where it is not of numbers."""
    found = table[column]
    try:
        if isinstance(found, MaskedColumn):
            found = found.astype(float).filled(np.nan)
        return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as caught:
        raise error(f"{name}: column {column} must be numbers: {caught}") from caught


def identifiers(table: Table, column: str, name: str, error: type[PermanentError]) -> np.ndarray:
    """A column of 64-bit integers; `error` about the catalogue `name` where it is anything else, or has gaps."""
    found = table[column]
    if np.asarray(found).dtype.kind not in "iu" or np.any(getattr(found, "mask", False)):
        raise error(f"{name}: column {column} must be integers, one for every row; it is {found.dtype}")
    return np.asarray(found).astype(np.int64)

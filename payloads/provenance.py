"""What a calibration product was made from, as its header says it (DMS-REQ-0132).

Inputs, date range, parameters, calibrations used, creation date, type, software, instrument configuration and filter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from astropy.time import Time

from payloads.camera import Camera
from payloads.runner.software import versions

DATE_FORMAT = "%Y-%m-%dT%H:%M:%S"
# What decides the numbers of a product; the whole environment is in the job's own report.
_SOFTWARE = ("pachon", "python", "numpy", "scipy", "numba", "astropy", "lsst-daf-butler", "lsst-pipe-base")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Of one product. `spans` are begin and end (TAI) of the exposures used; `calibrations` dataset type, id and RUN of each."""

    product: str
    instrument: str
    detector: int
    physical_filter: str | None
    inputs: Sequence[int]
    rejected: Mapping[str, str]
    spans: Sequence[tuple[Time, Time]]
    calibrations: Sequence[tuple[str, str, str]]
    parameters: Mapping[str, Any]
    configuration: str
    made: datetime = field(default_factory=lambda: datetime.now(UTC))

    def cards(self) -> dict[str, Any]:
        """As FITS cards (docs/interfaces.md names them)."""
        cards: dict[str, Any] = {
            "PRODUCT": self.product,
            "INSTRUME": self.instrument,
            "DETECTOR": self.detector,
            "FILTER": self.physical_filter or "none",
            "DATE": self.made.strftime(DATE_FORMAT),
        }
        if self.spans:
            begin, end = min(b.tai for b, _ in self.spans), max(e.tai for _, e in self.spans)
            cards |= {"DATE-BEG": begin.isot, "DATE-END": end.isot, "MJD-BEG": float(begin.mjd), "MJD-END": float(end.mjd)}
        software = versions()
        cards |= _listed("INP", 5, list(self.inputs), "NINPUT")
        cards |= _listed("REJ", 5, [f"{name}: {reason}" for name, reason in self.rejected.items()], "NREJECT")
        cards |= _listed("CAL", 3, [" ".join(used) for used in self.calibrations], "NCAL")
        cards |= _listed("PAR", 3, [f"{name}={value}" for name, value in sorted(self.parameters.items())], "NPAR")
        cards |= _listed("SW", 3, [f"{name}=={software[name]}" for name in _SOFTWARE if name in software], "NSW")
        return cards | {"INSTCONF": self.configuration}


def _listed(stem: str, digits: int, values: list[Any], count: str) -> dict[str, Any]:
    return {count: len(values)} | {f"{stem}{k:0{digits}d}": value for k, value in enumerate(values, start=1)}


def configuration_of(camera: Camera) -> str:
    """Digest of a camera's description: the same text, the same configuration of the instrument."""
    text = json.dumps(camera.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flattened(label: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A task's configuration as label.field → value, but for what only says which datasets it reads and writes."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("connections", "saveLogOutput"):
            continue
        if isinstance(value, Mapping):
            flat |= flattened(f"{label}.{name}", value)
        else:
            flat[f"{label}.{name}"] = value
    return flat

"""What a reduction needs to know of an exposure, from the Butler's records; carried along in the images' metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbone.errors import PermanentError
from payloads.camera import NO_FILTER

_CARDS = {
    "exposure_time_s": "EXPTIME",
    "dark_time_s": "DARKTIME",
    "mjd_mid_tai": "MJD-MID",
    "physical_filter": "FILTER",
    "band": "BAND",
    "ra_deg": "PNT-RA",
    "dec_deg": "PNT-DEC",
    "rotation_deg": "PNT-ROT",
}


class ExposureFactsMissing(PermanentError):
    """An exposure's record lacks what the reduction needs."""


@dataclass(frozen=True, kw_only=True)
class ExposureFacts:
    """Times in seconds and MJD (TAI, middle); pointing in ICRS degrees, NaN where the header had none; rotation: position
    angle of +y."""

    exposure_time_s: float
    dark_time_s: float
    mjd_mid_tai: float
    physical_filter: str
    band: str
    ra_deg: float
    dec_deg: float
    rotation_deg: float

    @classmethod
    def from_data_id(cls, data_id: Any) -> ExposureFacts:
        """From an expanded data ID with an exposure; ExposureFactsMissing where the record or its times are absent."""
        record = data_id.records["exposure"] if data_id.hasRecords() else None
        if record is None or record.exposure_time is None or record.timespan is None:
            raise ExposureFactsMissing(
                f"exposure {data_id}: no record with its times came with the data ID; ingest the frame again"
            )
        begin, end = record.timespan.begin, record.timespan.end
        physical_filter = record.physical_filter or NO_FILTER
        band = data_id.records["physical_filter"].band if physical_filter != NO_FILTER else NO_FILTER
        return cls(
            exposure_time_s=float(record.exposure_time),
            dark_time_s=float(record.exposure_time if record.dark_time is None else record.dark_time),
            mjd_mid_tai=0.5 * (begin.tai.mjd + end.tai.mjd),
            physical_filter=physical_filter,
            band=band,
            ra_deg=_number(record.tracking_ra),
            dec_deg=_number(record.tracking_dec),
            rotation_deg=_number(record.sky_angle, 0.0),
        )

    def to_meta(self) -> dict[str, Any]:
        """As header cards; an unknown pointing is left out."""
        cards = {card: getattr(self, name) for name, card in _CARDS.items()}
        return {card: value for card, value in cards.items() if not (isinstance(value, float) and math.isnan(value))}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> ExposureFacts:
        """Inverse of `to_meta`."""
        missing = [
            card for name, card in _CARDS.items() if card not in meta and name not in ("ra_deg", "dec_deg", "rotation_deg")
        ]
        if missing:
            raise ExposureFactsMissing(f"the image's header lacks {', '.join(missing)}: make post_isr again with this version")
        return cls(**{name: meta.get(card, float("nan")) for name, card in _CARDS.items()})


def _number(value: float | None, default: float = float("nan")) -> float:
    return default if value is None else float(value)

"""Packed 64-bit ids that never repeat across releases (DMS-REQ-0292) and are the same everywhere (DBB-31).

    63     62..57    56..42  41..28    27..20     19..0
    0      release   day     seq_num   detector   counter

`release` 0 is prompt processing; data releases count from 1. `day` counts days since 2000-01-01 (to 2089), `seq_num` is the
exposure's number within its day. Objects belong to no exposure: their day, seq_num and detector fields hold tract and patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

_EPOCH = date(2000, 1, 1)
_BITS = {"release": 6, "day": 15, "seq_num": 14, "detector": 8, "counter": 20}


@dataclass(frozen=True, kw_only=True)
class SourceId:
    """The parts of a source's id."""

    release: int
    exposure: int
    detector: int
    counter: int


def _pack(**parts: int) -> int:
    packed = 0
    for name, bits in _BITS.items():
        if not 0 <= parts[name] < 1 << bits:
            raise ValueError(f"{name} {parts[name]} does not fit its {bits} bits of an id")
        packed = packed << bits | parts[name]
    return packed


def _unpack(packed: int) -> dict[str, int]:
    parts = {}
    for name, bits in reversed(_BITS.items()):
        parts[name] = packed & ((1 << bits) - 1)
        packed >>= bits
    return parts


def exposure_id(day_obs: int, seq_num: int) -> int:
    """Exposure (and visit) id from the observing day YYYYMMDD and the number within it."""
    if not 0 < seq_num < 1 << _BITS["seq_num"]:
        raise ValueError(f"seq_num {seq_num} of day {day_obs} must be between 1 and {(1 << _BITS['seq_num']) - 1}")
    _day_number(day_obs)
    return day_obs * 100_000 + seq_num


def exposures_of(day_obs: int) -> tuple[int, int]:
    """The lowest and the highest id that an exposure (or visit) of an observing day can have."""
    return exposure_id(day_obs, 1), exposure_id(day_obs, (1 << _BITS["seq_num"]) - 1)


def source_id(release: int, exposure: int, detector: int, counter: int) -> int:
    """Id of the `counter`-th source found on one detector of one exposure."""
    day_obs, seq_num = divmod(exposure, 100_000)
    return _pack(release=release, day=_day_number(day_obs), seq_num=seq_num, detector=detector, counter=counter)


def split_source_id(packed: int) -> SourceId:
    """Inverse of `source_id`."""
    p = _unpack(packed)
    d = _EPOCH + timedelta(days=p["day"])
    day_obs = d.year * 10_000 + d.month * 100 + d.day
    return SourceId(
        release=p["release"],
        exposure=exposure_id(day_obs, p["seq_num"]),
        detector=p["detector"],
        counter=p["counter"],
    )


def object_id(release: int, tract: int, patch: int, counter: int) -> int:
    """Id of the `counter`-th object of a patch: tract in the 15 + 6 high bits, patch in the 16 low bits of the middle field."""
    high, low = divmod(tract, 1 << 6)
    middle = low << 16 | patch
    if not 0 <= patch < 1 << 16:
        raise ValueError(f"patch {patch} does not fit its 16 bits of an id")
    return _pack(release=release, day=high, seq_num=middle >> 8, detector=middle & 0xFF, counter=counter)


def _day_number(day_obs: int) -> int:
    year, rest = divmod(day_obs, 10_000)
    try:
        number = (date(year, *divmod(rest, 100)) - _EPOCH).days
    except ValueError as error:
        raise ValueError(f"day_obs {day_obs} is not a date YYYYMMDD") from error
    if not 0 <= number < 1 << _BITS["day"]:
        raise ValueError(f"day_obs {day_obs} lies outside the {1 << _BITS['day']} days from {_EPOCH} that ids can hold")
    return number

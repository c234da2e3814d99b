"""The functions of the filter language, on numbers that are not null. A result that is no finite number is null."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

AB_NJY = 31.4  # magnitude of 1 nJy
_POLE = math.radians(192.85948), math.radians(27.12825)  # of the Galaxy, ICRS
_EQUATOR_TO_ECLIPTIC = math.radians(23.4392911)


def mag(flux: float) -> float:
    """AB magnitude of a flux in nJy."""
    return AB_NJY - 2.5 * math.log10(flux)


def separation(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """Distance on the sky, degrees (haversine)."""
    a1, d1, a2, d2 = map(math.radians, (ra1, dec1, ra2, dec2))
    half = math.sin((d2 - d1) / 2) ** 2 + math.cos(d1) * math.cos(d2) * math.sin((a2 - a1) / 2) ** 2
    return math.degrees(2 * math.asin(math.sqrt(min(half, 1.0))))


def galactic_latitude(ra: float, dec: float) -> float:
    """Of a place in ICRS, degrees."""
    a, d = math.radians(ra), math.radians(dec)
    sine = math.sin(_POLE[1]) * math.sin(d) + math.cos(_POLE[1]) * math.cos(d) * math.cos(a - _POLE[0])
    return math.degrees(math.asin(max(-1.0, min(1.0, sine))))


def ecliptic_latitude(ra: float, dec: float) -> float:
    """Of a place in ICRS, degrees."""
    a, d = math.radians(ra), math.radians(dec)
    sine = math.sin(d) * math.cos(_EQUATOR_TO_ECLIPTIC) - math.cos(d) * math.sin(_EQUATOR_TO_ECLIPTIC) * math.sin(a)
    return math.degrees(math.asin(max(-1.0, min(1.0, sine))))


# Name → (number of arguments, function).
FUNCTIONS: dict[str, tuple[int, Callable[..., float]]] = {
    "abs": (1, abs),
    "sqrt": (1, math.sqrt),
    "log10": (1, math.log10),
    "mag": (1, mag),
    "separation": (4, separation),
    "galactic_latitude": (2, galactic_latitude),
    "ecliptic_latitude": (2, ecliptic_latitude),
}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


# Over the values of a list's field, at least one of them: `max(prvDiaSources.snr, band == 'r')`.
AGGREGATES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "min": min,
    "max": max,
    "sum": math.fsum,
    "mean": _mean,
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
}

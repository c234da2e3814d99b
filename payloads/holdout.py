"""Which exposures a master is not made of, so that it can be verified on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

_MEMBERS, _REJECTED = "INP", "REJ"
"""Cards `INP00001 …` of a product's header name the exposures it was made of, `REJ00001 …` those that were no good and the
reason (payloads/provenance.py)."""


def held_out(exposures: Iterable[int], every: int) -> frozenset[int]:
    """One of each whole `every` exposures, in order of exposure: the last but one of each; none where `every` is 0.

    Of fewer exposures than `every` none is held out: a master of four frames needs them all.
    """
    ordered = sorted(set(exposures))
    if every <= 0:
        return frozenset()
    whole = len(ordered) // every * every
    return frozenset(ordered[index] for index in range(max(every - 2, 0), whole, every))


def not_used(exposures: Collection[int], every: int, used: Collection[int] | None) -> frozenset[int]:
    """Those that a master was not made of: by its own provenance where it has one, else by the rule."""
    if used is not None:
        return frozenset(exposures) - frozenset(used)
    return held_out(exposures, every)


def used_by(meta: Mapping[str, Any]) -> frozenset[int] | None:
    """Exposures that a product's header says it was made of; None where it does not say."""
    return frozenset(int(value) for value in _cards(meta, _MEMBERS)) or None


def rejected_by(meta: Mapping[str, Any]) -> dict[int, str]:
    """Exposures that a product's header says were no good, and why: they judge no product either."""
    found = (value.partition(": ") for value in _cards(meta, _REJECTED))
    return {int(name): reason for name, _, reason in found}


def _cards(meta: Mapping[str, Any], stem: str) -> list[str]:
    return [str(value) for key, value in meta.items() if key.startswith(stem) and key[len(stem) :].isdigit()]

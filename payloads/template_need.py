"""Which templates are missing: patches that were observed often enough in a band and have none (DMS-REQ-0280)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lsst.daf.butler import Butler

Span = tuple[int, int]
"""First and last observing day, YYYYMMDD."""


@dataclass(frozen=True, kw_only=True)
class TemplateNeed:
    """`patches`: (tract, patch, band), in order. `days`: between which the visits that cover them were made."""

    patches: tuple[tuple[int, int, str], ...]
    days: Span

    def words(self) -> str:
        """For a person."""
        bands = sorted({band for _, _, band in self.patches})
        counts = ", ".join(f"{sum(b == band for _, _, b in self.patches)} in {band}" for band in bands)
        return f"patches observed without a template: {counts}; days {self.days[0]} to {self.days[1]}"

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"words": self.words(), "first_day": self.days[0], "last_day": self.days[1], "patches": [*map(list, self.patches)]}


def template_need(
    butler: Butler, instrument: str, skymap: str, *, days: Span, least_visits: int, tried: Sequence[Span] = ()
) -> TemplateNeed | None:
    """What is missing of the patches that visits on `days` cover; None: nothing.

    Days in one of the spans `tried` do not count: templates were made of them, and what has none of those has none for a reason.
    """
    have = _templates(butler, instrument, skymap)
    seen: dict[tuple[int, int, str], set[tuple[int, int]]] = defaultdict(set)
    with butler.query() as query:
        places = query.data_ids(["tract", "patch", "visit", "band", "day_obs"])
        bind = {"first": days[0], "last": days[1]}
        found = places.where("day_obs >= first AND day_obs <= last", instrument=instrument, skymap=skymap, bind=bind)
        for data_id in found:
            day, place = int(data_id["day_obs"]), (int(data_id["tract"]), int(data_id["patch"]), str(data_id["band"]))
            if place not in have and not any(first <= day <= last for first, last in tried):
                seen[place].add((day, int(data_id["visit"])))
    missing = {place: visits for place, visits in seen.items() if len(visits) >= least_visits}
    if not missing:
        return None
    observed = [day for visits in missing.values() for day, _ in visits]
    return TemplateNeed(patches=tuple(sorted(missing)), days=(min(observed), max(observed)))


def _templates(butler: Butler, instrument: str, skymap: str) -> set[tuple[int, int, str]]:
    """Patches and bands that have one."""
    chain = f"{instrument}/templates"
    if chain not in butler.collections.query(f"{instrument}/*") or not butler.registry.queryDatasetTypes("template_coadd"):
        return set()
    refs = butler.query_datasets("template_coadd", chain, skymap=skymap, explain=False, limit=None)
    return {(int(ref.dataId["tract"]), int(ref.dataId["patch"]), str(ref.dataId["band"])) for ref in refs}

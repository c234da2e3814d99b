"""What a report picks out to show: the sources that moved, those that stayed and changed, and the best of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from payloads.report.products import Products

RELIABLE = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Story:
    """DIASources as a frame with `diaObjectId` (0: none) and `trackletId` (0: none), and the night's tracklets."""

    sources: pd.DataFrame
    tracklets: pd.DataFrame

    @classmethod
    def of(cls, products: Products) -> Story:
        """Read it from what is chained for the instrument."""
        sources = frame(products.table("dia_source", products.prompt))
        for column, dataset_type in (("diaObjectId", "dia_association"), ("trackletId", "tracklet_source")):
            sources[column] = _joined(sources, frame(products.table(dataset_type, products.prompt)), column)
        return cls(sources=sources, tracklets=frame(products.table("tracklet", products.prompt)))

    @property
    def good(self) -> pd.DataFrame:
        """Reliable sources that are brighter than the template."""
        s = self.sources
        return s[(s["reliability"] >= RELIABLE) & ~s["isNegative"]] if len(s) else s

    def objects(self) -> pd.DataFrame:
        """Objects that stay in place: number of good sources, best S/N and mean place, the most often seen first."""
        good = self.good
        still = good[(good["diaObjectId"] > 0) & (good["trackletId"] == 0)] if len(good) else good
        if not len(still):
            return pd.DataFrame(columns=["n", "snr", "ra", "dec"])
        grouped = still.groupby("diaObjectId")
        table = grouped.agg(n=("snr", "size"), snr=("snr", "max"), ra=("ra", "mean"), dec=("dec", "mean"))
        return table[table["n"] > 1].sort_values(["n", "snr"], ascending=False)

    def moving(self) -> list[int]:
        """Tracklets, the longest first."""
        linked = self.sources[self.sources["trackletId"] != 0] if len(self.sources) else self.sources
        return [] if not len(linked) else linked.groupby("trackletId").size().sort_values(ascending=False).index.tolist()

    def best_alerts(self, count: int) -> pd.DataFrame:
        """The best single source of each of the best objects, a third of them moving ones, and others where those are few."""
        picked = []
        good = self.good
        if not len(good):
            return good
        moving = self.moving()
        objects = self.objects().index.tolist()
        n_moving = min(len(moving), max(count // 3, count - len(objects)))
        for column, names in (("diaObjectId", objects[: count - n_moving]), ("trackletId", moving[:n_moving])):
            for name in names:
                mine = good[good[column] == name]
                if len(mine):
                    picked.append(mine.loc[mine["snr"].idxmax()])
        if not picked:
            return good.nlargest(count, "snr")
        return pd.DataFrame(picked)


def frame(table: Any) -> pd.DataFrame:
    """A table's scalar columns as a DataFrame."""
    return pd.DataFrame({name: np.asarray(table[name]) for name in table.colnames if np.asarray(table[name]).ndim == 1})


def _joined(sources: pd.DataFrame, membership: pd.DataFrame, column: str) -> Any:
    if not len(sources) or not len(membership):
        return np.zeros(len(sources), np.int64)
    by_source = membership.drop_duplicates("diaSourceId").set_index("diaSourceId")[column]
    # Not `map`: what it does not find turns all into floats, which cannot hold 64-bit ids.
    return by_source.reindex(sources["diaSourceId"], fill_value=0).to_numpy(np.int64)


def ab_mag(flux_njy: float) -> float:
    """AB magnitude of a flux in nJy; NaN where it is not positive."""
    return float(31.4 - 2.5 * np.log10(flux_njy)) if flux_njy > 0 else float("nan")

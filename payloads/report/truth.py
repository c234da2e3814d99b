"""A simulated survey's truth against what was found: pairs of rows, and the fractions made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

MATCH_PX = 2.0
KINDS = ("transient", "variable", "asteroid")


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The tables of a survey's truth that a report needs."""

    epochs: dict[str, Table]
    frames: Table
    folder: Path

    @classmethod
    def load(cls, folder: Path) -> Truth:
        """Read OUT/truth."""
        return cls(
            epochs={kind: read_table(folder / f"{kind}_epochs.parquet") for kind in KINDS},
            frames=read_table(folder / "frames.parquet"),
            folder=folder,
        )

    def changed(self, least_snr: float = 3.0) -> Table:
        """Epochs of everything that differs from the template by at least `least_snr`, up or down."""
        parts = []
        for kind, table in self.epochs.items():
            part = table[np.abs(np.asarray(table["snr"])) >= least_snr]["id", "exposure", "detector", "x", "y", "snr"]
            part["kind"] = np.full(len(part), kind, "U16")
            parts.append(part)
        return vstack(parts, metadata_conflicts="silent")

    def wcs(self, exposure: int, detector: int) -> WCS | None:
        """The true WCS of a frame."""
        row = np.flatnonzero((self.frames["exposure"] == exposure) & (self.frames["detector"] == detector))
        return None if not row.size else WCS(fits.Header.fromstring(str(self.frames["wcs"][row[0]]), sep="\n"))

    def master(self, kind: str, detector: int) -> NDArray[np.floating] | None:
        """The true bias pattern (ADU) or dark current (electron/s) of a detector."""
        path = self.folder / f"detectors/{detector:03d}" / {"bias": "bias_adu.npy", "dark": "dark_electron_s.npy"}[kind]
        return np.load(path) if path.exists() else None

    def flat(self, detector: int, physical_filter: str) -> NDArray[np.floating] | None:
        """The true response of a detector in a filter, median 1."""
        path = self.folder / f"detectors/{detector:03d}/flat_{physical_filter}.npy"
        return np.load(path) if path.exists() else None


def read_table(path: Path) -> Table:
    """A Parquet file as a table; columns of numbers stay numbers."""
    table = pq.read_table(path)
    return Table({name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names})


def match(wanted: Table, found: Table, radius_px: float = MATCH_PX) -> NDArray[np.int64]:
    """For each wanted row (`exposure detector x y`) the nearest found one (`visit detector x y`) within reach; -1 if none."""
    result = np.full(len(wanted), -1, np.int64)
    if not len(wanted) or not len(found):
        return result
    # Frames side by side in one plane, so far apart that none reaches into the next.
    frames = {key: k for k, key in enumerate(sorted(set(_keys(wanted, "exposure")) | set(_keys(found, "visit"))))}
    ours = _points(wanted, "exposure", frames)
    distance, index = cKDTree(_points(found, "visit", frames)).query(ours, distance_upper_bound=radius_px)
    near = np.isfinite(distance)
    result[near] = index[near]
    return result


def _keys(table: Table, exposure: str) -> list[tuple[int, int]]:
    return list(zip(np.asarray(table[exposure]).tolist(), np.asarray(table["detector"]).tolist(), strict=True))


def _points(table: Table, exposure: str, frames: dict[tuple[int, int], int]) -> NDArray[np.float64]:
    number = np.array([frames[key] for key in _keys(table, exposure)], float)
    return np.column_stack([np.asarray(table["x"], float) + 1e6 * number, np.asarray(table["y"], float)])


def wcs_offset_px(found: WCS, true: WCS, shape: tuple[int, int], side: int = 7) -> NDArray[np.float64]:
    """Distances in pixels, at a grid of places on a frame of `shape`, between where two WCS put the same sky."""
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, side), np.linspace(0, shape[0] - 1, side))
    there = found.world_to_pixel_values(*true.pixel_to_world_values(x, y))
    return np.hypot(there[0] - x, there[1] - y)


def found_asteroids(
    epochs: Table, sources: Table, tracklet_source: Table, *, least: int = 3, least_snr: float = 5.0
) -> tuple[int, int]:
    """(asteroids with a tracklet, asteroids that could have one), an asteroid counted once for each night.

    One could be linked in a night if it is above `least_snr` in at least `least` exposures; it is found if one tracklet holds at
    least `least` of its sources and they are the majority of that tracklet.
    """
    truth = pd.DataFrame({name: np.asarray(epochs[name]) for name in ("id", "exposure", "snr")})
    truth["night"] = truth["exposure"] // 100_000
    bright = truth[truth["snr"] >= least_snr].groupby(["id", "night"])["exposure"].nunique()
    linkable = set(bright[bright >= least].index)
    if not len(tracklet_source) or not len(sources):
        return 0, len(linkable)
    nearest = match(epochs, sources)
    truth["diaSourceId"] = np.where(nearest >= 0, np.asarray(sources["diaSourceId"], np.int64)[nearest], -1)
    members = pd.DataFrame({name: np.asarray(tracklet_source[name]) for name in ("trackletId", "diaSourceId")})
    size = members.groupby("trackletId").size()
    known = members.merge(truth[truth["diaSourceId"] >= 0], on="diaSourceId")
    own = known.groupby(["trackletId", "id", "night"])["diaSourceId"].nunique().reset_index(name="count")
    good = own[(own["count"] >= least) & (2 * own["count"] > own["trackletId"].map(size))]
    return len(linkable & set(zip(good["id"], good["night"], strict=True))), len(linkable)

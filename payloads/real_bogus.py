"""Real or bogus: a trained judge of DIASources, evaluated with numpy from numbers in a JSON file.

Gradient-boosted trees (Friedman 2001, Ann. Stat. 29, 1189) over what is measured of a source. payloads/prompt/training.py trains
them on simulated scenes and writes the file; nothing here knows how.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import PermanentError
from payloads.dia_sources import SourceFlag

Floats = NDArray[np.floating]
MODEL = "real_bogus.json"


class ModelError(PermanentError, ValueError):
    """A model file that cannot be used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trees:
    """Boosted trees: `names` of the features; per tree arrays of nodes: `feature` (-1: a leaf), `threshold` (left where the
    feature is not above it), `left`, `right`, `value`. The score is `start` plus the sum of the leaves' values; its logistic is
    the probability."""

    names: tuple[str, ...]
    start: float
    feature: tuple[NDArray[np.int64], ...]
    threshold: tuple[NDArray[np.float64], ...]
    left: tuple[NDArray[np.int64], ...]
    right: tuple[NDArray[np.int64], ...]
    value: tuple[NDArray[np.float64], ...]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Trees:
        """From what the training wrote, which may have known fewer features. ModelError where it knew others."""
        names = tuple(content["features"])
        if not set(names) <= set(FEATURES):
            raise ModelError(f"the model is over {', '.join(names)}; this version measures {', '.join(FEATURES)}: train it again")
        place = np.array([*(FEATURES.index(name) for name in names), -1])
        kinds = {"feature": np.int64, "threshold": np.float64, "left": np.int64, "right": np.int64, "value": np.float64}
        columns = {key: tuple(np.asarray(tree[key], kind) for tree in content["trees"]) for key, kind in kinds.items()}
        columns["feature"] = tuple(place[feature] for feature in columns["feature"])
        return cls(names=names, start=float(content["start"]), **columns)

    def score(self, values: Floats) -> Floats:
        """Log-odds (n,) of rows of all features (n, k)."""
        total = np.full(len(values), self.start)
        rows = np.arange(len(values))
        for feature, threshold, left, right, value in zip(
            self.feature, self.threshold, self.left, self.right, self.value, strict=True
        ):
            node = np.zeros(len(values), np.int64)
            while (inner := feature[node] >= 0).any():
                goes_left = values[rows, np.maximum(feature[node], 0)] <= threshold[node]
                node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
            total += value[node]
        return total


@cache
def model() -> Trees:
    """The model that came with this version."""
    return Trees.from_dict(json.loads(resources.files("payloads").joinpath(MODEL).read_text(encoding="utf-8")))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.asarray(top, float) / np.maximum(np.abs(np.asarray(bottom, float)), 1e-30)


def _significance(source: Mapping[str, NDArray]) -> Floats:
    value = _ratio(source["psfFlux"], source["psfFluxErr"])
    return np.where(np.abs(value) < 1e-3, 1e-3, value)


FEATURES = (
    "log_snr",
    "negative",
    "chi2",
    "bad_fraction",
    "suspect_fraction",
    "sum_ratio",
    "opposite_ratio",
    "extendedness",
    "size",
    "elongation",
    "aperture_ratio",
    "log_template_share",
    "log_template_snr",
    "log_neighbours",
    "near_saturated",
    "dipole",
    "centroid_failed",
    "sharpness",
    "peak_ratio",
    "log_star_share",
)


def features(source: Mapping[str, NDArray]) -> Floats:
    """Features (n, k), in the order of `FEATURES`, of columns of payloads.dia_sources.detect with `neighbours`; all finite, and
    none depends on the unit of flux or the size of the PSF."""
    flags = np.asarray(source["flags"], np.int64)
    flux = np.asarray(source["psfFlux"], float)
    ixx, iyy, ixy = (np.asarray(source[name], float) for name in ("ixx", "iyy", "ixy"))
    trace = np.maximum(ixx + iyy, 1e-12)
    columns = {
        "log_snr": np.log10(np.maximum(np.abs(np.asarray(source["snr"], float)), 1e-3)),
        "negative": np.asarray(source["isNegative"], float),
        "chi2": np.log10(_ratio(source["psfChi2"], np.maximum(source["psfNdata"], 1)) + 1e-3),
        "bad_fraction": np.asarray(source["badFraction"], float),
        "suspect_fraction": np.asarray(source["suspectFraction"], float),
        "sum_ratio": np.asarray(source["sumRatio"], float),
        "opposite_ratio": np.asarray(source["oppositeRatio"], float),
        "extendedness": np.asarray(source["extendedness"], float),
        "size": trace / np.maximum(np.asarray(source["ixxPSF"], float) + np.asarray(source["iyyPSF"], float), 1e-12),
        "elongation": np.hypot(ixx - iyy, 2 * ixy) / trace,
        "aperture_ratio": np.clip(np.asarray(source["apFlux"], float) / np.where(flux == 0, 1e-30, flux), -3, 5),
        "log_template_share": np.log10(_ratio(np.abs(flux), np.maximum(source["templateFlux"], 1e-30)).clip(1e-5, 1e3)),
        "log_template_snr": np.log10(_ratio(source["templateFlux"], source["templateFluxErr"]).clip(0.1, 1e6)),
        "log_neighbours": np.log10(1.0 + np.asarray(source["neighbours"], float)),
        "near_saturated": (flags & SourceFlag.NEAR_SATURATED) != 0,
        "dipole": np.asarray(source["isDipole"], float),
        "centroid_failed": (flags & SourceFlag.CENTROID_FAILED) != 0,
        "sharpness": np.clip(_ratio(source["apFlux"], source["apFluxErr"]) / _significance(source), -3, 5),
        "peak_ratio": np.clip(np.asarray(source["peakRatio"], float), 0, 10),
        "log_star_share": np.log10(_ratio(np.abs(flux), np.maximum(source["starFlux"], 1e-30)).clip(1e-5, 1e3)),
    }
    table = np.stack([np.asarray(columns[name], float) for name in FEATURES], axis=-1)
    return np.nan_to_num(table, nan=0.0, posinf=1e6, neginf=-1e6)


def probability(source: Mapping[str, NDArray], trees: Trees | None = None) -> NDArray[np.float32]:
    """Probability (n,) of a source to be real; 0.5 is where the training set the cut."""
    if not len(source["flags"]):
        return np.zeros(0, np.float32)
    score = (trees or model()).score(features(source))
    return (1 / (1 + np.exp(-np.clip(score, -50, 50)))).astype(np.float32)

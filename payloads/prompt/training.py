"""Training of payloads/real_bogus.json.

    python -m payloads.prompt.training --measure examples.npz
    python -m payloads.prompt.training --train examples.npz --out payloads/real_bogus.json

Scenes of many kinds (seeing, crowding, depth of the template) are simulated, taken through the prompt chain, and every source
that it measures is labelled by the truth. Which scene a source came of decides the fold: the cut is set on sources that the
model had not seen. The seeds are these and no others; whatever is measured of the model uses seeds from 100 on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from payloads.prompt.detector import process_detector
from payloads.prompt.settings import PromptSettings
from payloads.prompt.simulated import SimulatedVisit, simulate_visit
from payloads.real_bogus import FEATURES, features
from payloads.simulator.config import SurveyConfig

FIRST_SEED = 20
MATCH_PX = 2.0
_REAL_SNR, _NOTHING_SNR = 3.5, 1.5


@dataclass(frozen=True, kw_only=True)
class Sky:
    """What a scene is like: stars per megapixel, seeing in px, its scatter from night to night, exposures in the template."""

    stars: float
    seeing_px: float
    scatter: float = 0.15
    depth: int = 10


SKIES = (
    Sky(stars=1000, seeing_px=3.8),
    Sky(stars=1000, seeing_px=3.2, scatter=0.3),
    Sky(stars=700, seeing_px=2.4, depth=5),
    Sky(stars=1000, seeing_px=4.6, depth=4),
    Sky(stars=9000, seeing_px=3.8),
    Sky(stars=3000, seeing_px=3.4, scatter=0.25),
    Sky(stars=9000, seeing_px=4.2, depth=6),
)


COARSE = (Sky(stars=1000, seeing_px=1.9, depth=7), Sky(stars=2500, seeing_px=1.8, scatter=0.1, depth=7))
SCENES = (
    [SKIES[number % len(SKIES)] for number in range(28)]
    + [COARSE[number % len(COARSE)] for number in range(8)]
    + [SKIES[number % len(SKIES)] for number in range(35)]
    + [COARSE[number % len(COARSE)] for number in range(9)]
)
"""The scenes, the n-th of seed FIRST_SEED + n; some are of a camera that hardly samples its PSF."""
FAINTEST_SNR = 4.5
"""Sources below a visit's threshold are learnt from too: there are more of them, and what they are like does not end at it."""


def survey(sky: Sky, seed: int, side_px: int = 1000) -> SurveyConfig:
    """A survey of two nights with one visit each, of one detector of `side_px`."""
    area = side_px**2 / 1e6
    return SurveyConfig.from_dict(
        {
            "seed": seed,
            "camera": {"detectors": [1, 1], "size": [side_px, side_px], "amplifiers": 4, "pixel_scale_arcsec": 0.2},
            "nights": {"count": 2, "templates": 1},
            "filters": {"r": {"band": "r", "zeropoint_mag": 28.3, "sky_mag_arcsec2": 21.2}},
            "fields": [{"name": "training", "visits": {"r": 1}}],
            "seeing": {"median_px": sky.seeing_px, "scatter_fraction": sky.scatter},
            "stars": {"per_detector": sky.stars * area, "bright_mag": 15.0, "faint_mag": 25.5},
            "galaxies": {"per_detector": 190 * area, "bright_mag": 18.0, "faint_mag": 25.0},
            "transients": {"per_field": int(100 * area), "snr": [4.5, 60.0]},
            "asteroids": {"per_field_night": int(6 * area)},
        }
    )


def labels(sources: Table, truth: Table) -> NDArray[np.int64]:
    """1 for sources of what truly changed, 0 for others, -1 for those that nobody can tell: beside a change too faint."""
    result = np.zeros(len(sources), np.int64)
    snr = np.abs(np.asarray(truth["snr"], float))
    places = np.c_[np.asarray(sources["x"], float), np.asarray(sources["y"], float)]
    for least, label in ((_NOTHING_SNR, -1), (_REAL_SNR, 1)):
        strong = truth[snr >= least]
        if len(strong) and len(sources):
            distance, _ = cKDTree(np.c_[strong["x"], strong["y"]]).query(places)
            result[distance < MATCH_PX] = label
    return result


def examples(visit: SimulatedVisit) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (n, k) and labels (n,) of the sources of a simulated visit."""
    faint = PromptSettings(threshold_snr=FAINTEST_SNR)
    sources = process_detector([visit.raw], visit.preloaded, faint, processed_mjd_tai=0.0).dia_sources
    label = labels(sources, visit.truth)
    told = label >= 0
    return features(sources[told]), label[told]


def measured(numbers: Sequence[int], side_px: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Features, labels, and of which scene, of all sources of these scenes."""
    parts = []
    for number in numbers:
        sky = SCENES[number]
        values, label = examples(simulate_visit(survey(sky, FIRST_SEED + number, side_px), depth=sky.depth))
        parts.append((values, label, np.full(len(label), number)))
    values, label, scene = (np.concatenate(column) for column in zip(*parts, strict=True))
    return values, label, scene


def train(
    values: NDArray[np.float64], label: NDArray[np.int64], scene: NDArray[np.int64], *, false_rate: float, trees: int = 120
) -> dict[str, Any]:
    """The model as plain numbers; `false_rate` is the share of bogus sources that the cut at 0.5 may let through."""
    from sklearn.ensemble import GradientBoostingClassifier

    def fitted(rows: NDArray[np.bool_]) -> Any:
        judge = GradientBoostingClassifier(
            n_estimators=trees, max_depth=3, learning_rate=0.1, subsample=0.7, min_samples_leaf=8, random_state=1
        )
        return judge.fit(values[rows], label[rows])

    unseen = np.zeros(len(label))
    fold = scene % 4
    for number in range(4):
        here = fold == number
        if here.any() and len(np.unique(label[~here])) == 2:
            unseen[here] = fitted(~here).decision_function(values[here])
    cut = float(np.quantile(unseen[label == 0], 1.0 - false_rate))
    judge = fitted(np.ones(len(label), bool))
    start = float(judge.decision_function(values[:1])[0] - _grown(judge, values[:1]))
    kept = unseen > cut
    return {
        "features": list(FEATURES),
        "trained": {
            "real": int((label == 1).sum()),
            "bogus": int((label == 0).sum()),
            "scenes": len(np.unique(scene)),
            "unseen_real_kept": float(kept[label == 1].mean()),
            "unseen_bogus_kept": float(kept[label == 0].mean()),
        },
        "start": start - cut,
        "trees": [_tree(stage[0].tree_, judge.learning_rate) for stage in judge.estimators_],
    }


def _grown(judge: Any, values: NDArray[np.float64]) -> float:
    return float(sum(judge.learning_rate * stage[0].predict(values)[0] for stage in judge.estimators_))


def _tree(tree: Any, rate: float) -> dict[str, list[float]]:
    leaf = tree.children_left < 0
    # Thresholds are kept as float32 sees them: scikit-learn compares in that precision.
    return {
        "feature": np.where(leaf, -1, tree.feature).tolist(),
        "threshold": [round(float(t), 7) for t in np.where(leaf, 0.0, tree.threshold)],
        "left": np.where(leaf, 0, tree.children_left).tolist(),
        "right": np.where(leaf, 0, tree.children_right).tolist(),
        "value": [round(float(v), 6) for v in np.where(leaf, rate * tree.value[:, 0, 0], 0.0)],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and measure, or train on what was measured. In parts, as scenes take minutes: each part keeps its own file."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--measure", type=Path, help="write features and labels of the scenes here (.npz), and train nothing")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=len(SCENES) - 1)
    parser.add_argument("--side-px", type=int, default=1500)
    parser.add_argument("--train", type=Path, nargs="+", help="files of --measure")
    parser.add_argument("--out", type=Path, help="the model")
    parser.add_argument("--false-rate", type=float, default=0.0035, help="share of bogus sources that the cut lets through")
    chosen = parser.parse_args(arguments)
    if chosen.measure is not None:
        values, label, scene = measured(range(chosen.first, chosen.last + 1), chosen.side_px)
        np.savez(chosen.measure, values=values, label=label, scene=scene)
        return
    if not chosen.train or chosen.out is None:
        parser.error("give --measure FILE, or --train FILES --out FILE")
    parts = [np.load(path) for path in chosen.train]
    values, label, scene = (np.concatenate([part[name] for part in parts]) for name in ("values", "label", "scene"))
    found = train(values, label, scene, false_rate=chosen.false_rate)
    chosen.out.write_text(json.dumps(found) + "\n")
    print(json.dumps(found["trained"]))  # noqa: T201 - what whoever runs it wants to know


if __name__ == "__main__":
    main()

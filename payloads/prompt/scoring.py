"""A result against the truth of its simulated visit: how complete, how pure, how right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from payloads.dia_catalog import njy_per_electron
from payloads.forced import lone_fluxes
from payloads.mask import UNUSABLE, Mask, any_set
from payloads.prompt.result import PromptResult
from payloads.prompt.simulated import SimulatedVisit

MATCH_PX = 2.0
REAL_SNR = 3.0
"""A source beside a change of this S/N is true; beside a fainter one it is false."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """Per true transient that can be measured (n,): its `snr` on the difference, whether `found` and `told`, `flux_ratio` found
    to true, offsets `dx`, `dy` in px (NaN where not found), whether on a galaxy (`hosted`); `false`: number of alerts of
    nothing; `pulls` of fluxes at blank places; `pairs`: sources that must join a certain object, `pairs_right`: that did."""

    snr: NDArray[np.float64]
    found: NDArray[np.bool_]
    told: NDArray[np.bool_]
    flux_ratio: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    hosted: NDArray[np.bool_]
    false: int
    pulls: NDArray[np.float64]
    pairs: int
    pairs_right: int


def score(visit: SimulatedVisit, result: PromptResult, *, places: int = 40_000, seed: int = 0) -> Score:
    """Compare. A transient is measured where neither detector nor template is blind: at most 15 % of the 7 x 7 px around it.
    Pulls are those of so many `places`: of 4,000 their width is known to two per cent only."""
    truth, sources, difference = visit.truth, result.dia_sources, result.difference
    true = np.asarray(truth["kind"]) == "transient"
    x, y = (np.asarray(truth[name], float) for name in ("x", "y"))
    blind = _blind(result)
    at = np.clip(np.rint(y).astype(int), 0, blind.shape[0] - 1), np.clip(np.rint(x).astype(int), 0, blind.shape[1] - 1)
    rows = np.flatnonzero(true & (blind[at] < 0.15))
    error = _error(result, x[rows], y[rows])
    electrons = np.asarray(truth["difference_njy"], float)[rows] / njy_per_electron(visit.zeropoint_mag)
    found_xy = np.c_[np.asarray(sources["x"], float), np.asarray(sources["y"], float)].reshape(-1, 2)
    distance, nearest = cKDTree(found_xy).query(np.c_[x, y][rows]) if len(found_xy) else (np.full(len(rows), np.inf), rows * 0)
    near = distance < MATCH_PX
    mine = np.where(near, nearest, 0)
    flux = np.asarray(sources["psfFlux"], float)[mine] if len(sources) else np.zeros(len(rows))
    ratio = flux / np.asarray(truth["difference_njy"], float)[rows]
    offset = found_xy[mine] - np.c_[x, y][rows] if len(sources) else np.full((len(rows), 2), np.nan)
    pairs, right = _associations(visit, result, rows[near], mine[near])
    return Score(
        snr=electrons / error,
        found=near,
        told=near & result.told[mine] if len(sources) else near,
        flux_ratio=np.where(near, ratio, np.nan),
        dx=np.where(near, offset[:, 0], np.nan),
        dy=np.where(near, offset[:, 1], np.nan),
        hosted=np.asarray(truth["host"])[rows] >= 0,
        false=_false(visit, result),
        pulls=_pulls(difference, truth, places, seed),
        pairs=pairs,
        pairs_right=right,
    )


def summary(scores: list[Score]) -> dict[str, float]:
    """The figures of many scenes together; `worst_…` are of the scene where they are worst."""
    snr, told = (np.concatenate([getattr(s, name) for s in scores]) for name in ("snr", "told"))

    def share(low: float, high: float) -> float:
        here = (snr >= low) & (snr < high)
        return float(told[here].mean()) if here.any() else float("nan")

    ratio, dx, dy = (np.concatenate([getattr(s, name) for s in scores]) for name in ("flux_ratio", "dx", "dy"))
    # A flux that was noticed because it scattered up is no measure of bias: twenty sigma are noticed anyhow.
    bright = told & (snr >= 14) & (snr < 30)
    pulls = np.concatenate([s.pulls for s in scores])
    weight = snr[bright] ** 2
    return {
        "completeness_snr_5": share(5.0, 5.4),
        "completeness_snr_7": share(6.5, 7.5),
        "completeness_snr_10": share(9.0, 12.0),
        "false_per_detector": float(np.mean([s.false for s in scores])),
        "worst_false_per_detector": float(max(s.false for s in scores)),
        "flux_bias_snr_20": float(np.average(ratio[bright], weights=weight) - 1) if bright.any() else float("nan"),
        "astrometric_bias_px": float(np.hypot(np.average(dx[bright], weights=weight), np.average(dy[bright], weights=weight)))
        if bright.any()
        else float("nan"),
        "pull_width": float(1.4826 * np.median(np.abs(pulls - np.median(pulls)))),
        "pull_median": float(np.median(pulls)),
        "association_right": float(sum(s.pairs_right for s in scores) / max(sum(s.pairs for s in scores), 1)),
        "transients": float(len(snr)),
    }


def _blind(result: PromptResult) -> NDArray[np.float32]:
    """Share of unusable pixels in the 7 x 7 px around each pixel."""
    return ndimage.uniform_filter(any_set(result.difference.mask, UNUSABLE, result.difference.data.shape).astype(np.float32), 7)


def _error(result: PromptResult, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a flux at these places is uncertain by, by the difference's own variance."""
    difference = result.difference
    return lone_fluxes(difference.data, difference.variance, None, difference.psf, x, y).flux_err


def _false(visit: SimulatedVisit, result: PromptResult) -> int:
    told = result.dia_sources[result.told]
    strong = visit.truth[np.abs(np.asarray(visit.truth["snr"], float)) >= REAL_SNR]
    if not len(told) or not len(strong):
        return len(told)
    distance, _ = cKDTree(np.c_[strong["x"], strong["y"]]).query(np.c_[told["x"], told["y"]])
    return int((distance >= MATCH_PX).sum())


def _pulls(difference: object, truth: Mapping[str, NDArray], places: int, seed: int) -> NDArray[np.float64]:
    """Flux over error at places where nothing changes, and no star stands that a residual could come from."""
    shape = difference.data.shape
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, shape[1] - 20, places), rng.uniform(20, shape[0] - 20, places)
    distance, _ = cKDTree(np.c_[truth["x"], truth["y"]]).query(np.c_[x, y])
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    noise = np.sqrt(difference.variance[row, column])
    quiet = (
        (distance > 25)
        & (ndimage.maximum_filter(difference.matched_template, 5)[row, column] < 5 * noise)
        & (_flagged(difference)[row, column] == 0)
    )
    found = lone_fluxes(difference.data, difference.variance, difference.mask, difference.psf, x[quiet], y[quiet])
    return (found.flux / found.flux_err)[found.good]


def _flagged(difference: object) -> NDArray[np.float32]:
    spoilt = any_set(difference.mask, UNUSABLE | Mask.SUSPECT, difference.data.shape)
    return ndimage.maximum_filter(spoilt.astype(np.uint8), 9)


def _associations(
    visit: SimulatedVisit, result: PromptResult, rows: NDArray[np.int64], mine: NDArray[np.int64]
) -> tuple[int, int]:
    """How many of these sources must be of a certain object (one known before, or else their own), and how many are."""
    sources = result.dia_sources
    sure = result.told[mine] if len(mine) else np.zeros(0, bool)
    known = np.asarray(visit.truth["known"], np.int64)[rows]
    expected = np.where(known != 0, known, np.asarray(sources["diaSourceId"], np.int64)[mine])
    right = np.asarray(sources["diaObjectId"], np.int64)[mine] == expected
    return int(sure.sum()), int((sure & right).sum())

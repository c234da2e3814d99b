"""Science against truth: two seeds of the preset `truth` through the engine, scored together.

The difficulty is the preset's: 120 transients of S/N 5-100 in all, half of them on galaxies; seeing scatter 25 %; 360 stars a
detector; four amplifiers with crosstalk of 1e-3.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DAGS = Path(__file__).parents[2] / "dags"
SEEDS = (1, 2)


def score(home, seed):
    """One seed from raw frames to its numbers; runs in a process of its own (below)."""
    from deploy.demo.local import run_locally
    from deploy.demo.prepare import prepare, simulated
    from deploy.home import create_home
    from payloads.report.summary import summarise

    frames = simulated(home / "survey", "truth", seed, lambda _: None, jobs=1)
    create_home(home, slots=1, stay_s=2)
    case = prepare(home, frames, lambda _: None)
    case = replace(case, calibration_days=case.calibration_days[:1])  # valid from then on
    run_locally(home, DAGS, [run for run in case.runs() if run.stage != "release"])
    return summarise(home, case.instrument, frames.truth)


@pytest.fixture(scope="module")
def surveys(tmp_path_factory):
    homes = {seed: tmp_path_factory.mktemp(f"seed{seed}") for seed in SEEDS}

    def run(seed):
        command = [sys.executable, __file__, str(homes[seed]), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(2) as pool:
        return homes, dict(zip(SEEDS, pool.map(run, SEEDS), strict=True))


@pytest.fixture(scope="module")
def scores(surveys):
    return list(surveys[1].values())


def pooled(scores, key, weight):
    """A fraction over all seeds: each seed's, weighted by what it was a fraction of."""
    weights = np.array([s["truth"][weight] for s in scores])
    return float(np.average([s[key] for s in scores], weights=weights)), int(weights.sum())


def test_difficulty_is_what_is_written_down(surveys):
    homes, _ = surveys
    truth = [home / "survey" / "truth" for home in homes.values()]
    transients = pd.concat([pd.read_parquet(t / "transients.parquet") for t in truth])
    exposures = pd.concat([pd.read_parquet(t / "exposures.parquet") for t in truth])
    science = exposures[exposures["kind"] == "science"]
    stars = [len(pd.read_parquet(t / "stars.parquet")) for t in truth]
    assert len(transients) >= 100
    assert 0.45 <= (transients["host"].fillna(-1) >= 0).mean() <= 0.55
    assert np.std(np.log(science["seeing_fwhm_px"])) >= 0.17  # of 20 % and more asked for, in a small sample
    assert min(stars) >= 2 * 200


def test_masters_are_as_quiet_as_their_estimator_allows(scores):
    for s in scores:
        assert s["bias_noise_ratio"] <= 1.05
        assert s["dark_noise_ratio"] <= 1.05


def test_flats_are_true_to_half_a_percent(scores):
    assert max(s["flat_rms"] for s in scores) <= 0.005


def test_astrometry_is_within_a_tenth_of_a_pixel(scores):
    assert max(s["astrometry_rms_pix"] for s in scores) < 0.1


def test_nine_of_ten_bright_transients_are_alerted(scores):
    share, epochs = pooled(scores, "transient_completeness_snr10", "transient_epochs_snr10")
    assert epochs >= 100
    assert share >= 0.90


def test_four_of_five_alerts_are_true(scores):
    share, alerts = pooled(scores, "alert_unmatched_fraction", "alerts")
    assert alerts >= 100
    assert share <= 0.20


def test_nine_of_ten_asteroids_have_a_tracklet(scores):
    share, asteroids = pooled(scores, "asteroid_tracklet_fraction", "asteroids_linkable")
    assert asteroids >= 10
    assert share >= 0.90


if __name__ == "__main__":
    print(json.dumps(score(Path(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201

"""The judge of sources: trees as numbers, evaluated as scikit-learn does, and refused where they are not of this version."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest

from payloads.prompt.training import labels, train
from payloads.real_bogus import FEATURES, MODEL, ModelError, Trees, model, probability


def made(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of which two decide, and the labels that they make."""
    values = np.random.default_rng(seed).normal(size=(n, len(FEATURES)))
    return values, (values[:, 2] + 0.5 * values[:, 4] < 0).astype(int)


@pytest.fixture(scope="module")
def trained() -> dict:
    values, label = made()
    return train(values, label, np.arange(len(label)) % 8, false_rate=0.1, trees=20)


def test_trees_of_numbers_judge_as_scikit_learn_does(trained):
    from sklearn.ensemble import GradientBoostingClassifier

    values, label = made()
    theirs = GradientBoostingClassifier(
        n_estimators=20, max_depth=3, learning_rate=0.1, subsample=0.7, min_samples_leaf=8, random_state=1
    ).fit(values, label)
    fresh, _ = made(seed=5)
    ours = Trees.from_dict(json.loads(json.dumps(trained))).score(fresh)
    shift = ours - theirs.decision_function(fresh)
    # They differ by the cut alone, which is the score that the training set at one half.
    assert shift == pytest.approx(np.full(len(shift), shift[0]), abs=1e-4)


def test_training_tells_what_it_was_made_to_tell(trained):
    fresh, truth = made(seed=9)
    kept = Trees.from_dict(trained).score(fresh) > 0
    assert kept[truth == 1].mean() > 0.8
    assert kept[truth == 0].mean() < 0.2
    assert trained["trained"]["unseen_bogus_kept"] == pytest.approx(0.1, abs=0.02)


def test_a_model_over_fewer_features_finds_them_among_those_of_today(trained):
    fresh, _ = made(seed=9)
    fewer = Trees.from_dict(trained | {"features": list(FEATURES[::-1])})
    assert fewer.score(fresh[:, ::-1]) == pytest.approx(Trees.from_dict(trained).score(fresh))


def test_a_model_over_other_features_is_refused(trained):
    with pytest.raises(ModelError, match="train it again"):
        Trees.from_dict(trained | {"features": ["colour"]})


def test_the_model_that_is_shipped_says_what_it_was_trained_on():
    content = json.loads(resources.files("payloads").joinpath(MODEL).read_text())
    assert content["trained"]["scenes"] >= 20
    assert content["trained"]["unseen_real_kept"] > 0.93  # sources from 4.5 sigma on are among them
    assert content["trained"]["unseen_bogus_kept"] < 0.05
    assert model().names == FEATURES


def test_a_source_beside_a_change_too_faint_is_no_example():
    from astropy.table import Table

    truth = Table({"x": [10.0, 50.0, 90.0], "y": [10.0, 10.0, 10.0], "snr": [20.0, 2.0, 0.5]})
    sources = Table({"x": [10.5, 50.0, 90.0, 130.0], "y": [10.0, 10.5, 10.0, 10.0]})
    assert labels(sources, truth).tolist() == [1, -1, 0, 0]


def test_no_source_no_probability():
    assert probability({"flags": np.zeros(0, int)}).shape == (0,)

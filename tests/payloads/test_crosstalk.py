"""Crosstalk of made frames: what the coefficients are of, and whether they are as good as they say."""

from __future__ import annotations

import numpy as np

from payloads.camera import Amplifier, Detector
from payloads.crosstalk import CrosstalkFit, CrosstalkMatrix

SIDE, COUNT = 96, 4
SPOT, CELL = 5, 16
LIGHT = 30_000.0


def detector() -> Detector:
    places = [f"[{1 + k * SIDE}:{(k + 1) * SIDE},1:{SIDE}]" for k in range(COUNT)]
    facts = {"gain": 1.0, "read_noise": 5.0, "saturation": 60_000.0}
    return Detector(id=0, name="D", amplifiers=tuple(Amplifier(name=p, data=p, place=p, **facts) for p in places))


def spots(turn: int) -> np.ndarray:
    """Amplifiers (COUNT, SIDE, SIDE), each lit where no other is."""
    parts = np.zeros((COUNT, SIDE, SIDE))
    for cell in range((SIDE // CELL) ** 2):
        row, column = (CELL * n + (CELL - SPOT) // 2 for n in divmod(cell, SIDE // CELL))
        parts[(cell + turn) % COUNT, row : row + SPOT, column : column + SPOT] = LIGHT
    return parts


def measure(matrix: np.ndarray, rng: np.random.Generator, *, frames: int, bias_noise: float) -> CrosstalkMatrix:
    """From frames that one master bias was taken off."""
    fit = CrosstalkFit(detector())
    bias = bias_noise * rng.normal(size=(COUNT, SIDE, SIDE))
    for turn in range(frames):
        light = spots(turn)
        seen = light + np.tensordot(matrix, light, axes=1) + bias + rng.normal(0, 5.0, light.shape)
        fit.add(np.concatenate(list(seen), axis=1).astype(np.float32))
    return fit.solve()


def random_matrix(rng: np.random.Generator, largest: float) -> np.ndarray:
    matrix = rng.uniform(0, largest, (COUNT, COUNT))
    np.fill_diagonal(matrix, 0)
    return matrix


def test_coefficients_are_of_true_light_though_ghosts_are_taken_for_light_too() -> None:
    rng = np.random.default_rng(3)
    matrix = random_matrix(rng, 0.05)
    found = measure(matrix, rng, frames=8, bias_noise=0.0)
    np.testing.assert_allclose(found.coefficients, matrix, atol=2e-5)


def test_errors_are_those_that_coefficients_have_where_frames_share_a_bias() -> None:
    pulls = []
    for seed in range(6):
        rng = np.random.default_rng([7, seed])
        matrix = random_matrix(rng, 2e-3)
        found = measure(matrix, rng, frames=12, bias_noise=4.0)
        pulls.append(((found.coefficients - matrix) / np.where(found.errors > 0, found.errors, 1))[found.errors > 0])
    pull = np.concatenate(pulls)
    assert len(pull) == 6 * COUNT * (COUNT - 1)
    assert 0.8 < np.sqrt(np.mean(pull**2)) < 1.2

"""One independent random stream per thing, so that any raw frame can be made again alone and in any order."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream is for; the number is the first spawn key, so never renumber."""

    STARS = 1
    GALAXIES = 2
    TRANSIENTS = 3
    ASTEROIDS = 4
    REFERENCE = 5
    OPTICS = 6
    DETECTOR = 7
    EXPOSURE = 8
    PIXELS = 9
    TELEMETRY = 10
    CAMERA = 11
    AUXTEL = 12


def stream(seed: int, what: Stream, *key: int) -> np.random.Generator:
    """The generator of one thing: a function of the survey's seed, the kind of thing and its numbers alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(what), *key))))

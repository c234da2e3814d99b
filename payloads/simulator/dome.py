"""Light that is made in the dome: a lamp and its monitor, monochromatic light, and spots on the detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Detector, parse_section
from payloads.simulator.config import SurveyConfig
from payloads.simulator.detector import DetectorTruth
from payloads.simulator.exposures import Planned
from payloads.simulator.streams import Stream, stream

Image = NDArray[np.float32]
_MIDDLE_NM, _REACH_NM = 700.0, 300.0
_LINE_NM = 900.0  # of the sky's line, whose fringes science frames have
_ORDER = 100.0  # whole waves of the line in the detector's mean thickness: the fringes of wavelengths 9 nm apart agree again
SPOT_RADIUS_PX, SPOT_CELL_PX, SPOT_FULL_WELL = 5.0, 16, 0.85


def lamp(survey: SurveyConfig, exposure: Planned) -> tuple[float, float]:
    """What the lamp really gave, over what was asked for, and what its monitor says of that (1: what was asked for)."""
    rng = stream(survey.seed, Stream.EXPOSURE, exposure.day_obs, exposure.seq_num, 3)
    true = 1 + 0.01 * float(np.clip(rng.normal(), -3, 3))
    return true, true * (1 + survey.calibrations.monitor_error * float(np.clip(rng.normal(), -3, 3)))


def response(survey: SurveyConfig, truth: DetectorTruth, nm: float, rng_seed: int) -> Image:
    """Flat of a light of one wavelength without filter (median 1): the pixels' differences shrink to the red, a second pattern
    grows to the blue (thinning of the surface), and from 750 nm on there are fringes."""
    base = truth.flat[next(iter(survey.filters))]
    rng = stream(survey.seed, Stream.DETECTOR, rng_seed, 2)
    blue = rng.standard_normal(base.shape, dtype=np.float32)
    x = np.float32((nm - _MIDDLE_NM) / _REACH_NM)
    flat = base * (1 + np.float32(survey.camera.prnu) * max(-x, np.float32(0)) * blue)
    if truth.fringe_waves is not None and survey.camera.mono_fringe:
        amplitude = survey.camera.mono_fringe * float(np.clip((nm - 750) / 200, 0, 1))
        waves = (_ORDER + truth.fringe_waves) * np.float32(_LINE_NM / nm)
        flat = flat * (1 + np.float32(amplitude) * np.cos(2 * np.pi * waves))
    for screen in list(truth.dome.values())[:1]:
        flat = flat * screen
    return np.asarray(flat / np.median(flat), dtype=np.float32)


def spots(exposure: Planned, detector: Detector, full_well_electron: float) -> Image:
    """Electrons (ny, nx): discs in cells of the amplifiers; an amplifier has those cells that no other has, by turns."""
    image = np.zeros(detector.shape, dtype=np.float32)
    count = len(detector.amplifiers)
    y, x = np.mgrid[0:SPOT_CELL_PX, 0:SPOT_CELL_PX] - (SPOT_CELL_PX - 1) / 2
    disc = np.where(np.hypot(x, y) <= SPOT_RADIUS_PX, np.float32(SPOT_FULL_WELL * full_well_electron), np.float32(0))
    for number, amplifier in enumerate(detector.amplifiers):
        part = image[parse_section(amplifier.place)]
        rows, columns = (n // SPOT_CELL_PX for n in part.shape)
        for cell in range(rows * columns):
            if (cell + exposure.seq_num) % max(count, 2) == number:
                row, column = (SPOT_CELL_PX * k for k in divmod(cell, columns))
                part[row : row + SPOT_CELL_PX, column : column + SPOT_CELL_PX] = disc
    return image

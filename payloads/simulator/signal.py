"""From expected electrons to the integers of a raw frame, in the order in which a camera does it.

Photons arrive (Poisson), cosmic rays strike, pixels fill up and bleed along columns, amplifiers turn electrons into ADU (fewer
for each, the fuller, where they are not linear) and hear each other (crosstalk); bias, read noise and rounding come last.
So instrument signature removal can undo it backwards with camera.yaml alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Detector, parse_section
from payloads.simulator.config import CameraConfig

Image = NDArray[np.float32]
ADC_MAX = 65_535


def cosmic_rays(shape: tuple[int, int], mean: float, rng: np.random.Generator) -> Image:
    """Electrons (ny, nx) left by about `mean` cosmic rays as straight tracks."""
    image = np.zeros(shape, dtype=np.float32)
    n = int(rng.poisson(mean))
    ny, nx = shape
    length = np.minimum(1 + rng.exponential(5.0, n), 60.0)
    x, y, angle = rng.uniform(0, nx, n), rng.uniform(0, ny, n), rng.uniform(0, 2 * np.pi, n)
    per_px = 300 + rng.exponential(700.0, n)
    steps = np.ceil(length * 4).astype(np.int64)
    which = np.repeat(np.arange(n), steps)
    order = np.arange(len(which)) - np.repeat(np.cumsum(steps) - steps, steps)
    along = order * (length / steps)[which]
    column = np.floor(x[which] + along * np.cos(angle)[which]).astype(np.int64)
    row = np.floor(y[which] + along * np.sin(angle)[which]).astype(np.int64)
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    np.add.at(image, (row[inside], column[inside]), (per_px * length / steps)[which][inside].astype(np.float32))
    return image


def collect(expected: Image, rays: Image | None, rng: np.random.Generator) -> Image:
    """Electrons that a detector holds: Poisson of the expectation (ny, nx), plus cosmic rays."""
    electrons = rng.poisson(np.maximum(expected, 0)).astype(np.float32)
    if rays is not None:
        electrons += rays
    return electrons


def bleed(signal: Image, full: float) -> Image:
    """What pixels (ny, nx) cannot hold above `full` runs half up, half down along their column, to where there is room.

    Charge is conserved but for what leaves the amplifier's ends. Two saturated stars in a column fill one after the other.
    """
    columns = np.flatnonzero((signal > full).any(axis=0))
    signal = signal.copy() if len(columns) else signal
    for column in columns:
        line = signal[:, column].astype(np.float64)
        over = np.flatnonzero(line > full)
        for run in np.split(over, np.flatnonzero(np.diff(over) > 1) + 1):
            excess = float((line[run] - full).sum())
            line[run] = full
            for away in (line[run[-1] + 1 :], line[: run[0]][::-1]):
                room = np.maximum(full - away, 0)
                away += np.clip(excess / 2 - (np.cumsum(room) - room), 0, room)
        signal[:, column] = line
    return signal


def read_out(
    electrons: Image, bias_adu: Image, detector: Detector, config: CameraConfig, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """The raw frame, overscan included, of electrons (ny, nx) on the trimmed detector."""
    amplifiers = detector.amplifiers
    full = np.float32(config.full_well_adu)
    segments = [electrons[parse_section(a.place)] / np.float32(a.gain) for a in amplifiers]
    signal = np.stack([np.minimum(bleed(s, config.full_well_adu) if config.bleed else s, full) for s in segments])
    for plane, amplifier in zip(signal, amplifiers, strict=True):
        if amplifier.linearity is not None:
            read, correction = np.array(amplifier.linearity).T
            plane[:] = np.interp(plane, read * (1 + correction), read)
    if detector.crosstalk is not None:
        matrix = np.array(detector.crosstalk, dtype=np.float32)
        signal = signal + (matrix @ signal.reshape(len(amplifiers), -1)).reshape(signal.shape)
    sections = [parse_section(s) for a in amplifiers for s in (a.data, a.overscan) if s]
    raw = np.zeros((max(r.stop for r, _ in sections), max(c.stop for _, c in sections)), dtype=np.uint16)
    for k, amplifier in enumerate(amplifiers):
        level = (
            config.bias_adu * (1 + 0.02 * ((7 * k) % len(amplifiers)) / len(amplifiers)) + config.bias_drift_adu * rng.normal()
        )
        rows, columns = parse_section(amplifier.data)
        # An amplifier's level wanders slowly from row to row; its overscan wanders along.
        walk = np.cumsum(rng.normal(size=rows.stop - rows.start))
        wander = (0.02 * config.bias_drift_adu * (walk - walk.mean())).astype(np.float32)[:, None] + np.float32(level)
        noise = np.float32(amplifier.read_noise / amplifier.gain)
        value = signal[k] + bias_adu[parse_section(amplifier.place)] + wander
        raw[rows, columns] = _digitise(value + noise * rng.standard_normal(value.shape, dtype=np.float32))
        if amplifier.overscan:
            over_rows, over_columns = parse_section(amplifier.overscan)
            shape = (over_rows.stop - over_rows.start, over_columns.stop - over_columns.start)
            raw[over_rows, over_columns] = _digitise(wander + noise * rng.standard_normal(shape, dtype=np.float32))
    return raw


def _digitise(adu: Image) -> NDArray[np.uint16]:
    return np.asarray(np.clip(np.rint(adu), 0, ADC_MAX), dtype=np.uint16)

"""What is true of one detector: bias structure, dark current, response, defects; by the survey's seed and its number."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Camera, Detector, parse_section
from payloads.simulator.config import SurveyConfig
from payloads.simulator.streams import Stream, stream
from payloads.simulator.wcs import focal_position

Image = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DetectorTruth:
    """Maps (ny, nx) on the trimmed detector: `bias_adu` (structure without the amplifiers' level), `dark_electron_s`, `dead`,
    `hot`, `flat` by filter (median 1); and `throughput` by filter: the light that this median hides, relative to the boresight.
    `fringes`, between -1 and 1, are those of the sky's line, None where no filter has any; `fringe_waves`, that they are the
    cosine of, is how much the detector's thickness varies, in waves of that line. `dome` by filter is the light of the dome's
    screen over that of an even sky (median 1), where they differ.
    """

    bias_adu: Image
    dark_electron_s: Image
    flat: dict[str, Image]
    throughput: dict[str, float]
    dead: NDArray[np.bool_]
    hot: NDArray[np.bool_]
    fringes: Image | None
    fringe_waves: Image | None = None
    dome: dict[str, Image] = field(default_factory=dict)


def focal_radius(camera: Camera) -> float:
    """Distance in arcsec from the boresight to the farthest corner of any detector."""
    reach = []
    for detector in camera.detectors:
        ny, nx = detector.shape
        dx, dy = (abs(o) + n / 2 * camera.pixel_scale_arcsec for o, n in zip(detector.offset_arcsec, (nx, ny), strict=True))
        reach.append(np.hypot(dx, dy))
    return float(max(reach))


def focal_grid(camera: Camera, detector: Detector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Focal-plane u (nx,) and v (ny,) of the detector's columns and rows."""
    ny, nx = detector.shape
    n = max(ny, nx)
    along = np.arange(n, dtype=np.float64)
    u, v = focal_position(detector, camera.pixel_scale_arcsec, focal_radius(camera), along, along)
    return u[:nx], v[:ny]


def _bias(survey: SurveyConfig, detector: Detector, rng: np.random.Generator) -> Image:
    """A column pattern that each amplifier has of its own, a slow ramp along rows and a faint fixed grain."""
    c = survey.camera
    image = np.zeros(detector.shape, dtype=np.float32)
    for amplifier in detector.amplifiers:
        rows, columns = parse_section(amplifier.place)
        ny, nx = rows.stop - rows.start, columns.stop - columns.start
        pattern = c.bias_structure_adu * (0.7 * rng.normal(size=nx) + np.sin(np.arange(nx) / rng.uniform(8, 25)))
        ramp = c.bias_structure_adu * 2 * rng.normal() * np.exp(-np.arange(ny) / (0.1 * ny))
        image[rows, columns] = (pattern[None, :] + ramp[:, None]).astype(np.float32)
    return image + 0.3 * c.bias_structure_adu * rng.standard_normal(detector.shape, dtype=np.float32)


def _dark(survey: SurveyConfig, hot: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    ny, nx = hot.shape
    base = survey.camera.dark_electron_s * (1 + 0.1 * rng.standard_normal(hot.shape, dtype=np.float32))
    y, x = np.ogrid[0:ny, 0:nx]
    glow = (
        4 * survey.camera.dark_electron_s * np.exp(-np.hypot(x / (0.08 * nx), y / (0.08 * ny)))
    )  # an amplifier's, in one corner
    dark = np.maximum(base, 0) + glow.astype(np.float32)
    dark[hot] += 2.0 + rng.exponential(15.0, int(hot.sum())).astype(np.float32)
    return np.asarray(dark, dtype=np.float32)


def _dust(shape: tuple[int, int], rng: np.random.Generator) -> Image:
    """Out-of-focus specks: shallow rings, about two per quarter megapixel."""
    ny, nx = shape
    shade = np.ones(shape, dtype=np.float32)
    for _ in range(int(rng.poisson(2 + ny * nx / 250_000))):
        cy, cx, outer = rng.uniform(0, ny), rng.uniform(0, nx), rng.uniform(8, 22)
        depth = rng.uniform(0.005, 0.03)
        rows, columns = (slice(max(int(c - outer) - 1, 0), int(c + outer) + 2) for c in (cy, cx))
        y, x = np.mgrid[rows, columns][:, : ny - rows.start, : nx - columns.start]
        r = np.hypot(y - cy, x - cx)
        ring = ((r < outer) & (r > 0.45 * outer)).astype(np.float32)
        shade[y.min() : y.max() + 1, x.min() : x.max() + 1] *= 1 - np.float32(depth) * ring
    return shade


def _flats(
    survey: SurveyConfig, camera: Camera, detector: Detector, dead: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[dict[str, Image], dict[str, float]]:
    u, v = (a.astype(np.float32) for a in focal_grid(camera, detector))
    radius2 = u[None, :] ** 2 + v[:, None] ** 2
    grain = 1 + survey.camera.prnu * rng.standard_normal(detector.shape, dtype=np.float32)
    left = rng.uniform(0.0, 0.3, int(dead.sum())).astype(np.float32)
    efficiency = 1 + 0.02 * float(np.clip(rng.normal(), -2, 2))
    flats, throughput = {}, {}
    for name in survey.filters:
        tilt = 0.01 * rng.normal(size=2)
        light = (1 - survey.camera.vignetting * radius2**1.5) * (
            1 + np.float32(tilt[0]) * u[None, :] + np.float32(tilt[1]) * v[:, None]
        )
        flat = light * grain * _dust(detector.shape, rng)
        flat[dead] *= left
        median = float(np.median(flat))
        flats[name], throughput[name] = (flat / median).astype(np.float32), median * efficiency
    return flats, throughput


def _fringe_waves(shape: tuple[int, int], rng: np.random.Generator) -> Image:
    """Thickness of a detector, in waves of the sky's line; it varies smoothly, by one wave in some 60 px."""
    ny, nx = shape
    x, y = np.arange(nx, dtype=np.float32)[None, :] / nx - 0.5, np.arange(ny, dtype=np.float32)[:, None] / ny - 0.5
    waves = max(shape) / 60
    a, b, c, d, e = (float(k) for k in waves * rng.normal(0, [0.5, 0.5, 1.0, 1.0, 1.0]))
    return np.asarray(a * x + b * y + c * x * x + d * x * y + e * y * y, dtype=np.float32)


def dome_light(survey: SurveyConfig, camera: Camera, detector: Detector) -> dict[str, Image]:
    """By filter, what the dome's screen adds to an even light: a slope whose direction the filter turns, and a bowl; median 1."""
    if not survey.calibrations.dome_gradient:
        return {}
    u, v = (a.astype(np.float32) for a in focal_grid(camera, detector))
    screens = {}
    for number, name in enumerate(survey.filters):
        angle = np.float32(0.7 + 1.3 * number)
        slope = np.cos(angle) * u[None, :] + np.sin(angle) * v[:, None]
        bowl = u[None, :] ** 2 + v[:, None] ** 2
        screen = 1 + np.float32(survey.calibrations.dome_gradient) * (slope - 0.5 * bowl)
        screens[name] = np.asarray(screen / np.median(screen), dtype=np.float32)
    return screens


def detector_truth(survey: SurveyConfig, camera: Camera, detector: Detector) -> DetectorTruth:
    """The truth of one detector."""
    rng = stream(survey.seed, Stream.DETECTOR, detector.id)
    ny, nx = detector.shape
    dead = rng.random(detector.shape, dtype=np.float32) < survey.camera.bad_pixel_fraction
    for _ in range(survey.camera.bad_columns):
        column, start = int(rng.integers(nx)), int(rng.integers(ny // 2))
        dead[start : start + ny // 2, column] = True
    hot = (rng.random(detector.shape, dtype=np.float32) < survey.camera.hot_pixel_fraction) & ~dead
    flats, throughput = _flats(survey, camera, detector, dead, rng)
    fringed = any(f.fringe for f in survey.filters.values()) or survey.camera.mono_fringe > 0
    waves = _fringe_waves((ny, nx), stream(survey.seed, Stream.DETECTOR, detector.id, 1)) if fringed else None
    return DetectorTruth(
        bias_adu=_bias(survey, detector, rng),
        dark_electron_s=_dark(survey, hot, rng),
        flat=flats,
        throughput=throughput,
        dead=dead,
        hot=hot,
        fringes=None if waves is None else np.asarray(np.cos(2 * np.pi * waves), dtype=np.float32),
        fringe_waves=waves,
        dome=dome_light(survey, camera, detector),
    )

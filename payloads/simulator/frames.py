"""One raw frame, made alone or among others: the same bytes either way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from payloads.camera import Detector
from payloads.simulator import dome
from payloads.simulator.config import SurveyConfig
from payloads.simulator.detector import DetectorTruth, Image, detector_truth
from payloads.simulator.exposures import Planned, conditions, monochromatic_throughput
from payloads.simulator.headers import raw_header, raw_name
from payloads.simulator.scene import Frame, Scene, make_scene
from payloads.simulator.signal import collect, cosmic_rays, read_out
from payloads.simulator.streams import Stream, stream
from payloads.simulator.world import World

_EMPTY: dict[str, dict[str, NDArray[np.float64]]] = {}


def expected_light(world: World, exposure: Planned, detector: Detector, truth: DetectorTruth, rng: np.random.Generator) -> Scene:
    """Expected electrons of any kind of exposure, and truth rows for those of the sky."""
    survey = world.survey
    if exposure.kind == "science":
        return make_scene(Frame(world, exposure, conditions(survey, exposure), detector, truth))
    if exposure.kind == "bias":
        return Scene(expected=np.zeros(detector.shape, dtype=np.float32), rows=_EMPTY)
    dark = truth.dark_electron_s * np.float32(exposure.exposure_s)
    return Scene(expected=dark + _dome_light(survey, exposure, detector, truth, rng), rows=_EMPTY)


def _dome_light(
    survey: SurveyConfig, exposure: Planned, detector: Detector, truth: DetectorTruth, rng: np.random.Generator
) -> Image | np.float32:
    name = str(exposure.filter)
    if exposure.kind == "flat":
        # The lamp is not quite the same twice.
        light = survey.calibrations.flat_electron * truth.throughput[name] * (1 + 0.01 * float(np.clip(rng.normal(), -3, 3)))
        flat = truth.flat[name] * np.float32(light)
        return np.asarray(flat * truth.dome[name]) if truth.dome else flat
    if exposure.kind == "spots":
        return dome.spots(exposure, detector, survey.camera.full_well_adu * survey.camera.gain)
    if exposure.kind == "dark" or exposure.light is None:
        return np.float32(0)
    light = exposure.light * dome.lamp(survey, exposure)[0]
    if exposure.wavelength_nm is None:
        return truth.flat[name] * np.float32(light)
    flat = dome.response(survey, truth, exposure.wavelength_nm, detector.id)
    return flat * np.float32(light * monochromatic_throughput(exposure.wavelength_nm))


def make_raw(
    world: World, exposure: Planned, detector: Detector, truth: DetectorTruth | None = None
) -> tuple[NDArray[np.uint16], Scene]:
    """The raw frame (overscan included) and what was behind it. `truth` saves time where many frames of one detector are made."""
    if truth is None:
        truth = detector_truth(world.survey, world.camera, detector)
    rng = stream(world.survey.seed, Stream.PIXELS, exposure.day_obs, exposure.seq_num, detector.id)
    scene = expected_light(world, exposure, detector, truth, rng)
    ny, nx = detector.shape
    seconds = 0.0 if exposure.kind == "bias" else exposure.exposure_s
    rays: Image | None = None
    if seconds:
        rays = cosmic_rays((ny, nx), world.survey.cosmic_rays_per_s_megapixel * seconds * ny * nx / 1e6, rng)
    electrons = collect(scene.expected, rays, rng)
    return read_out(electrons, truth.bias_adu, detector, world.survey.camera, rng), replace(scene, cosmic_rays=rays)


def write_raw(world: World, exposure: Planned, detector: Detector, raw: NDArray[np.uint16], out: Path) -> Path:
    """Write a raw frame below `out` and return its path; an existing file is replaced."""
    path = out / raw_name(world.survey, exposure, detector)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = raw_header(world.survey, exposure, detector)
    if world.survey.camera.compression == "rice":
        hdus = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(raw, header, compression_type="RICE_1")])
    else:
        hdus = fits.HDUList([fits.PrimaryHDU(raw, header)])
    hdus.writeto(path, overwrite=True, checksum=False)
    return path

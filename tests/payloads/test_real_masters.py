"""Masters of two real cameras, and what they leave of the sky; the numbers are printed (`pytest -s`)."""

# ruff: noqa: T201 - the numbers are half of what this is run for
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData

from payloads.camera import Camera, Detector
from payloads.formatters import plain_header
from payloads.headers import Observation, observe
from payloads.isr import Plane, prepare, remove_signature
from payloads.light import sky_pixels, smooth_surface
from payloads.mask import Mask, any_set
from payloads.tasks.calibration import CombineBiasTask, CombineDarkTask, CombineFlatTask
from payloads.tasks.planes import plane_of

BLOCK_PX = 32


@dataclass(frozen=True)
class DataId:
    """What a task asks of an expanded data ID."""

    observation: Observation

    def __getitem__(self, name: str) -> Any:
        return {"exposure": self.observation.exposure, "detector": self.observation.detector}[name]

    def hasRecords(self) -> bool:
        return True

    @property
    def records(self) -> dict[str, Any]:
        o = self.observation
        span = SimpleNamespace(begin=o.datetime_begin, end=o.datetime_end)
        exposure = SimpleNamespace(
            exposure_time=o.exposure_time_s,
            dark_time=o.dark_time_s,
            timespan=span,
            physical_filter=o.physical_filter,
            tracking_ra=None,
            tracking_dec=None,
            sky_angle=None,
        )
        return {"exposure": exposure, "physical_filter": SimpleNamespace(band=o.band)}


@dataclass(frozen=True)
class Handle:
    """A deferred raw frame of a file."""

    path: Path
    dataId: DataId  # noqa: N815 - the Butler's name

    def get(self) -> CCDData:
        with fits.open(self.path) as hdus:
            return CCDData(np.asarray(hdus[0].data), unit=u.adu, meta=plain_header(hdus[0].header))


def frames(folder: Path, camera: Camera) -> Iterator[Handle]:
    if not folder.is_dir():
        pytest.skip(f"no frames at {folder}")
    for path in sorted(folder.rglob("*.f*t*")):
        with fits.open(path) as hdus:
            yield Handle(path, DataId(observe(plain_header(hdus[0].header), path.name, camera)))


def of_kind(handles: list[Handle], kind: str, physical_filter: str | None = None) -> list[Handle]:
    seen = [(h, h.dataId.observation) for h in handles]
    return [h for h, o in seen if o.observation_type == kind and physical_filter in (None, o.physical_filter)]


@dataclass(frozen=True)
class Flatness:
    """Of the sky of a frame, sources left out, about a smooth sky of second order, as fractions of it: rms of pixels and of the
    means of blocks, each beside what photon and read noise make of it."""

    pixel: float
    pixel_expected: float
    block: float
    block_expected: float


def flatness(plane: Plane) -> Flatness:
    good = sky_pixels(plane.data, plane.mask)
    sky = smooth_surface(plane.data, good, order=2)
    relative, noise = plane.data / sky - 1, plane.variance / sky**2
    means, variances = [], []
    ny, nx = plane.data.shape
    for y in range(0, ny - BLOCK_PX + 1, BLOCK_PX):
        for x in range(0, nx - BLOCK_PX + 1, BLOCK_PX):
            block = slice(y, y + BLOCK_PX), slice(x, x + BLOCK_PX)
            kept = good[block]
            if kept.mean() > 0.5:
                means.append(relative[block][kept].mean())
                variances.append(noise[block][kept].sum() / kept.sum() ** 2)
    pixel, expected = np.std(relative[good]), np.sqrt(np.mean(noise[good]))
    return Flatness(float(pixel), float(expected), float(np.std(means)), float(np.sqrt(np.mean(variances))))


def reduced(handle: Handle, detector: Detector, masters: dict[str, CCDData]) -> Plane:
    planes = {name: plane_of(masters.get(name)) for name in ("bias", "dark", "flat")}
    seconds = handle.dataId.observation.dark_time_s
    return remove_signature(prepare(handle.get().data, detector), detector, dark_time_s=seconds, **planes)[0]


def test_lowell_sky_is_flat_to_a_fifth_above_photon_noise_and_its_corners_are_suspect(shared_data: Path) -> None:
    camera = Camera.load("lowell42")
    detector, handles = camera.detectors[0], list(frames(shared_data / "raw_lowell42", camera))
    bias = CombineBiasTask().run(raws=of_kind(handles, "bias"), detector=detector).bias
    flat = CombineFlatTask().run(raws=of_kind(handles, "flat", "VR"), detector=detector, bias=bias).flat
    suspect = any_set(flat.mask, Mask.SUSPECT, flat.data.shape)
    corners = [np.s_[5:20, 5:20], np.s_[5:20, -20:-5], np.s_[-20:-5, 5:20], np.s_[-20:-5, -20:-5]]
    levels = [float(np.median(flat.data[corner])) for corner in corners]
    print("lowell42: corners of the flat", levels)
    # The vignetting is off the middle: some corners have a third of the light, others less than a fifth.
    deep = [corner for corner, level in zip(corners, levels, strict=True) if level < 0.25]
    assert len(deep) >= 2
    assert all(suspect[corner].all() for corner in deep)
    assert suspect.mean() < 0.05
    assert flat.data[~suspect & (flat.mask == 0)].min() > 0.25
    found = flatness(reduced(of_kind(handles, "science")[0], detector, {"bias": bias, "flat": flat}))
    print("lowell42:", found)
    assert found.pixel < 1.3 * found.pixel_expected
    assert found.block < 0.004


def test_orions_hot_pixels_are_those_of_its_other_darks_and_its_sky_is_flat(shared_data: Path) -> None:
    camera = Camera.load("orion")
    detector, handles = camera.detectors[0], list(frames(shared_data / "raw_m13_orion", camera))
    bias = CombineBiasTask().run(raws=of_kind(handles, "bias"), detector=detector).bias
    darks = of_kind(handles, "dark")
    halves = [CombineDarkTask().run(raws=darks[k::2], detector=detector, bias=bias).dark for k in (0, 1)]
    hot = [any_set(half.mask, Mask.HOT, half.data.shape) for half in halves]
    # The set is known for 25: the brightest of one half of the darks, that the other half did not know of.
    brightest = np.argsort(np.where(hot[0], halves[0].data, -np.inf), axis=None)[-25:]
    print("orion:", hot[0].sum(), hot[1].sum(), (hot[0] & hot[1]).sum())
    assert hot[1].ravel()[brightest].all()
    assert (hot[0] & hot[1]).sum() > 0.9 * hot[0].sum()
    flat_task = CombineFlatTask()
    flat = flat_task.run(raws=of_kind(handles, "flat"), detector=detector, bias=bias, dark=halves[0]).flat
    assert "pixel noise" in " ".join(flat_task.metadata.getArray("rejected"))
    found = flatness(reduced(of_kind(handles, "science")[0], detector, {"bias": bias, "dark": halves[0], "flat": flat}))
    print("orion:", found)
    assert found.pixel < 1.3 * found.pixel_expected
    assert found.block < 0.008

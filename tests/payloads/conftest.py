"""A small camera and its raw frames, and a home with an empty repository."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from payloads.camera import Camera
from payloads.repository import init_repository

CAMERA = {
    "name": "Testcam",
    "pixel_scale_arcsec": 1.0,
    "detectors": [
        {
            "id": number,
            "name": f"D{number}",
            "offset_arcsec": [45.0 * (2 * number - 1), 0.0],
            "amplifiers": [
                {
                    "name": "A",
                    "data": "[1:80,1:60]",
                    "overscan": "[81:88,1:60]",
                    "place": "[1:80,1:60]",
                    "gain": 2.0,
                    "read_noise": 4.0,
                    "saturation": 60000,
                }
            ],
        }
        for number in (0, 1)
    ],
    "filters": [{"name": "r1", "band": "r"}, {"name": "g1", "band": "g"}],
    "headers": {
        "must": {"INSTRUME": "^Testcam$"},
        "observation_type": {"keyword": "IMAGETYP", "values": {"OBJECT": "science"}},
        "datetime_begin": {"keyword": "DATE-OBS"},
        "exposure_time": {"keyword": "EXPTIME"},
        "physical_filter": {"keyword": "FILTER"},
        "object": {"keyword": "OBJECT"},
        "seq_num": {"keyword": "SEQNUM"},
        "detector": {"keyword": "DETECTOR"},
        "tracking_ra": {"keyword": "RA"},
        "tracking_dec": {"keyword": "DEC"},
        "airmass": {"keyword": "AIRMASS"},
    },
}


@pytest.fixture(scope="session")
def camera() -> Camera:
    return Camera.from_dict(CAMERA)


@pytest.fixture
def write_frame(tmp_path: Path) -> Callable[..., Path]:
    """Write a good raw frame of `camera`; keywords change or (None) remove cards, `pixels` replaces the image."""

    def write(name: str = "frame.fits", *, pixels: Any = None, folder: str = "raw", **cards: Any) -> Path:
        header = {
            "INSTRUME": "Testcam",
            "IMAGETYP": "OBJECT",
            "DATE-OBS": "2026-03-02T03:00:00",
            "EXPTIME": 30.0,
            "FILTER": "r1",
            "OBJECT": "field",
            "SEQNUM": 1,
            "DETECTOR": 0,
            "RA": 150.0,
            "DEC": 2.0,
            "AIRMASS": 1.2,
        } | {key.replace("_", "-"): value for key, value in cards.items()}
        if pixels is None:
            seed = [int(header["SEQNUM"] or 0), int(header["DETECTOR"] or 0)]
            pixels = np.random.default_rng(seed).integers(990, 1010, (60, 88)).astype(np.uint16)
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cards_left = {key: value for key, value in header.items() if value is not None}
        fits.PrimaryHDU(pixels, header=fits.Header(cards_left)).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture(scope="session")
def _empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("empty_home")
    init_repository(home / "repo").close()
    return home


@pytest.fixture
def home(_empty_home: Path, tmp_path: Path) -> Path:
    """A home with an empty repository (which names no absolute path, so a copy will do)."""
    return Path(shutil.copytree(_empty_home, tmp_path / "home"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout, or at PACHON_SHARED; tests that need it skip where it is absent."""
    shared = os.environ.get("PACHON_SHARED")
    folder = (Path(shared) if shared else Path(__file__).parents[2].parent / "shared") / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set PACHON_SHARED)")
    return folder

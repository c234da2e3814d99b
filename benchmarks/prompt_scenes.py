"""Full-size scenes for the prompt benchmark: made once into a folder, read again by the process that is measured.

Seeds are from 110 on: the training of real/bogus has those below 100 (payloads/prompt/training.py), and those from 100 to 109
were looked at in between.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import fitsio
import numpy as np
import yaml
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from payloads.astrometry import wcs_cards
from payloads.camera import Camera
from payloads.exposure import ExposureFacts
from payloads.isr import Plane
from payloads.prompt.preloaded import Bodies, KnownObjects, Preloaded, ReferenceStars
from payloads.prompt.result import RawFrame
from payloads.prompt.simulated import SimulatedVisit, simulate_visit
from payloads.simulator.config import SurveyConfig
from payloads.template import TemplatePatch

_PLANES = ("bias", "dark", "flat")
_PARTS = ("data", "mask", "variance")


def survey(
    seed: int, *, stars: int, size: tuple[int, int] = (4000, 4072), amplifiers: int = 16, seeing_px: float = 3.8
) -> SurveyConfig:
    """One visit of one detector of `size` (ny, nx) over a template of another night; `stars` on a full-size detector."""
    part = size[0] * size[1] / (4000 * 4072)
    return SurveyConfig.from_dict(
        {
            "seed": seed,
            "camera": {
                "detectors": [1, 1],
                "size": list(size),
                "amplifiers": amplifiers,
                "pixel_scale_arcsec": 0.2,
                "read_noise_electron": 8.0,
            },
            "nights": {"count": 2, "templates": 1},
            "filters": {"r": {"band": "r", "zeropoint_mag": 28.3, "sky_mag_arcsec2": 21.2}},
            "fields": [{"name": "full", "visits": {"r": 1}}],
            "seeing": {"median_px": seeing_px, "scatter_fraction": 0.15},
            "stars": {"per_detector": stars * part, "bright_mag": 15.0, "faint_mag": 25.5},
            "galaxies": {"per_detector": 3000 * part, "bright_mag": 18.0, "faint_mag": 25.0},
            "transients": {"per_field": max(4, round(400 * part)), "snr": [4.6, 24.0]},
            "asteroids": {"per_field_night": max(4, round(20 * part))},
        }
    )


def scene(folder: Path, config: SurveyConfig, say: Callable[[str], None] = print) -> Path:
    """The scene of a survey below `folder`, made unless it is there; returns its folder."""
    place = folder / f"{config.seed}-{config.camera.size[0]}x{config.camera.size[1]}-{round(config.stars.per_detector)}"
    if not (place / "done").exists():
        say(f"simulating {place.name}")
        place.mkdir(parents=True, exist_ok=True)
        write(place, simulate_visit(config))
        (place / "done").touch()
    return place


def write(place: Path, visit: SimulatedVisit) -> None:
    """Arrays as .npy, the raw frame as compressed FITS, tables as .npz, the rest as JSON and YAML.

    No Parquet: what reads it would count into the memory of a worker, which has its tables from the night's database.
    """
    loaded = visit.preloaded
    fitsio.write(str(place / "raw.fits.fz"), visit.raw.pixels.astype(np.int32), compress="RICE", clobber=True)
    for name in _PLANES:
        _write_plane(place, name, getattr(loaded, name))
    (patch,) = loaded.template
    _write_plane(place, "template", patch.plane)
    (place / "camera.yaml").write_text(yaml.safe_dump(loaded.camera.to_dict()))
    for name, columns in (("reference", vars(loaded.reference)), ("bodies", vars(loaded.bodies))):
        np.savez(place / f"{name}.npz", **columns)
    for name, table in (("objects", loaded.known.objects), ("sources", loaded.known.sources), ("truth", visit.truth)):
        np.savez(place / f"{name}.npz", **{c: np.asarray(table[c]) for c in table.colnames})
    document = {
        "facts": asdict(visit.raw.facts),
        "visit": visit.raw.visit,
        "header": wcs_cards(visit.raw.wcs),
        "wcs": wcs_cards(visit.wcs),
        "zeropoint_mag": visit.zeropoint_mag,
        "template": {"wcs": wcs_cards(patch.wcs), "fwhm_px": patch.fwhm_px, "zeropoint_mag": patch.zeropoint_mag},
    }
    (place / "scene.json").write_text(json.dumps(document))


def read(place: Path) -> SimulatedVisit:
    """What `write` wrote, the raw frame decompressed."""
    document = json.loads((place / "scene.json").read_text())
    camera = Camera.load(place / "camera.yaml")
    names = ("reference", "bodies", "objects", "sources", "truth")
    columns = {name: dict(np.load(place / f"{name}.npz")) for name in names}
    tables = {name: Table(columns[name]) for name in ("objects", "sources", "truth")}
    patch = document["template"]
    return SimulatedVisit(
        raw=RawFrame(
            pixels=read_raw(place),
            facts=ExposureFacts(**document["facts"]),
            wcs=_wcs(document["header"]),
            visit=document["visit"],
        ),
        preloaded=Preloaded(
            camera=camera,
            detector=camera.detectors[0],
            **{name: _read_plane(place, name) for name in _PLANES},
            template=(
                TemplatePatch(
                    plane=_read_plane(place, "template"),
                    wcs=_wcs(patch["wcs"]),
                    fwhm_px=patch["fwhm_px"],
                    zeropoint_mag=patch["zeropoint_mag"],
                ),
            ),
            reference=ReferenceStars(**columns["reference"]),
            known=KnownObjects(objects=tables["objects"], sources=tables["sources"]),
            bodies=Bodies(**columns["bodies"]),
        ),
        truth=tables["truth"],
        wcs=_wcs(document["wcs"]),
        zeropoint_mag=document["zeropoint_mag"],
    )


def read_raw(place: Path) -> np.ndarray:
    """The raw frame, ADU."""
    return fitsio.read(str(place / "raw.fits.fz"), ext=1).astype(np.uint16)


def _wcs(cards: dict[str, object]) -> WCS:
    return WCS(fits.Header(cards))


def _write_plane(place: Path, name: str, plane: Plane) -> None:
    for part in _PARTS:
        if (values := getattr(plane, part)) is not None:
            np.save(place / f"{name}_{part}.npy", values)


def _read_plane(place: Path, name: str) -> Plane:
    paths = {part: place / f"{name}_{part}.npy" for part in _PARTS}
    return Plane(**{part: np.load(path) if path.exists() else None for part, path in paths.items()})

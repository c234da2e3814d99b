"""The numbers of a whole run: quality against truth, or against what the frames themselves say, and counts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from payloads.formatters import wcs_of
from payloads.mask import Mask, any_set
from payloads.report.masters import residual_noise_ratio
from payloads.report.products import Products
from payloads.report.truth import Truth, found_asteroids, match, wcs_offset_px

_COVERED = Mask.NO_DATA | Mask.EDGE


def summarise(home: Path, instrument: str, truth_dir: Path | None = None, known: Path | None = None) -> dict[str, Any]:
    """Numbers of everything that was made of `instrument` in `home`, for summary.json; what cannot be known is None.

    `truth_dir`: the truth of a simulated survey. `known`: CSV `visit,x,y[,detector]`, where an object is known to be.

    - bias_noise_ratio, dark_noise_ratio: worst master's noise about the true one, without truth from pixel to pixel, over what
      its inputs' noise gives; 1 is perfect
    - flat_rms: worst master's rms relative difference to the true flat; without truth, its noise
    - astrometry_rms_pix: median over frames of the rms distance to the true WCS; without truth, of matched stars
    - transient_completeness_snr10: share of true transients' epochs at S/N >= 10, on frames differenced and where the template
      covers them, with an alert within 2 px
    - alert_unmatched_fraction: share of alerts without anything within 2 px that truly differs from the template by 3 sigma
    - asteroid_tracklet_fraction: of asteroids at S/N >= 5 in three exposures of a night, those with a tracklet
    - known_object_max_offset_pix: largest distance of a known position from the nearest DIASource of its frame
    """
    with Products(home, instrument) as products:
        truth = Truth.load(truth_dir) if truth_dir is not None else None
        sources = products.table("dia_source", products.prompt)
        result: dict[str, Any] = {
            "instrument": instrument,
            "bias_noise_ratio": _noise_ratio(products, truth, "bias"),
            "dark_noise_ratio": _noise_ratio(products, truth, "dark"),
            "flat_rms": _flat_rms(products, truth),
            "astrometry_rms_pix": _astrometry(products, truth),
            "transient_completeness_snr10": None,
            "alert_unmatched_fraction": None,
            "asteroid_tracklet_fraction": None,
            "known_object_max_offset_pix": None,
        }
        if truth is not None:
            result |= _against_truth(products, truth, sources)
        if known is not None:
            result |= known_offsets(known, sources)
        return result | {"counts": _counts(products, sources)}


def _worst(metadata: list[dict[str, Any]], key: str) -> float | None:
    """The value farthest from 1."""
    values = np.array([float(m[key]) for m in metadata if key in m])
    values = values[np.isfinite(values)]
    return float(values[np.argmax(np.abs(np.log(values)))]) if values.size else None


def _noise_ratio(products: Products, truth: Truth | None, kind: Literal["bias", "dark"]) -> float | None:
    if truth is not None:
        return residual_noise_ratio(products, truth, kind)
    return _worst(products.metadata(f"combine{kind.capitalize()}"), "noise_ratio")


def _flat_rms(products: Products, truth: Truth | None) -> float | None:
    if truth is None:
        noise = np.array([float(m["noise"]) for m in products.metadata("combineFlat") if "noise" in m])
        noise = noise[np.isfinite(noise)]  # a flat of a single frame does not know its noise
        return float(noise.max()) if noise.size else None
    worst = None
    for ref in products.calibrations("flat"):
        true = truth.flat(ref.dataId["detector"], ref.dataId["physical_filter"])
        if true is None:
            continue
        master = products.get(ref)
        good = np.asarray(master.mask) == 0
        ratio = master.data[good] / true[good]
        rms = float(np.std(ratio / np.median(ratio)))
        worst = rms if worst is None else max(worst, rms)
    return worst


def _astrometry(products: Products, truth: Truth | None) -> float | None:
    values = []
    for ref in products.refs("visit_solution", products.frames):
        solution = products.get(ref)
        true = truth.wcs(ref.dataId["visit"], ref.dataId["detector"]) if truth else None
        if true is None:
            values.append(float(solution["rms_pix"]))
        else:
            shape = tuple(int(n) for n in (true.pixel_shape or (500, 500))[::-1])
            values.append(float(np.sqrt(np.mean(wcs_offset_px(wcs_of(solution["wcs"]), true, shape) ** 2))))
    values = [v for v in values if np.isfinite(v)]
    return float(np.median(values)) if values else None


def _against_truth(products: Products, truth: Truth, sources: Table) -> dict[str, Any]:
    differenced = products.refs("difference", products.prompt)
    frames = {(r.dataId["visit"], r.dataId["detector"]): r for r in differenced}
    epochs = truth.epochs["transient"]
    strong = epochs[(np.asarray(epochs["snr"]) >= 10) & _on(frames, epochs)]
    covered = _covered(products, frames, strong)
    told = sources[np.isin(np.asarray(sources["diaSourceId"], np.int64), products.alert_ids())] if len(sources) else sources
    seen = match(strong, told) >= 0
    real = _true(truth, told)
    asteroids = truth.epochs["asteroid"]
    linked, linkable = found_asteroids(
        asteroids[_on(frames, asteroids)], sources, products.table("tracklet_source", products.prompt)
    )
    return {
        "transient_completeness_snr10": _share(seen[covered]),
        "alert_unmatched_fraction": _share(~real),
        "asteroid_tracklet_fraction": linked / linkable if linkable else None,
        "truth": {
            "transient_epochs_snr10": int(covered.sum()),
            "alerts": len(real),
            "alerts_unmatched": int((~real).sum()),
            "asteroids_linkable": linkable,
        },
    }


def _true(truth: Truth, told: Table) -> NDArray[np.bool_]:
    """Of each source that an alert was sent of, whether something true is within reach."""
    if not len(told):
        return np.zeros(0, bool)
    changed = truth.changed()
    changed.rename_column("exposure", "visit")
    places = told["visit", "detector", "x", "y"]
    places.rename_column("visit", "exposure")
    return match(places, changed) >= 0


def _on(frames: dict[tuple[int, int], Any], epochs: Table) -> NDArray[np.bool_]:
    keys = zip(np.asarray(epochs["exposure"]).tolist(), np.asarray(epochs["detector"]).tolist(), strict=True)
    return np.array([key in frames for key in keys], bool)


def _covered(products: Products, frames: dict[tuple[int, int], Any], epochs: Table) -> NDArray[np.bool_]:
    """Whether there was an image to see each epoch in: neither off the template nor within reach of an edge."""
    result = np.zeros(len(epochs), bool)
    keys = np.column_stack([np.asarray(epochs["exposure"], np.int64), np.asarray(epochs["detector"], np.int64)])
    for visit, detector in np.unique(keys, axis=0).tolist():
        rows = np.flatnonzero((keys == (visit, detector)).all(axis=1))
        mask = np.asarray(products.get(frames[visit, detector]).mask, np.uint32)
        x, y = (np.rint(np.asarray(epochs[c], float)[rows]).astype(int) for c in "xy")
        inside = (x >= 0) & (x < mask.shape[1]) & (y >= 0) & (y < mask.shape[0])
        result[rows[inside]] = ~any_set(mask[y[inside], x[inside]], _COVERED, (int(inside.sum()),))
    return result


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(np.mean(flags)) if flags.size else None


def read_known(path: Path) -> Table:
    """The table of known positions: `visit x y` and, for cameras of more than one, `detector`."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return Table(
        {
            "visit": np.array([int(row["visit"]) for row in rows], np.int64),
            "detector": np.array([int(row.get("detector") or 0) for row in rows], np.int64),
            "x": np.array([float(row["x"]) for row in rows]),
            "y": np.array([float(row["y"]) for row in rows]),
        }
    )


def known_offsets(path: Path, sources: Table) -> dict[str, Any]:
    """Largest offset in pixels of known positions from the nearest DIASource, and in how many frames there was any source."""
    wanted = read_known(path)
    offsets = []
    for row in wanted:
        here = sources[sources["visit"] == row["visit"]] if len(sources) else sources
        if len(here):
            offsets.append(float(np.hypot(np.asarray(here["x"]) - row["x"], np.asarray(here["y"]) - row["y"]).min()))
    return {
        "known_object_max_offset_pix": max(offsets) if offsets else None,
        "known_object_frames": len(offsets),
        "known_object_frames_expected": len(wanted),
    }


def _counts(products: Products, sources: Table) -> dict[str, Any]:
    prompt, releases = products.prompt, products.releases
    objects, forced = products.table("object", releases), products.table("forced_source", releases)
    return {
        "exposures": products.exposure_counts(),
        "masters": {name: len(products.calibrations(name)) for name in ("bias", "dark", "flat")},
        "calexps": len(products.refs("calexp", products.frames)),
        "template_coadds": len(products.refs("template_coadd", products.templates)),
        "differences": len(products.refs("difference", prompt)),
        "dia_sources": len(sources),
        "dia_objects": len(products.table("dia_object", prompt)),
        "alerts": int(products.alert_ids().size),
        "tracklets": len(products.table("tracklet", prompt)),
        "deep_coadds": len(products.refs("deep_coadd", releases)),
        "objects": len(objects),
        "forced_sources": len(forced),
    }

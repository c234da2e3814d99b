"""Are the products that no frame of one's own kind judges fit for use: what was measured of amplifiers, defects, fields, cubes.

Each check is a number with a band (payloads/verification.py), of the product as it stands and against the certified one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from payloads.camera import Detector
from payloads.isr import Plane
from payloads.mask import Mask, any_set
from payloads.verification import Check, Limits, amplifier_regions, coverage, flat_change

Table = Mapping[str, Any]


def photon_transfer(table: Table, old: Table | None, detector: Detector) -> list[Check]:
    """Gain and read noise of each amplifier: near the camera's description, well measured, like the certified ones."""
    checks = []
    for amp in detector.amplifiers:
        gain, error = (_of(table, name, amp.name) for name in ("gain", "gain_err"))
        noise = _of(table, "read_noise", amp.name)
        shared = {"amplifier": amp.name}
        far = "it is far from the camera's description: wrong frames, or another read-out"
        checks += [
            Check(name="gain_ratio", value=gain / amp.gain, low=0.8, high=1.25, hint=far, **shared),
            Check(
                name="gain_error", value=error / gain if gain else math.nan, high=0.02, hint="too few pairs or levels", **shared
            ),
            Check(name="read_noise_ratio", value=noise / amp.read_noise, low=0.3, high=3.0, hint=far, **shared),
            Check(name="gain", value=gain, unit="electron/ADU", decisive=False, **shared),
            Check(name="read_noise", value=noise, unit="electron", decisive=False, **shared),
        ]
        if old is not None:
            ratio = gain / _of(old, "gain", amp.name) - 1
            checks.append(
                Check(name="change_gain", value=ratio, low=-0.03, high=0.03, hint="the gain is not the certified one", **shared)
            )
    return checks


def linearity(table: Table, old: Table | None, detector: Detector) -> list[Check]:
    """Corrections are small, and the points lie on the curve."""
    checks = []
    for amp in detector.amplifiers:
        shared = {"amplifier": amp.name}
        largest = _largest(table.get("correction", {}).get(amp.name))
        checks += [
            Check(
                name="correction",
                value=largest,
                high=0.1,
                hint="no amplifier is so non-linear: saturated or wrong frames",
                **shared,
            ),
            Check(name="rms", value=_of(table, "rms", amp.name), high=0.003, hint="the points do not lie on the curve", **shared),
        ]
        if old is not None:
            change = largest - _largest(old.get("correction", {}).get(amp.name))
            hint = "the curve is not the certified one"
            checks.append(Check(name="change_correction", value=change, low=-0.01, high=0.01, hint=hint, **shared))
    return checks


def crosstalk(table: Table, old: Table | None, detector: Detector) -> list[Check]:
    """Coefficients are small, well measured, and like the certified ones."""
    matrix, errors = (np.asarray(table[name], dtype=float) for name in ("coefficients", "errors"))
    before = None if old is None else np.asarray(old["coefficients"], dtype=float)
    checks = []
    for k, amp in enumerate(detector.amplifiers):
        others = np.arange(len(detector.amplifiers)) != k
        shared = {"amplifier": amp.name}
        largest = _largest(matrix[k][others]) if others.any() else 0.0
        error = _largest(errors[k][others]) if others.any() else 0.0
        checks += [
            Check(name="coefficient", value=largest, high=0.05, hint="no electronics couples so much: wrong frames", **shared),
            Check(name="error", value=error, high=1e-3, hint="too few bright sources", **shared),
        ]
        if before is not None and others.any():
            change = _largest((matrix[k] - before[k])[others])
            hint = "the coefficients are not the certified ones"
            checks.append(Check(name="change_coefficient", value=change, high=max(1e-3, 6 * error), hint=hint, **shared))
    return checks


def bad_pixels(product: Plane, old: Plane | None, detector: Detector) -> list[Check]:
    """Not more than a few per cent of an amplifier, and no sudden growth."""
    checks = []
    for name, place in amplifier_regions(detector).items():
        part = float(any_set(product.mask[place], Mask.BAD, product.mask[place].shape).mean())
        checks.append(Check(name="bad", amplifier=name, value=part, high=0.05, hint="so many pixels cannot be bad: wrong frames"))
        if old is not None:
            growth = part - float(any_set(old.mask[place], Mask.BAD, old.mask[place].shape).mean())
            hint = "many pixels became bad or good since the certified map"
            checks.append(Check(name="change_bad", amplifier=name, value=growth, low=-0.01, high=0.01, hint=hint))
    return checks


def field(product: Plane, old: Plane | None, detector: Detector, *, centre: float, reach: float) -> list[Check]:
    """A smooth field about `centre` within `reach`: illumination (1), fringes (0), a synthetic flat (1)."""
    limits = Limits()
    good = product.data[(product.mask & np.uint32(Mask.NO_DATA)) == 0]
    middle = float(np.nanmedian(good)) if good.size else math.nan
    low, high = (float(v) for v in np.nanpercentile(good, (1, 99))) if good.size else (math.nan, math.nan)
    hint = "it reaches further than such a field does: sources or stray light are in it"
    checks = [c for c in coverage(product, detector, limits) if c.name == "lost"]
    checks += [
        Check(name="median", amplifier="", value=middle, low=centre - 0.05, high=centre + 0.05, hint="it is not normalised"),
        Check(name="low", amplifier="", value=low, low=centre - reach, hint=hint),
        Check(name="high", amplifier="", value=high, high=centre + reach, hint=hint),
    ]
    if old is not None and centre > 0:
        change = flat_change(product.data, old, detector)
        checks.append(
            Check(name="change_rms", amplifier="", value=change.rms, high=0.02, hint=f"unlike the certified ({change.kind()})")
        )
    return checks


def cube(planes: NDArray[np.floating], wavelengths_nm: Sequence[float]) -> list[Check]:
    """A monochromatic cube (n, ny, nx): a plane for each wavelength, ascending, each of median 1 and nearly without gaps."""
    steps = np.diff(np.asarray(wavelengths_nm, dtype=float))
    medians = np.array([np.nanmedian(plane) if np.isfinite(plane).any() else np.nan for plane in planes])
    lost = float((~np.isfinite(planes)).mean())
    off = _largest(medians - 1)
    planes_hint = "planes and wavelengths do not belong together"
    return [
        Check(name="planes", amplifier="", value=float(len(planes) - len(wavelengths_nm)), low=0, high=0, hint=planes_hint),
        Check(name="ascending", amplifier="", value=float(steps.min()) if steps.size else 1.0, low=1e-6, hint=planes_hint),
        Check(name="median", amplifier="", value=off, high=0.02, hint="a plane is not normalised, or has no light"),
        Check(name="lost", amplifier="", value=lost, high=0.02, hint="pixels without data"),
    ]


TABLES: Mapping[str, Callable[[Table, Table | None, Detector], list[Check]]] = {
    "ptc": photon_transfer,
    "linearity": linearity,
    "crosstalk": crosstalk,
}


def _of(table: Table, name: str, amplifier: str) -> float:
    value = table.get(name, {}).get(amplifier)
    return math.nan if value is None else float(value)


def _largest(values: Any) -> float:
    if values is None:
        return math.nan
    numbers = np.abs(np.asarray(values, dtype=float))
    return float(numbers.max()) if numbers.size else math.nan  # one NaN is enough for NaN: it was not measured

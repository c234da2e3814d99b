"""How far calibration products are from the simulator's truth: a number for each, as the survey's requirements put them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from payloads.fringes import fringe_amplitude, subtract_fringes
from payloads.isr import Plane, prepare, remove_signature
from payloads.mask import Mask, any_set
from payloads.mono_flats import even_photons, wavelength_weights
from payloads.overscan import amplifier_map
from payloads.response import measured
from payloads.simulator import dome
from payloads.simulator.calibration_night import Handle, Night
from payloads.simulator.exposures import monochromatic_throughput
from payloads.tasks.planes import plane_of

Image = NDArray[np.floating]
_QUANTISATION = 1 / 12  # ADU²
_LEAST_CROSSTALK = 1e-4


def score(night: Night, made: Mapping[str, Any], physical_filter: str, *, held_out: int = 0) -> dict[str, float]:
    """Figures of the products in `made` (by dataset type), those that are there."""
    scores: dict[str, float] = {}
    for names, function in _SCORERS:
        if all(name in made for name in names):
            scores |= function(night, made)
    for names, function in _FILTER_SCORERS:
        if all(name in made for name in names):
            scores |= function(night, made, physical_filter)
    if "fringe" in made and held_out and night.world.survey.filters[physical_filter].fringe:
        scores |= _fringe(night, made, night.raws("science", physical_filter)[-held_out:])
    return scores


def _frames(night: Night, kind: str) -> int:
    return len(night.raws(kind))


def _read_variance(night: Night) -> Image:
    """ADU², quantisation included."""
    true = night.true_detector
    return (amplifier_map(true, "read_noise") / amplifier_map(true, "gain")) ** 2 + _QUANTISATION


def _bias(night: Night, made: Mapping[str, Any]) -> dict[str, float]:
    """Residual over the noise of a mean of so many frames."""
    residual = made["bias"].data - night.truth.bias_adu
    return {"bias_noise_ratio": float(np.std(residual / np.sqrt(_read_variance(night) / _frames(night, "bias"))))}


def _dark(night: Night, made: Mapping[str, Any]) -> dict[str, float]:
    """Residual over the noise of a mean of so many frames and of the bias that was taken off each; pixels that are not hot."""
    gain = amplifier_map(night.true_detector, "gain")
    seconds = night.world.survey.calibrations.dark_s
    current = night.truth.dark_electron_s
    single = _read_variance(night) + current * seconds / gain**2
    variance = (single / _frames(night, "dark") + _read_variance(night) / _frames(night, "bias")) / seconds**2
    quiet = ~night.truth.hot
    return {"dark_noise_ratio": float(np.std(((made["dark"].data - current / gain) / np.sqrt(variance))[quiet]))}


def _sound(night: Night) -> NDArray[np.bool_]:
    return ~(night.truth.dead | night.truth.hot)


def _rms(made: Image, true: Image, good: NDArray[np.bool_]) -> float:
    ratio = (made / true)[good]
    return float(np.std(ratio) / np.mean(ratio))


def _gain_ratio(night: Night, made: Mapping[str, Any]) -> Image:
    """True gains over those that the products were made with: ISR multiplies by the same and divides by the flat, so what an
    amplifier's gain is wrong by is in its flat, and is nothing in what is flat-fielded."""
    used = measured(night.described, ptc=made.get("ptc"))
    return amplifier_map(night.true_detector, "gain") / amplifier_map(used, "gain")


def _flat(night: Night, made: Mapping[str, Any], name: str) -> dict[str, float]:
    truth = night.truth
    true = truth.flat[name] * truth.dome[name] if truth.dome else truth.flat[name]
    return {"flat_rms": _rms(made["flat"].data * _gain_ratio(night, made), true, _sound(night))}


def _illumination(night: Night, made: Mapping[str, Any], name: str) -> dict[str, float]:
    true = 1 / night.truth.dome[name] if night.truth.dome else np.ones_like(made["illumination"].data)
    return {"illumination_rms": _rms(made["illumination"].data, true, np.ones(true.shape, dtype=bool))}


def _crosstalk(night: Night, made: Mapping[str, Any]) -> dict[str, float]:
    """Of the coefficients above 1e-4: the largest relative error, and the largest 3 sigma of the stated errors."""
    true, found, error = (
        np.array(x) for x in (night.true_detector.crosstalk, made["crosstalk"]["coefficients"], made["crosstalk"]["errors"])
    )
    large = np.abs(true) > _LEAST_CROSSTALK
    return {
        "crosstalk_error": float(np.max(np.abs(found / np.where(large, true, 1) - 1)[large])),
        "crosstalk_3sigma": float(np.max(3 * error[large] / np.abs(true[large]))),
        "crosstalk_pull_rms": float(np.sqrt(np.mean(((found - true) / np.where(error > 0, error, 1))[error > 0] ** 2))),
        "crosstalk_coefficients": int(large.sum()),
    }


def _transfer(night: Night, made: Mapping[str, Any]) -> dict[str, float]:
    """The largest relative errors of gain and read noise over the amplifiers."""
    amplifiers, ptc = night.true_detector.amplifiers, made["ptc"]
    return {
        "gain_error": max(abs(ptc["gain"][a.name] / a.gain - 1) for a in amplifiers),
        "read_noise_error": max(abs(ptc["read_noise"][a.name] / a.read_noise - 1) for a in amplifiers),
    }


def _linearity(night: Night, made: Mapping[str, Any]) -> dict[str, float]:
    """The largest error of the correction, up to 90 % of full well."""
    worst = 0.0
    for amplifier in night.true_detector.amplifiers:
        read, true = np.array(amplifier.linearity or [(0.0, 0.0), (night.world.survey.camera.full_well_adu, 0.0)]).T
        adu = np.linspace(0.01 * read[-1], 0.9 * read[-1], 200)
        curve = np.interp(adu, made["linearity"]["adu"][amplifier.name], made["linearity"]["correction"][amplifier.name])
        worst = max(worst, float(np.max(np.abs((1 + curve) / (1 + np.interp(adu, read, true)) - 1))))
    return {"linearity_error": worst}


def _bad_pixels(night: Night, made: Mapping[str, Any]) -> dict[str, float]:
    true = night.truth.dead | night.truth.hot
    found = any_set(made["bad_pixels"].mask, Mask.BAD, true.shape)
    both = float((true & found).sum())
    return {"bad_pixel_completeness": both / max(1, int(true.sum())), "bad_pixel_purity": both / max(1, int(found.sum()))}


def _mono(night: Night, made: Mapping[str, Any]) -> dict[str, float]:
    """Rms of a plane, that of all of them and that of the worst."""
    good, ratio, values = _sound(night), _gain_ratio(night, made), []
    for plane, nm in zip(made["mono_flat"].data, made["mono_flat"].meta["WAVELENGTHS_NM"], strict=True):
        values.append(_rms(plane * ratio, dome.response(night.world.survey, night.truth, nm, night.number), good))
    return {"mono_rms": float(np.sqrt(np.mean(np.square(values)))), "mono_rms_worst": max(values)}


def _synthetic(night: Night, made: Mapping[str, Any], name: str) -> dict[str, float]:
    """Against the truth at steps of a fifth of the cube's."""
    nm = np.array(made["mono_flat"].meta["WAVELENGTHS_NM"])
    fine = np.linspace(nm[0], nm[-1], 5 * (len(nm) - 1) + 1)
    transmission = next(f.transmission for f in night.camera.filters if f.name == name)
    weights = wavelength_weights(fine, np.asarray(monochromatic_throughput(fine)), even_photons, transmission or ())
    true = np.zeros(night.true_detector.shape)
    for k in np.flatnonzero(weights):
        true += weights[k] * dome.response(night.world.survey, night.truth, float(fine[k]), night.number)
    return {"synthetic_flat_rms": _rms(made["synthetic_flat"].data * _gain_ratio(night, made), true, _sound(night))}


def _fringe(night: Night, made: Mapping[str, Any], held_out: list[Handle]) -> dict[str, float]:
    """How many times smaller the true pattern's amplitude is in frames that made no product, once they are corrected."""
    before, after = [], []
    for handle in held_out:
        plane = reduced(night, made, handle)
        corrected, _ = subtract_fringes(plane, made["fringe"].data)
        for image, amplitudes in ((plane, before), (corrected, after)):
            amplitudes.append(fringe_amplitude(image.data, image.mask, night.truth.fringes))
    return {"fringe_reduction": float(np.abs(np.mean(before)) / np.sqrt(np.mean(np.square(after))))}


def reduced(night: Night, made: Mapping[str, Any], handle: Handle) -> Plane:
    """A science frame with all products but the fringes applied."""
    detector = measured(night.described, **{name: made.get(name) for name in ("ptc", "linearity", "crosstalk")})
    names = ("bias", "dark", "flat", "illumination", "bad_pixels")
    masters = {name: plane_of(made.get(name)) for name in names}
    frame = prepare(handle.get().data, detector)
    return remove_signature(frame, detector, dark_time_s=night.world.survey.exposure_s, **masters)[0]


_SCORERS = (
    (("bias",), _bias),
    (("dark",), _dark),
    (("crosstalk",), _crosstalk),
    (("ptc",), _transfer),
    (("linearity",), _linearity),
    (("bad_pixels",), _bad_pixels),
    (("mono_flat",), _mono),
)
_FILTER_SCORERS = (
    (("flat",), _flat),
    (("illumination",), _illumination),
    (("mono_flat", "synthetic_flat"), _synthetic),
)

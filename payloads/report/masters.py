"""Masters held against the truth of the simulated detectors."""

from __future__ import annotations

from typing import Literal

import numpy as np
from astropy.stats import mad_std
from numpy.typing import NDArray

from payloads.camera import Camera, parse_section
from payloads.instrument import read_camera
from payloads.overscan import amplifier_map
from payloads.report.products import Products
from payloads.report.truth import Truth


def residual_noise_ratio(products: Products, truth: Truth, kind: Literal["bias", "dark"]) -> float | None:
    """The worst master's pixel noise about the true one, over that which its estimator should leave (header NOISEEXP).

    Each amplifier's median is taken off first: the level belongs to the overscan, not to the master. None without a master.
    """
    refs = products.calibrations(kind)
    camera = read_camera(products.butler, products.instrument) if refs else None
    ratios = []
    for ref in refs:
        true = truth.master(kind, ref.dataId["detector"])
        if camera is None or true is None:
            continue
        master = products.get(ref)
        if kind == "dark":
            true = true / amplifier_map(camera.detector(ref.dataId["detector"]), "gain")
        residual = _levelled(np.where(np.asarray(master.mask) == 0, master.data - true, np.nan), camera, ref.dataId["detector"])
        ratios.append(float(mad_std(residual, ignore_nan=True)) / float(master.meta["NOISEEXP"]))
    return max(ratios) if ratios else None


def _levelled(image: NDArray[np.floating], camera: Camera, detector: int) -> NDArray[np.floating]:
    for amplifier in camera.detector(detector).amplifiers:
        place = parse_section(amplifier.place)
        image[place] -= np.nanmedian(image[place])
    return image

"""What was measured of a detector's amplifiers, put into its description; and the one place where linearity is applied.

All of ISR works from the description (`payloads.camera.Detector`): gain, read noise, linearity and crosstalk of a certified
measurement replace what the camera's YAML says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import PermanentError
from payloads.camera import Amplifier, Detector, parse_section

MEASURED = ("crosstalk", "ptc", "linearity")
"""The products that are measurements of amplifiers: arguments of `measured`."""


class MeasurementMismatch(PermanentError):
    """A measurement of another detector, or of other amplifiers than the description has."""


def measured(
    detector: Detector,
    *,
    ptc: Mapping[str, Any] | None = None,
    linearity: Mapping[str, Any] | None = None,
    crosstalk: Mapping[str, Any] | None = None,
) -> Detector:
    """The description with what the products (datasets of these names, docs/interfaces.md) say; None changes nothing.

    MeasurementMismatch where a product is of other amplifiers. An amplifier whose gain could not be measured keeps its own.
    """
    names = [a.name for a in detector.amplifiers]
    for kind, product in (("ptc", ptc), ("linearity", linearity), ("crosstalk", crosstalk)):
        if product is not None and list(product["amplifiers"]) != names:
            raise MeasurementMismatch(
                f"the {kind} is of amplifiers {', '.join(product['amplifiers'])}, detector {detector.name} has"
                f" {', '.join(names)}: certify a product of this camera"
            )
    amplifiers = tuple(_amplifier(a, ptc, linearity) for a in detector.amplifiers)
    update: dict[str, Any] = {"amplifiers": amplifiers}
    if crosstalk is not None:
        update["crosstalk"] = tuple(tuple(float(c) for c in row) for row in crosstalk["coefficients"])
    return detector.model_copy(update=update)


def _amplifier(amplifier: Amplifier, ptc: Mapping[str, Any] | None, linearity: Mapping[str, Any] | None) -> Amplifier:
    update: dict[str, Any] = {}
    for name in ("gain", "read_noise"):
        value = None if ptc is None else ptc[name].get(amplifier.name)
        if value is not None and np.isfinite(value) and value > 0:
            update[name] = float(value)
    if linearity is not None and linearity["adu"].get(amplifier.name):
        knots, corrections = linearity["adu"][amplifier.name], linearity["correction"][amplifier.name]
        update["linearity"] = tuple((float(a), float(c)) for a, c in zip(knots, corrections, strict=True))
    return amplifier.model_copy(update=update) if update else amplifier


def linearise(data: NDArray[np.float32], detector: Detector) -> NDArray[np.float32]:
    """Undo the amplifiers' non-linearity: true = read * (1 + c(read)), (ny, nx) ADU above the overscan level.

    c is linear between the description's knots and constant beyond them; NaN stays NaN. Returns a new frame, or `data` itself
    where no amplifier has a curve.
    """
    if all(a.linearity is None for a in detector.amplifiers):
        return data
    corrected = data.copy()
    for amplifier in detector.amplifiers:
        if amplifier.linearity is not None:
            adu, correction = np.array(amplifier.linearity, dtype=np.float64).T
            part = corrected[parse_section(amplifier.place)]
            part *= (1 + np.interp(part, adu, correction)).astype(np.float32)
    return corrected

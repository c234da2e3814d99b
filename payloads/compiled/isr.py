"""Instrument signature removal of one amplifier in one pass."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)
def reduce_amplifier(
    signal: Any, variance: Any, mask: Any, bias: Any, bias_variance: Any, dark: Any, dark_variance: Any, flat: Any, seconds: Any,
    gain: Any, noise: Any, missing: Any,
) -> None:  # fmt: skip
    """ADU to electrons in place: `signal` less `bias` (ADU) and `seconds` of `dark` (ADU/s), times `gain`, over `flat`.

    `variance` is filled: photons, the masters', and `noise`, the read noise in electron. Where the result is no number, or the
    flat not positive: 0, variance 0, and the bit `missing`.
    """
    for y in range(signal.shape[0]):
        for x in range(signal.shape[1]):
            light = (signal[y, x] - bias[y, x]) * gain
            value = light - dark[y, x] * seconds * gain
            masters = bias_variance[y, x] + dark_variance[y, x] * seconds * seconds
            spread = noise * noise + masters * gain * gain + max(light, np.float32(0))
            response = flat[y, x]
            if response > 0 and isfinite(value) and isfinite(spread):
                signal[y, x] = value / response
                variance[y, x] = spread / (response * response)
            else:
                signal[y, x] = variance[y, x] = np.float32(0)
                mask[y, x] |= missing

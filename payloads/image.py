"""A CCDData whose mask keeps its bits.

astropy's CCDData turns any mask into booleans when it is set (NDDataArray.mask), and with it saturation, cosmic rays and defects
into one and the same. Everything of ours that has a mask is made as a `MaskedImage`, and the Butler gives one back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.nddata import CCDData
from numpy.typing import NDArray


class MaskedImage(CCDData):
    """CCDData, but for `mask`: uint32, bits as in `payloads.mask.Mask`, the shape of `data`; or None."""

    @property
    def mask(self) -> NDArray[np.uint32] | None:
        """Bits of every pixel."""
        return self._mask

    @mask.setter
    def mask(self, value: Any) -> None:
        if value is None or value is np.ma.nomask:
            self._mask = None
            return
        bits = np.asarray(value)
        if bits.dtype.kind not in "iu":
            raise TypeError(f"a mask of type {bits.dtype} does not say which of payloads.mask.Mask is meant: give integers")
        if bits.shape != self.data.shape:
            raise ValueError(f"mask of shape {bits.shape} for an image of shape {self.data.shape}")
        self._mask = bits.astype(np.uint32, copy=False)

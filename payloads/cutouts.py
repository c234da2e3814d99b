"""Cut-outs: small FITS files of the pixels around a source, with variance, mask, PSF and WCS.

Headers are made once for an image; for each source only the reference pixel and the corner change: building FITS objects for each
would take longer than everything else about an alert.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from payloads.mask import Mask, header_cards

Floats = NDArray[np.floating]
_BLOCK = 2880


class CutoutMaker:
    """Cuts squares of `size_px` out of one image; pixels beyond its border are NaN and NO_DATA.

    `wcs_cards`: the image's WCS as FITS cards. Where `psfs` are given to `cut` each file has an HDU PSF.
    """

    def __init__(
        self,
        data: Floats,
        variance: Floats,
        mask: NDArray[np.uint32],
        wcs_cards: Mapping[str, Any],
        *,
        unit: str,
        size_px: int = 31,
    ) -> None:
        if size_px < 30:
            raise ValueError(f"cut-outs of {size_px} px: alerts promise at least 30")
        self._planes = (data, variance, mask)
        self._size = size_px
        header = fits.Header([(key, value) for key, value in wcs_cards.items() if key not in ("CRPIX1", "CRPIX2")])
        header["BUNIT"] = unit
        self._crpix = float(wcs_cards["CRPIX1"]), float(wcs_cards["CRPIX2"])
        self._head = _cards(fits.PrimaryHDU(np.zeros((size_px, size_px), ">f4"), header=header).header, extend=True)
        self._variance = _header_block(fits.ImageHDU(np.zeros((size_px, size_px), ">f4"), name="VARIANCE").header)
        mask_header = fits.ImageHDU(np.zeros((size_px, size_px), ">i2"), name="MASK").header
        mask_header.update(header_cards())
        self._mask = _header_block(mask_header)

    def cut(self, x: float, y: float, psf: Floats | None = None) -> bytes:
        """The FITS file around pixel (x, y)."""
        half = self._size // 2
        x0, y0 = int(np.floor(x + 0.5)) - half, int(np.floor(y + 0.5)) - half
        data, variance, mask = (_window(plane, x0, y0, self._size) for plane in self._planes)
        place = {"CRPIX1": f"{self._crpix[0] - x0:.9f}", "CRPIX2": f"{self._crpix[1] - y0:.9f}", "CORNERX": x0, "CORNERY": y0}
        head = self._head + "".join(f"{key:<8}= {value:>20}".ljust(80) for key, value in place.items())
        parts = [
            _padded((head + "END".ljust(80)).encode("ascii"), b" "),
            _padded(data.astype(">f4").tobytes()),
            self._variance,
            _padded(variance.astype(">f4").tobytes()),
            self._mask,
            _padded((mask.astype(np.uint32) & 0x7FFF).astype(">i2").tobytes()),
        ]
        if psf is not None:
            parts.append(_psf_header(psf.shape))
            parts.append(_padded(psf.astype(">f4").tobytes()))
        return b"".join(parts)


@cache
def _psf_header(shape: tuple[int, ...]) -> bytes:
    return _header_block(fits.ImageHDU(np.zeros(shape, ">f4"), name="PSF").header)


def _window(plane: NDArray, x0: int, y0: int, size: int) -> NDArray:
    ny, nx = plane.shape
    empty = Mask.NO_DATA if plane.dtype.kind == "u" else np.nan
    out = np.full((size, size), empty, plane.dtype)
    rows, columns = slice(max(y0, 0), min(y0 + size, ny)), slice(max(x0, 0), min(x0 + size, nx))
    if rows.start < rows.stop and columns.start < columns.stop:
        out[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = plane[rows, columns]
    return out


def _cards(header: fits.Header, *, extend: bool = False) -> str:
    if extend:
        header["EXTEND"] = True
    return header.tostring(sep="", endcard=False, padding=False)


def _header_block(header: fits.Header) -> bytes:
    return header.tostring(sep="", endcard=True, padding=True).encode("ascii")


def _padded(content: bytes, filler: bytes = b"\0") -> bytes:
    return content + filler * (-len(content) % _BLOCK)

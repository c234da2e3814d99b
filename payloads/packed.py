"""Packed raw frames, unpacked with a limit: a small file of zeros may say that it is terabytes."""

from __future__ import annotations

import bz2
import gzip
import io
import math
from collections.abc import Iterator

from astropy.io import fits

from backbone.errors import PermanentError

MAX_BYTES = 1 << 29
"""Of a frame, unpacked: sixteen times a detector of 4,096 × 4,096 pixels of 2 bytes, and more than the largest CCD there is
(10,560 × 10,560 of 4). It is also what a worker may lose in memory before it says no."""
_PIECE = 1 << 20
_PIXEL_BYTES = 8  # at most, of any type of FITS


class FrameTooLarge(PermanentError, ValueError):
    """A file that would unpack to more than any frame has."""


def unpacked(content: bytes) -> io.BytesIO:
    """A FITS file's bytes, plain or packed by gzip or bzip2; FrameTooLarge before more than MAX_BYTES are in memory.

    Also looks at tiles packed within the file (`.fz`), which astropy unpacks without a limit when pixels are asked for.
    """
    whole = io.BytesIO(content)
    if content.startswith(b"BZh"):
        whole = _read(bz2.BZ2File(whole), len(content), MAX_BYTES)
    elif content.startswith(b"\x1f\x8b"):
        whole = _read(gzip.GzipFile(fileobj=whole), len(content), MAX_BYTES)
    if b"ZCMPTYPE" in whole.getvalue():
        _check_tiles(whole)
    return whole


def _read(stream: bz2.BZ2File | gzip.GzipFile, packed: int, at_most: int) -> io.BytesIO:
    out = io.BytesIO()
    for piece in iter(lambda: stream.read(_PIECE), b""):
        if out.tell() + len(piece) > at_most:
            raise FrameTooLarge(f"{packed} bytes unpack to more than {at_most}, which is more than a frame has")
        out.write(piece)
    out.seek(0)
    return out


def _check_tiles(whole: io.BytesIO) -> None:
    with fits.open(io.BytesIO(whole.getvalue()), memmap=False, disable_image_compression=True) as hdus:
        for hdu in hdus:
            if "ZCMPTYPE" in hdu.header:
                _check_image(hdu)


def _check_image(hdu: fits.BinTableHDU) -> None:
    """The image, a tile of it, and each tile that is packed by gzip: the other kinds unpack into what the header says."""
    header = hdu.header
    shape = [int(header[f"ZNAXIS{n}"]) for n in range(1, int(header["ZNAXIS"]) + 1)]
    tile = math.prod(int(header.get(f"ZTILE{n}", size if n == 1 else 1)) for n, size in enumerate(shape, 1)) * _PIXEL_BYTES
    for what, size in (("its image", math.prod(shape) * abs(int(header["ZBITPIX"])) // 8), ("a tile of it", tile)):
        if size > MAX_BYTES:
            raise FrameTooLarge(f"by its header {what} has {size} bytes; at most {MAX_BYTES} are read")
    for content in _gzip_tiles(hdu):
        _read(gzip.GzipFile(fileobj=io.BytesIO(content)), len(content), tile)


def _gzip_tiles(hdu: fits.BinTableHDU) -> Iterator[bytes]:
    always = str(hdu.header["ZCMPTYPE"]).startswith("GZIP")
    names = {"GZIP_COMPRESSED_DATA"} | ({"COMPRESSED_DATA"} if always else set())
    for name in names & set(hdu.columns.names):
        yield from (content for found in hdu.data[name] if (content := found.tobytes()))

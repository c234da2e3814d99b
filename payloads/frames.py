"""Is this file a complete raw frame of this camera? Everything that can be said of one file, without a repository."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from payloads.camera import Camera, parse_section
from payloads.formatters import FITS_EXTENSIONS, NoPixels, image_hdu, open_raw, raw_header
from payloads.headers import HeaderError, Observation, OtherInstrument, UnknownDetector, UnknownFilter, observe
from payloads.packed import FrameTooLarge


class Reason(StrEnum):
    """Why a file was set aside."""

    UNREADABLE = "unreadable"  # the operating system refuses
    EMPTY = "empty"
    NOT_FITS = "not_fits"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"  # unpacks to more than any frame has
    NO_PIXELS = "no_pixels"  # FITS, but no two-dimensional image in it
    OTHER_INSTRUMENT = "other_instrument"
    WRONG_SHAPE = "wrong_shape"
    NO_SIGNAL = "no_signal"  # every pixel NaN
    UNKNOWN_FILTER = "unknown_filter"
    UNKNOWN_DETECTOR = "unknown_detector"
    HEADER = "header"  # a keyword is missing or makes no sense
    DUPLICATE = "duplicate"  # other content than the frame that has this exposure and detector already


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A file fit to be ingested."""

    path: Path
    sha256: str
    observation: Observation


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A file that is not; `sha256` is None where it could not be read at all."""

    path: Path
    sha256: str | None
    reason: Reason
    detail: str

    def __str__(self) -> str:
        """For people: also of a file whose name is no text."""
        name = os.fsencode(self.path).decode(errors="backslashreplace")
        return f"{name}: {self.reason.value}: {self.detail}"


def find_files(paths: list[Path]) -> list[Path]:
    """Files as given, and below folders everything whose name looks like FITS; absolute, sorted, each once."""
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found.update(p.absolute() for p in path.rglob("*") if p.is_file() and is_fits_name(p.name))
        else:
            found.add(path.absolute())
    return sorted(found)


def is_fits_name(name: str) -> bool:
    """Does a name end as one of the kinds of FITS files we read?"""
    return name.lower().endswith(tuple(FITS_EXTENSIONS))


def check(path: Path, camera: Camera) -> Frame | Rejected:
    """Read the whole file once and judge it; never raises for what a file may contain."""
    try:
        str(path).encode()
        content = path.read_bytes()
    except UnicodeEncodeError:
        return Rejected(path=path, sha256=None, reason=Reason.UNREADABLE, detail="its name is no text: give it another")
    except OSError as error:
        return Rejected(path=path, sha256=None, reason=Reason.UNREADABLE, detail=f"{error.strerror or error}")
    sha256 = hashlib.sha256(content).hexdigest()
    if not content:
        return Rejected(path=path, sha256=sha256, reason=Reason.EMPTY, detail="the file has no bytes")
    try:
        header, pixels = _read(content)
        observation = observe(header, path.name, camera)
        _check_pixels(pixels, camera, observation.detector)
    except _Bad as bad:
        return Rejected(path=path, sha256=sha256, reason=bad.reason, detail=bad.detail)
    except HeaderError as error:
        kinds = {
            OtherInstrument: Reason.OTHER_INSTRUMENT,
            UnknownFilter: Reason.UNKNOWN_FILTER,
            UnknownDetector: Reason.UNKNOWN_DETECTOR,
        }
        return Rejected(path=path, sha256=sha256, reason=kinds.get(type(error), Reason.HEADER), detail=str(error))
    return Frame(path=path, sha256=sha256, observation=observation)


class _Bad(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _read(content: bytes) -> tuple[dict[str, Any], np.ndarray | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # astropy only warns of a file that ends too early.
        warnings.filterwarnings("error", "(?s).*truncated.*", AstropyUserWarning)
        try:
            with open_raw(content) as hdus:
                header = raw_header(hdus)
                return header, image_hdu(hdus).data
        except FrameTooLarge as error:
            raise _Bad(Reason.TOO_LARGE, str(error)) from error
        except NoPixels as error:
            raise _Bad(Reason.NO_PIXELS, str(error)) from error
        except (EOFError, AstropyUserWarning) as error:
            raise _Bad(Reason.TRUNCATED, f"the file ends too early: {_first_line(error)}") from error
        except (OSError, ValueError, TypeError, KeyError, IndexError, zlib.error, fits.VerifyError) as error:
            text = _first_line(error)
            raise _Bad(Reason.TRUNCATED if _TOO_EARLY.search(text) else Reason.NOT_FITS, text) from error


# How astropy, numpy and bz2 say that bytes are missing.
_TOO_EARLY = re.compile(r"truncated|end-of-stream|buffer is (too small|smaller)|cannot reshape")


def _first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def _check_pixels(pixels: np.ndarray | None, camera: Camera, detector: int) -> None:
    expected = raw_shape(camera, detector)
    if pixels is None:
        raise _Bad(Reason.TRUNCATED, "the header is there, the pixels are not")
    if tuple(pixels.shape) != expected:
        raise _Bad(
            Reason.WRONG_SHAPE,
            f"{pixels.shape[0]} x {pixels.shape[1]} pixels (rows x columns), not {expected[0]} x {expected[1]}",
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).any():
        raise _Bad(Reason.NO_SIGNAL, "no pixel is a finite number")


def raw_shape(camera: Camera, detector: int) -> tuple[int, int]:
    """(ny, nx) of the raw frame: what its amplifiers' data and overscan sections span."""
    sections = [
        parse_section(text)
        for amp in camera.detector(detector).amplifiers
        for text in (amp.data, amp.overscan)
        if text is not None
    ]
    return max(rows.stop for rows, _ in sections), max(columns.stop for _, columns in sections)

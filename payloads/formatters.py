"""Files ↔ objects: CCDData as FITS, raw frames as they came, tables as Parquet, alert packets as bytes.

Nothing of afw or obs_base is needed.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.wcs import WCS
from lsst.daf.butler import DatasetProvenance, FormatterV2, StorageClassDelegate
from lsst.daf.butler.formatters.parquet import ParquetFormatter
from lsst.resources import ResourcePath

from payloads.image import MaskedImage
from payloads.mask import header_cards
from payloads.packed import unpacked

FITS_EXTENSIONS = frozenset(stem + packed for stem in (".fits", ".fit", ".fts") for packed in ("", ".bz2", ".gz", ".fz"))

_FORMAT_CARD, _WCS_CARD, _META_CARD = "PACHFMT", "PACHWCS", "PACHMETA"
_OURS = frozenset({_FORMAT_CARD, _WCS_CARD, _META_CARD})
_COMMENTARY = frozenset({"COMMENT", "HISTORY", ""})
# Cards that describe the array on disk; astropy writes its own.
_STRUCTURAL = re.compile(
    r"^(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|BZERO|BSCALE|BLANK|BUNIT|CHECKSUM|DATASUM|END|CONTINUE|EXTNAME|EXTVER"
    r"|Z(IMAGE|TENSION|BITPIX|NAXIS\d*|CMPTYPE|TILE\d+|NAME\d+|VAL\d+|QUANTIZ|DITHER\d*|PCOUNT|GCOUNT|SIMPLE|EXTEND)"
    r"|T(FIELDS|TYPE\d+|FORM\d+))$"
)
# Cards that make a celestial WCS, distortions included; dates and observatory positions are the header's own business.
WCS_CARD = re.compile(
    r"^(WCSAXES|CTYPE\d|CRVAL\d|CRPIX\d|CDELT\d|CUNIT\d|CROTA\d|CD\d_\d|PC\d_\d|PV\d_\d+|PS\d_\d+|LONPOLE|LATPOLE|RADESYS|EQUINOX"
    r"|(A|B|AP|BP)_(ORDER|DMAX|\d_\d))$"
)


def plain_header(*headers: fits.Header) -> dict[str, Any]:
    """Cards as a dict of plain values (later headers win); a card that cannot be parsed is kept as its text.

    COMMENT, HISTORY and blank cards become one string each, a line per card; undefined values become None.
    """
    plain: dict[str, Any] = {}
    lines: dict[str, list[str]] = {}
    for header in headers:
        for card in header.cards:
            keyword, value = _parsed(card)
            if keyword in _COMMENTARY:
                lines.setdefault(keyword, []).append(str(value))
            else:
                plain[keyword] = None if isinstance(value, fits.card.Undefined) else value
    plain.update({keyword: "\n".join(text) for keyword, text in lines.items() if "".join(text).strip()})
    return plain


def _parsed(card: fits.Card) -> tuple[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # odd cards are what this is for
        try:
            return card.keyword, card.value
        except (fits.VerifyError, ValueError):
            text = str(card.image)
            return text[:8].strip(), text[9:].strip()


def wcs_of(header: Mapping[str, Any]) -> WCS | None:
    """The celestial WCS of a header, from its WCS cards alone; None where there is none that can be used.

    Strings in place of numbers (seen in the wild) make it unusable: better no WCS than a wrong one.
    """
    cards = {k: v for k, v in header.items() if isinstance(k, str) and WCS_CARD.match(k) and v is not None}
    if "CTYPE1" not in cards or "CTYPE2" not in cards:
        return None
    numeric = re.compile(r"^(CRVAL|CRPIX|CDELT|CROTA|CD\d|PC\d|PV\d|[AB]P?_)")
    if any(numeric.match(k) and isinstance(v, str) for k, v in cards.items()):
        return None
    matrix = [cards[k] for k in ("CD1_1", "CD1_2", "CD2_1", "CD2_2") if k in cards]
    if matrix and not any(matrix):
        return None  # wcslib would take the unit matrix
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wcslib mends what it can and says so; judged below
            wcs = WCS(fits.Header(cards))
            corner = wcs.pixel_to_world_values(0.0, 0.0) if wcs.has_celestial and wcs.naxis == 2 else (np.nan,)
    except Exception:
        # wcslib and astropy raise a dozen kinds here; all of them say the same.
        return None
    return wcs if np.all(np.isfinite(corner)) else None


def _card(keyword: str, value: Any) -> fits.Card | None:
    """A FITS card, or None where FITS cannot hold keyword or value as they are."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (str, bool, int, float, type(None))) or value != value or value in (float("inf"), float("-inf")):
        return None
    long = len(keyword) > 8 or not re.fullmatch(r"[A-Z0-9_-]+", keyword)
    if long and not re.fullmatch(r"[A-Z0-9_ .:/-]+", keyword):
        return None
    if isinstance(value, str) and (value != value.rstrip() or not value.isascii() or not value.isprintable()):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", fits.verify.VerifyWarning)
            card = fits.Card(f"HIERARCH {keyword}" if long else keyword, value)
            _ = card.image
    except (ValueError, fits.VerifyError, fits.verify.VerifyWarning):
        return None
    return card


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def _header_of(image: CCDData) -> tuple[fits.Header, dict[str, Any]]:
    """The primary header, and what of `meta` FITS cards cannot hold (NaN, nested values, non-ASCII or long text)."""
    header, odd = fits.Header(), {}
    if image.wcs is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "some non-standard WCS keywords were excluded": see `relax`
            own = image.wcs.to_header(relax=True)
        header.extend((card for card in own.cards if WCS_CARD.match(card.keyword)), strip=False)
    meta = image.meta if not isinstance(image.meta, fits.Header) else plain_header(image.meta)
    for key, value in meta.items():
        keyword = str(key).upper().removeprefix("HIERARCH ").strip()
        if _STRUCTURAL.match(keyword) or keyword in _OURS or (image.wcs is not None and WCS_CARD.match(keyword)):
            continue
        if keyword in _COMMENTARY:
            text = str(value).encode("ascii", "replace").decode()
            header.extend((fits.Card(keyword, line) for line in text.splitlines()), strip=False)
        elif (card := _card(keyword, value)) is not None:
            header.append(card, end=True)
        else:
            odd[str(key)] = value
    header[_FORMAT_CARD] = (1, "version of this layout")
    header[_WCS_CARD] = (image.wcs is not None, "do the WCS cards describe these pixels?")
    header[_META_CARD] = (bool(odd), "more metadata, as JSON, in HDU META")
    header["BUNIT"] = str(image.unit)
    return header, odd


def _bits(mask: np.ndarray) -> np.ndarray:
    """The mask as uint32; TypeError where astropy has turned its bits into booleans."""
    if mask.dtype.kind == "b" and mask.any():
        raise TypeError(
            "this image's mask is boolean: astropy's CCDData drops the bits of any mask it is given; make the image as a"
            " payloads.image.MaskedImage"
        )
    return np.asarray(mask).astype(np.uint32)


def ccd_to_hdus(image: CCDData) -> fits.HDUList:
    """Primary image float32; HDU MASK uint32; HDU VARIANCE float32; HDU META for what cards cannot hold.

    TypeError where the mask is boolean."""
    header, odd = _header_of(image)
    hdus = fits.HDUList([fits.PrimaryHDU(np.asarray(image.data, dtype=np.float32), header=header)])
    if image.mask is not None:
        names = fits.Header(header_cards())
        hdus.append(fits.ImageHDU(_bits(image.mask), header=names, name="MASK"))
    if image.uncertainty is not None:
        variance = image.uncertainty.represent_as(VarianceUncertainty).array
        hdus.append(fits.ImageHDU(np.asarray(variance, dtype=np.float32), name="VARIANCE"))
    if odd:
        text = json.dumps(odd, default=_jsonable, ensure_ascii=True)
        hdus.append(fits.ImageHDU(np.frombuffer(text.encode(), dtype=np.uint8), name="META"))
    return hdus


def _native(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))


def _meta_of(hdus: fits.HDUList, header: dict[str, Any]) -> dict[str, Any]:
    with_wcs = bool(header.get(_WCS_CARD))
    meta = {
        k: v for k, v in header.items() if k not in _OURS and not _STRUCTURAL.match(k) and not (with_wcs and WCS_CARD.match(k))
    }
    if header.get(_META_CARD):
        meta.update(json.loads(hdus["META"].data.tobytes()))
    return meta


def hdus_to_ccd(hdus: fits.HDUList, component: str | None = None) -> Any:
    """Inverse of `ccd_to_hdus`; with `component`, only `header` (meta as a dict) or `wcs`."""
    header = plain_header(hdus[0].header)
    if component == "wcs":
        return wcs_of(header) if header.get(_WCS_CARD) else None
    meta = _meta_of(hdus, header)
    if component == "header":
        return meta
    return MaskedImage(
        _native(hdus[0].data),
        unit=u.Unit(header.get("BUNIT") or "", format=None),
        wcs=wcs_of(header) if header.get(_WCS_CARD) else None,
        meta=meta,
        mask=_native(hdus["MASK"].data) if "MASK" in hdus else None,
        uncertainty=VarianceUncertainty(_native(hdus["VARIANCE"].data)) if "VARIANCE" in hdus else None,
    )


class CCDDataFormatter(FormatterV2):
    """`astropy.nddata.CCDData` as one FITS file."""

    default_extension = ".fits"
    supported_extensions = FITS_EXTENSIONS
    can_read_from_local_file = True
    can_read_from_stream = True

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """The image, or one component of it."""
        with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
            return hdus_to_ccd(hdus, component)

    def read_from_stream(self, stream: BinaryIO, component: str | None = None, expected_size: int = -1) -> Any:
        """A component by range reads; the whole image is better read from a local copy."""
        if component is None:
            return NotImplemented
        with fits.open(stream, memmap=False, lazy_load_hdus=True) as hdus:
            return hdus_to_ccd(hdus, component)

    def write_local_file(self, in_memory_dataset: CCDData, uri: ResourcePath) -> None:
        """Write to a local path (the datastore moves it into place)."""
        ccd_to_hdus(in_memory_dataset).writeto(uri.ospath, overwrite=True)

    def add_provenance(self, in_memory_dataset: CCDData, /, *, provenance: DatasetProvenance | None = None) -> CCDData:
        """Ids of dataset, quantum and inputs as `LSST BUTLER …` cards; the caller's image is not touched."""
        cards = (provenance or DatasetProvenance()).to_flat_dict(
            self.dataset_ref, prefix="LSST BUTLER", sep=" ", simple_types=True, max_inputs=3000
        )
        meta = {k: v for k, v in dict(in_memory_dataset.meta).items() if not str(k).startswith("LSST BUTLER")}
        stamped = _shallow(in_memory_dataset)
        stamped.meta = meta | cards
        return stamped


def _shallow(image: CCDData) -> CCDData:
    """A second CCDData over the same arrays."""
    twin = type(image)(image.data, unit=image.unit, wcs=image.wcs, mask=image.mask)
    twin.uncertainty = image.uncertainty
    return twin


class CCDDataDelegate(StorageClassDelegate):
    """Components of a CCDData in memory."""

    def getComponent(self, composite: CCDData, componentName: str) -> Any:  # noqa: N802 - the Butler's name
        """`header` (a dict) or `wcs`."""
        return dict(composite.meta) if componentName == "header" else getattr(composite, componentName)


class NoPixels(ValueError):
    """A FITS file without a two-dimensional image."""


def image_hdu(hdus: Iterable[Any]) -> Any:
    """The first HDU with two-dimensional pixels; NoPixels where there is none."""
    for hdu in hdus:
        if getattr(hdu, "is_image", False) and len(hdu.shape) == 2:
            return hdu
    raise NoPixels("no HDU with two-dimensional pixels")


def raw_header(hdus: fits.HDUList) -> dict[str, Any]:
    """Header of a raw frame: the primary one, overlaid by that of the HDU that holds the pixels."""
    hdu = image_hdu(hdus)
    return plain_header(hdu.header) if hdu is hdus[0] else plain_header(hdus[0].header, hdu.header)


def open_raw(content: bytes) -> fits.HDUList:
    """A FITS file's bytes, plain or packed by gzip or bzip2, as HDUs in memory. FrameTooLarge where there is no end to them.

    Unpacked at once: astropy seeks in a packed file, which unpacks it again and again.
    """
    return fits.open(unpacked(content), memmap=False)


class RawFormatter(FormatterV2):
    """A raw frame as the observatory wrote it: pixels in ADU of the type in the file, the full header, no WCS, never written."""

    default_extension = ".fits"
    supported_extensions = FITS_EXTENSIONS
    can_read_from_local_file = True

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """The frame as CCDData, or its header; `wcs` is None: whether a raw header's WCS is to be believed, the camera says."""
        if component == "wcs":
            return None
        with open_raw(Path(path).read_bytes()) as hdus:
            meta = raw_header(hdus)
            if component == "header":
                return meta
            return CCDData(_native(image_hdu(hdus).data), unit=u.adu, meta=meta)


class TableFormatter(ParquetFormatter):
    """A table as Parquet, read by the thread that asks for it.

    The Butler's own gives Arrow's threads a Python file to read ahead from. One of them that lets go of it while the interpreter
    ends is killed by it, and the whole program with it: "terminate called without an active exception" (apache/arrow#34314).
    """

    can_read_from_uri = False  # through fsspec: again a Python file

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """The table as Arrow has it; of a component, or of some columns, what the Butler's formatter makes of them."""
        if component or self.file_descriptor.parameters:
            return super().read_from_local_file(path, component, expected_size)
        table = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
        metadata = table.schema.metadata or {}
        if b"lsst::arrow::rowcount" in metadata:  # the Butler wrote it: astropy's own description of the columns is not wanted
            metadata.pop(b"table_meta_yaml", None)
        return table.replace_schema_metadata(metadata)


class AlertPacketsFormatter(FormatterV2):
    """An Avro object container file, as bytes."""

    default_extension = ".avro"
    supported_extensions = frozenset({".avro"})
    can_read_from_stream = True

    def read_from_stream(self, stream: BinaryIO, component: str | None = None, expected_size: int = -1) -> bytes:
        """The whole file."""
        return stream.read()

    def to_bytes(self, in_memory_dataset: bytes) -> bytes:
        """As they are."""
        return in_memory_dataset

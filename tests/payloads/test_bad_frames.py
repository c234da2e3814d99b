"""Files that are no frames, of every kind: each is set aside with its reason, and the rest goes on."""

from __future__ import annotations

import bz2
import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from payloads import packed
from payloads.camera import Camera
from payloads.frames import Reason
from payloads.ingest import ingest
from tests.payloads.test_ingest import listed


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def headless(path: Path) -> None:
    path.write_bytes(path.read_bytes()[2880:])


ZEROS = 1 << 24


def bomb(path: Path, pack: Callable[[bytes], bytes]) -> None:
    """A good frame, and after it 400 MB of zeros in a few kB; both kinds of file may be packed in parts."""
    path.write_bytes(pack(path.read_bytes()) + pack(bytes(ZEROS)) * 25)


def tiles(path: Path, *, naxis1: int | None = None, first: bytes | None = None) -> None:
    """The frame packed by tiles; its header, or its first tile, changed."""
    with fits.open(path) as hdus:
        image = fits.CompImageHDU(hdus[0].data, hdus[0].header, compression_type="GZIP_1")
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(path, overwrite=True)
    with fits.open(path, disable_image_compression=True) as hdus:
        rows, header = list(hdus[1].data["COMPRESSED_DATA"]), hdus[1].header.copy()
    rows[0] = rows[0] if first is None else np.frombuffer(first, np.uint8)
    header["ZNAXIS1"] = naxis1 or header["ZNAXIS1"]
    column = fits.Column(name="COMPRESSED_DATA", format="PB()", array=np.array(rows, dtype=object))
    table = fits.BinTableHDU.from_columns([column], header=header)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)


BAD: dict[str, tuple[dict[str, Any], Callable[[Path], Any] | None, Reason]] = {
    "truncated": ({}, truncated, Reason.TRUNCATED),
    "cut in the header": ({}, lambda p: p.write_bytes(p.read_bytes()[:1000]), Reason.NOT_FITS),
    "zero length": ({}, lambda p: p.write_bytes(b""), Reason.EMPTY),
    "not FITS": ({}, lambda p: p.write_text("a letter to the editor\n" * 500), Reason.NOT_FITS),
    "without its header": ({}, headless, Reason.NOT_FITS),
    "no pixels": (
        {},
        lambda p: fits.PrimaryHDU(header=fits.Header({"INSTRUME": "Testcam"})).writeto(p, overwrite=True),
        Reason.NO_PIXELS,
    ),
    "wrong instrument": ({"INSTRUME": "Other"}, None, Reason.OTHER_INSTRUMENT),
    "keywords gone": ({"INSTRUME": None, "IMAGETYP": None}, None, Reason.OTHER_INSTRUMENT),
    "wrong shape": ({"pixels": np.zeros((60, 80), np.uint16)}, None, Reason.WRONG_SHAPE),
    "all NaN": ({"pixels": np.full((60, 88), np.nan, np.float32)}, None, Reason.NO_SIGNAL),
    "unknown filter": ({"FILTER": "z9"}, None, Reason.UNKNOWN_FILTER),
    "unknown detector": ({"DETECTOR": 9}, None, Reason.UNKNOWN_DETECTOR),
    "no time": ({"DATE_OBS": None}, None, Reason.HEADER),
    "zeros without end, by gzip": ({}, lambda p: bomb(p, gzip.compress), Reason.TOO_LARGE),
    "zeros without end, by bzip2": ({}, lambda p: bomb(p, bz2.compress), Reason.TOO_LARGE),
    "a tile of zeros without end": ({}, lambda p: tiles(p, first=gzip.compress(bytes(ZEROS))), Reason.TOO_LARGE),
    "an image without end by its header": ({}, lambda p: tiles(p, naxis1=10**12), Reason.TOO_LARGE),
    "broken gzip": (
        {},
        lambda p: shutil.move(p, p.with_suffix(".fits.gz")) and p.with_suffix(".fits.gz").write_bytes(b"\x1f\x8b" + b"x" * 99),
        Reason.NOT_FITS,
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_file_is_set_aside_with_its_reason_and_the_rest_goes_on(
    home: Path, camera: Camera, write_frame: Callable[..., Path], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards, damage, reason = BAD[what]
    monkeypatch.setattr(packed, "MAX_BYTES", 1 << 20)
    folder = write_frame("good.fits", SEQNUM=1).parent
    bad = write_frame("bad.fits", SEQNUM=2, **cards)
    if damage is not None:
        damage(bad)
    (bad,) = [p for p in folder.iterdir() if p.name != "good.fits"]
    before = bad.read_bytes()
    report = ingest(home, camera, [folder])
    assert report.ingested == 1
    assert [r.reason for r in report.rejected] == [reason]
    (entry,) = listed(home)
    assert entry["reason"] == reason.value
    assert entry["path"] == str(bad)
    assert entry["detail"]
    assert (home / "aside" / entry["stored"]).read_bytes() == before
    assert bad.read_bytes() == before, "the original is not touched"

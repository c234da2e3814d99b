from __future__ import annotations

import bz2
import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty, VarianceUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from lsst.daf.butler import Butler, DatasetType

from payloads.formatters import ccd_to_hdus, hdus_to_ccd, image_hdu, plain_header, raw_header, wcs_of
from payloads.image import MaskedImage
from payloads.mask import Mask
from payloads.repository import open_repository


def tan() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [4.5, 3.5]
    wcs.wcs.cd = [[-1e-4, 2e-5], [2e-5, 1e-4]]
    wcs.wcs.set()
    return wcs


def image(**given: Any) -> CCDData:
    rng = np.random.default_rng(1)
    return MaskedImage(rng.normal(size=(6, 8)).astype(np.float32), unit=given.pop("unit", u.electron), **given)


def round_trip(ccd: CCDData, tmp_path: Path) -> CCDData:
    path = tmp_path / "image.fits"
    ccd_to_hdus(ccd).writeto(path)
    with fits.open(path, memmap=False) as hdus:
        found = hdus_to_ccd(hdus)
    assert isinstance(found, CCDData)
    return found


def test_pixels_mask_variance_unit_and_wcs_survive(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), dtype=np.uint32)
    mask[2, 3] = Mask.SAT | Mask.CLIPPED
    mask[0, 0] = 1 << 31
    ccd = image(mask=mask, uncertainty=VarianceUncertainty(np.full((6, 8), 2.5, np.float32)), wcs=tan(), unit="adu / s")
    back = round_trip(ccd, tmp_path)
    np.testing.assert_array_equal(back.data, ccd.data)
    assert back.data.dtype == np.float32
    assert back.data.dtype.isnative
    np.testing.assert_array_equal(back.mask, mask)
    assert back.mask.dtype == np.uint32
    assert isinstance(back.uncertainty, VarianceUncertainty)
    np.testing.assert_array_equal(back.uncertainty.array, np.full((6, 8), 2.5))
    assert back.unit == u.adu / u.s
    np.testing.assert_allclose(back.wcs.pixel_to_world_values(1, 2), tan().pixel_to_world_values(1, 2), atol=1e-12)


def test_image_without_mask_variance_or_wcs_comes_back_without(tmp_path: Path) -> None:
    back = round_trip(image(unit=u.dimensionless_unscaled), tmp_path)
    assert back.mask is None
    assert back.uncertainty is None
    assert back.wcs is None
    assert back.unit == u.dimensionless_unscaled


def test_boolean_mask_is_refused_because_its_bits_are_lost(tmp_path: Path) -> None:
    bits = np.full((6, 8), Mask.SAT, dtype=np.uint32)
    assert CCDData(np.zeros((6, 8)), unit="adu", mask=bits).mask.dtype == bool, "astropy keeps bits now: MaskedImage can go"
    with pytest.raises(TypeError, match="MaskedImage"):
        ccd_to_hdus(CCDData(np.zeros((6, 8)), unit="adu", mask=bits))
    with pytest.raises(TypeError, match="which of"):
        image(mask=np.ones((6, 8), dtype=bool))
    with pytest.raises(ValueError, match="shape"):
        image(mask=bits[1:])


def test_copy_of_a_masked_image_keeps_the_bits() -> None:
    ccd = image(mask=np.full((6, 8), Mask.CLIPPED, dtype=np.uint32))
    assert (ccd.copy().mask == Mask.CLIPPED).all()
    assert (MaskedImage(ccd).mask == Mask.CLIPPED).all()


def test_standard_deviations_are_stored_as_variance(tmp_path: Path) -> None:
    back = round_trip(image(uncertainty=StdDevUncertainty(np.full((6, 8), 3.0))), tmp_path)
    np.testing.assert_allclose(back.uncertainty.array, 9.0)


def test_a_cube_of_coefficients_is_an_image_too(tmp_path: Path) -> None:
    cube = np.arange(60, dtype=float).reshape(3, 4, 5)
    np.testing.assert_array_equal(round_trip(CCDData(cube, unit=u.dimensionless_unscaled), tmp_path).data, cube)


META = {
    "EXPTIME": 30.0,
    "SEQNUM": 3,
    "OK": True,
    "NOTHING": None,
    "OBJECT": "M13",
    "PSFFWHM": np.float64(3.25),
    "NAN": math.nan,
    "INF": math.inf,
    "A VERY LONG KEYWORD WITH BLANKS": 12,
    "ANOTHER LONG KEYWORD": "value " * 30 + "end",
    "LONGTEXT": "word " * 40 + "end",
    "OBSERVER": "Pachón Ángel",
    "TRAILING": "blank ",
    "LIST": [1, 2, 3],
    "NESTED": {"a": {"b": 1.5}},
    "LSST BUTLER INPUT 0 RUN": "campaign/with/a/long/name/" * 5,
    "sub.key=odd": "x",
    "HISTORY": "line one\nline two",
    "COMMENT": "said",
}


def test_metadata_of_every_kind_survives(tmp_path: Path) -> None:
    back = round_trip(image(meta=dict(META)), tmp_path).meta
    for key, value in META.items():
        if isinstance(value, float) and math.isnan(value):
            assert math.isnan(back[key])
        else:
            assert back[key] == value, key
    assert set(back) == set(META)


def test_second_round_trip_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    once = round_trip(image(meta=dict(META), wcs=tan()), tmp_path)
    twice = round_trip(once, tmp_path / "a")
    assert str(twice.meta) == str(once.meta)


def test_wcs_cards_of_a_raw_header_do_not_become_the_wcs_of_a_product(tmp_path: Path) -> None:
    ccd = image()
    ccd.meta = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 1.0, "CRVAL2": 2.0, "CD1_1": 1e-4, "CD2_2": 1e-4}
    back = round_trip(ccd, tmp_path)
    assert back.wcs is None
    assert back.meta["CRVAL1"] == 1.0


def test_components_are_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    ccd_to_hdus(image(meta={"X": math.nan, "Y": 1}, wcs=tan(), mask=np.zeros((6, 8), np.uint32))).writeto(path)
    with fits.open(path, lazy_load_hdus=True) as hdus:
        assert hdus_to_ccd(hdus, "wcs").wcs.crval.tolist() == [150.0, 2.0]
        assert len(hdus._read_hdus if hasattr(hdus, "_read_hdus") else []) <= 1
    with fits.open(path) as hdus:
        header = hdus_to_ccd(hdus, "header")
    assert header["Y"] == 1
    assert math.isnan(header["X"])


@pytest.mark.parametrize(
    "cards",
    [
        {},
        {"CTYPE1": "Linear Unbinned ADC Pixels", "CTYPE2": "Linear Unbinned ADC Pixels", "CRVAL1": 1.0},
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": "124.6", "CRVAL2": "25.3", "CD1_1": "-3e-4", "CD2_2": "3e-4"},
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 1.0, "CRVAL2": 2.0, "CD1_1": 0.0, "CD2_2": 0.0, "CD1_2": 0.0},
    ],
    ids=["none", "not celestial", "strings", "singular"],
)
def test_a_wcs_that_cannot_be_used_is_no_wcs(cards: dict[str, Any]) -> None:
    assert wcs_of(cards) is None


def test_unparsable_card_is_kept_as_text() -> None:
    header = fits.Header.fromstring(
        "GOOD    =                    1".ljust(80) + "BAD     = 'unfinished".ljust(80) + "END".ljust(80)
    )
    plain = plain_header(header)
    assert plain["GOOD"] == 1
    assert "unfinished" in str(plain["BAD"])


def test_first_image_is_found_behind_an_empty_primary(tmp_path: Path) -> None:
    path = tmp_path / "multi.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(3))])
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    fits.HDUList(
        [fits.PrimaryHDU(header=fits.Header({"A": 1, "B": 1})), table, fits.ImageHDU(pixels, fits.Header({"B": 2}))]
    ).writeto(path)
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(image_hdu(hdus).data, pixels)
        header = raw_header(hdus)
    assert (header["A"], header["B"]) == (1, 2)


@pytest.fixture
def butler(home: Path) -> Butler:
    butler = open_repository(home / "repo", writeable=True, run="test")
    for name, storage_class in (("thing", "CCDData"), ("packets", "AlertPackets"), ("table", "ArrowAstropy")):
        butler.registry.registerDatasetType(DatasetType(name, (), storage_class, universe=butler.dimensions))
    return butler


def test_butler_stores_an_image_with_components_provenance_and_leaves_the_caller_s_alone(butler: Butler) -> None:
    ccd = image(meta={"KEY": 1}, wcs=tan())
    ref = butler.put(ccd, "thing")
    assert dict(ccd.meta) == {"KEY": 1}
    assert butler.get("thing").meta["LSST BUTLER ID"] == str(ref.id)
    assert butler.get("thing.header")["KEY"] == 1
    assert butler.get("thing.wcs").wcs.crval.tolist() == [150.0, 2.0]


def test_butler_stores_alert_packets_as_they_are(butler: Butler) -> None:
    ref = butler.put(b"Obj\x01 anything", "packets")
    assert butler.getURI(ref).getExtension() == ".avro"
    assert butler.get(ref) == b"Obj\x01 anything"


def _gz(path: Path) -> Path:
    packed = path.with_suffix(".fits.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def _bz2(path: Path) -> Path:
    packed = path.with_suffix(".fits.bz2")
    packed.write_bytes(bz2.compress(path.read_bytes()))
    return packed


def _fz(path: Path, kind: str = "RICE_1") -> Path:
    packed = path.with_suffix(".fits.fz")
    with fits.open(path) as hdus:
        image = fits.CompImageHDU(hdus[0].data, hdus[0].header, compression_type=kind)
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(packed)
    return packed


def _fz_of_gzip(path: Path) -> Path:
    return _fz(path, "GZIP_2")


def _gz_of_fz(path: Path) -> Path:
    return _gz(_fz(path))


@pytest.mark.parametrize("pack", [_gz, _bz2, _fz, _fz_of_gzip, _gz_of_fz])
def test_packed_raw_frame_is_read_as_the_plain_one(pack: Any, write_frame: Any, tmp_path: Path) -> None:
    from payloads.formatters import RawFormatter

    plain = write_frame()
    read = RawFormatter.read_from_local_file
    one, other = (read(object.__new__(RawFormatter), str(path)) for path in (plain, pack(plain)))
    np.testing.assert_array_equal(one.data, other.data)
    assert one.data.dtype == other.data.dtype == np.uint16
    assert one.wcs is None
    assert one.unit == u.adu
    assert {k: other.meta[k] for k in ("SEQNUM", "RA", "FILTER")} == {"SEQNUM": 1, "RA": 150.0, "FILTER": "r1"}


def test_a_table_is_read_without_arrow_s_threads(butler: Butler, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table({"id": np.arange(3), "flux": np.array([1.5, np.nan, -2.0], np.float32) * u.nJy, "band": ["g", "r", "i"]})
    butler.put(table, "table")
    monkeypatch.setattr("pyarrow.parquet.read_table", None)  # it reads ahead in threads
    found = butler.get("table")
    assert found.colnames == table.colnames == list(butler.get("table.columns"))
    assert butler.get("table.rowcount") == 3
    assert found["flux"].unit == u.nJy
    np.testing.assert_array_equal(found["flux"], table["flux"])
    assert list(found["band"]) == ["g", "r", "i"]

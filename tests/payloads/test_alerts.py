"""Alert packets: their schema, history, cut-outs, and that LSST's readers take them."""

from __future__ import annotations

import io
import json
import os
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import fastavro
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from payloads.alert_schema import printable, schema
from payloads.alerts import object_of_sources, packets, read_alerts, records, write_alerts
from payloads.association import associate, summarise
from payloads.cutouts import CutoutMaker
from payloads.dia_sources import SourceFlag
from payloads.mask import Mask

SHARED = Path(os.environ.get("PACHON_SHARED", Path(__file__).parents[3] / "shared"))
LSST_SCHEMAS = sorted((SHARED / "data/alerts/lsst_schema").glob("*/*/lsst.v*_*.alert.avsc"))
if (_package := find_spec("lsst.alert")) is not None:  # GPL, and no dependency of ours: lsst-alert-packet has the current schema
    LSST_SCHEMAS += [
        p for folder in _package.submodule_search_locations for p in Path(folder).glob("packet/schema/11/*/*.alert.avsc")
    ]
WCS_CARDS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRPIX1": 60.5,
    "CRPIX2": 40.5,
    "CRVAL1": 30.0,
    "CRVAL2": -20.0,
    "CD1_1": -1e-4,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 1e-4,
}


def sources(nights=(0, 30, 400, 500), objects=3):
    """The same objects on several nights, one visit each."""
    rows = len(nights) * objects
    night, which = np.repeat(np.arange(len(nights)), objects), np.tile(np.arange(objects), len(nights))
    return Table(
        {
            "diaSourceId": 1000 * (night + 1) + which,
            "visit": (night + 1).astype(np.int64),
            "detector": np.zeros(rows, np.int32),
            "midpointMjdTai": 60000.0 + np.array(nights)[night],
            "timeProcessedMjdTai": np.full(rows, 60600.0),
            "ra": 30 + 0.01 * which,
            "dec": np.full(rows, -20.0),
            "raErr": np.full(rows, 1e-5),
            "decErr": np.full(rows, 1e-5),
            "x": 20.0 + which,
            "y": np.full(rows, 30.0),
            "psfFlux": np.full(rows, 500.0),
            "psfFluxErr": np.full(rows, 20.0),
            "snr": np.full(rows, 25, np.float32),
            "reliability": np.full(rows, 0.9),
            "extendedness": np.where(which == 1, np.nan, 0.1),
            "isDipole": np.zeros(rows, bool),
            "isNegative": np.zeros(rows, bool),
            "band": np.full(rows, "r"),
            "flags": np.where(which == 2, int(Mask.SUSPECT) | int(SourceFlag.CENTROID_FAILED), 0),
        }
    )


def packed(visit=4, table=None, forced=None):
    table = sources() if table is None else table
    ids = associate(table)
    past = table.copy()
    past["diaObjectId"] = ids
    stamp = b"SIMPLE"
    made = packets(
        table[table["visit"] == visit],
        association=past["diaSourceId", "diaObjectId"],
        objects=summarise(table, ids),
        past=past,
        forced=forced,
        cutouts=lambda _x, _y: {f"cutout{name}": stamp for name in ("Difference", "Science", "Template")},
        processed_mjd_tai=60601.0,
        observation_reason="survey",
    )
    return list(made)


def test_packets_come_back_as_they_were_written():
    alerts = packed()
    back = read_alerts(write_alerts(alerts))
    assert [a["diaSourceId"] for a in back] == [4000, 4001, 4002]
    assert back[0]["diaSource"]["psfFlux"] == 500
    assert back[0]["diaSource"]["band"] == "r"
    assert back[0]["observation_reason"] == "survey"
    assert back[0]["cutoutScience"] == b"SIMPLE"
    assert back[0]["ssSource"] is None


def test_the_same_packets_make_the_same_bytes():
    assert write_alerts(packed()) == write_alerts(packed())


def test_history_holds_the_twelve_months_before_and_not_the_source_itself():
    """Nights 0 and 30 are more than a year before night 500; night 400 is not."""
    alerts = packed()
    assert [s["diaSourceId"] for s in alerts[1]["prvDiaSources"]] == [3001]
    assert packed(visit=2)[0]["prvDiaSources"][0]["diaSourceId"] == 1000
    assert packed(visit=1)[0]["prvDiaSources"] is None


def test_a_packet_carries_its_object():
    alert = packed()[2]
    assert alert["diaSource"]["diaObjectId"] == alert["diaObject"]["diaObjectId"] == 1002
    assert alert["diaObject"]["nDiaSources"] == 4
    assert alert["diaObject"]["r_psfFluxMean"] == pytest.approx(500)
    assert alert["diaObject"]["validityStartMjdTai"] == 60601.0


def test_a_source_of_no_object_has_neither_object_nor_history():
    table = sources()
    table["reliability"][table["diaSourceId"] == 4000] = 0.0
    alert = packed(table=table)[0]
    assert alert["diaObject"] is None
    assert alert["prvDiaSources"] is None
    assert alert["diaSource"]["diaObjectId"] is None


def test_missing_numbers_are_null_and_flags_have_their_names():
    rows = records(sources()[:3], "diaSource")
    assert rows[1]["extendedness"] is None
    assert rows[0]["pixelFlags"] is False
    assert rows[2]["pixelFlags"] is True
    assert rows[2]["pixelFlags_suspect"] is True
    assert rows[2]["pixelFlags_bad"] is False
    assert rows[2]["centroid_flag"] is True


def test_sources_are_looked_up_in_any_order():
    association = Table({"diaSourceId": np.array([7, 3, 5]), "diaObjectId": np.array([70, 30, 50])})
    assert object_of_sources(np.array([5, 4, 3, 9]), association).tolist() == [50, 0, 30, 0]
    assert object_of_sources(np.array([5]), association[:0]).tolist() == [0]


def forced_fluxes(table):
    """Of the first and the last object in each visit."""
    kept = table[np.isin(table["diaSourceId"] % 10, (0, 2))]
    rows = kept["visit", "detector", "midpointMjdTai", "ra", "dec", "psfFlux", "psfFluxErr", "band"].copy()
    rows["diaObjectId"] = 1000 + kept["diaSourceId"] % 10
    rows["psfFlux"][rows["visit"] == 4] = np.nan
    return rows


def test_forced_photometry_of_twelve_months_and_of_this_visit_comes_along():
    """Nights 0 and 30 are more than a year before night 500."""
    alerts = packed(forced=forced_fluxes(sources()))
    assert [(f["visit"], f["psfFlux"]) for f in alerts[0]["prvDiaForcedSources"]] == [(3, 500.0), (4, None)]
    assert alerts[1]["prvDiaForcedSources"] is None
    assert alerts[2]["prvDiaForcedSources"][0]["diaObjectId"] == 1002
    ids = [f["diaForcedSourceId"] for a in alerts for f in a["prvDiaForcedSources"] or []]
    assert len(set(ids)) == 4
    assert packed(forced=forced_fluxes(sources()))[0]["prvDiaForcedSources"][0]["diaForcedSourceId"] == ids[0]


def test_source_that_is_a_known_body_says_which_and_where_it_should_be():
    table = sources()
    table["ssObjectId"] = np.where(table["diaSourceId"] == 4001, 77, 0)
    table["ephRa"] = table["ra"] + 1e-4
    alerts = packed(table=table)
    assert [a["ssSource"] and a["ssSource"]["ssObjectId"] for a in alerts] == [None, 77, None]
    body = alerts[1]["ssSource"]
    assert body["ephRa"] == pytest.approx(30.0101)
    assert (body["galLat"], body["eclBeta"]) == (
        pytest.approx(-72.76, abs=0.02),
        pytest.approx(-30.05, abs=0.02),
    )  # by spherical trigonometry
    assert alerts[0]["diaSource"]["ssObjectId"] is None
    assert read_alerts(write_alerts(alerts))[1]["ssSource"]["designation"] is None


def test_a_frame_without_alerts_makes_a_file_without_packets():
    assert read_alerts(write_alerts([])) == []


def test_a_packet_that_the_schema_does_not_allow_is_refused():
    alert = packed()[0]
    alert["diaSource"] |= {"ra": None}
    with pytest.raises(fastavro.validation.ValidationError, match="ra"):
        write_alerts([alert])


def test_every_field_of_the_schema_says_what_it_is():
    folder = resources.files("payloads").joinpath("alert_schema")
    for path in folder.glob("*.avsc"):
        content = json.loads(path.read_text())
        assert content["namespace"] == "pachon.v1"
        assert all(field["doc"].endswith((".", "].")) for field in content["fields"])
    assert schema()["name"] == "pachon.v1.alert"


def maker(**more):
    rng = np.random.default_rng(2)
    data = rng.normal(size=(80, 120)).astype(np.float32)
    mask = np.zeros((80, 120), np.uint32)
    mask[30, 50] = np.uint32(Mask.SAT)
    return data, CutoutMaker(data, data**2, mask, WCS_CARDS, unit="electron", **more)


def test_cutouts_are_fits_with_image_variance_mask_psf_and_wcs():
    data, cutter = maker()
    content = cutter.cut(50.2, 29.9, np.full((15, 15), 1 / 225))
    assert len(content) % 2880 == 0
    with fits.open(io.BytesIO(content)) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "VARIANCE", "MASK", "PSF"]
        np.testing.assert_array_equal(hdus[0].data, data[15:46, 35:66])
        np.testing.assert_allclose(hdus["VARIANCE"].data, data[15:46, 35:66] ** 2)
        assert hdus["MASK"].data[15, 15] == int(Mask.SAT)
        assert hdus["MASK"].header["MP_SAT"] == 1
        assert hdus["PSF"].data.sum() == pytest.approx(1)
        assert (hdus[0].header["CORNERX"], hdus[0].header["CORNERY"]) == (35, 15)
        ours = WCS(hdus[0].header).pixel_to_world_values(15, 15)
    np.testing.assert_allclose(ours, WCS(fits.Header(WCS_CARDS)).pixel_to_world_values(50, 30))


def test_cutouts_over_the_border_are_filled_with_no_data():
    data, cutter = maker()
    with fits.open(io.BytesIO(cutter.cut(2.0, 79.0))) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "VARIANCE", "MASK"]
        np.testing.assert_array_equal(hdus[0].data[15, 13:], data[79, :18])
        assert np.isnan(hdus[0].data[16:]).all()
        assert (hdus["MASK"].data[:, :13] == int(Mask.NO_DATA)).all()


def test_cutouts_smaller_than_promised_are_refused():
    with pytest.raises(ValueError, match="at least 30"):
        maker(size_px=29)


def test_a_packet_fits_the_size_that_brokers_are_promised():
    """DMTN-102: 82 kB without the schema."""
    _, cutter = maker()
    stamp = np.zeros((25, 25))
    alert = packed()[0] | {
        "cutoutDifference": cutter.cut(60, 40, stamp),
        "cutoutScience": cutter.cut(60, 40, stamp),
        "cutoutTemplate": cutter.cut(60, 40),
    }
    alert["prvDiaSources"] = alert["prvDiaSources"] * 20
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema(), alert)
    assert len(out.getvalue()) < 90_000
    alert["prvDiaSources"] = alert["prvDiaSources"][:1]
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema(), alert)
    assert len(out.getvalue()) < 82_000


@pytest.mark.skipif(not LSST_SCHEMAS, reason=f"no LSST alert schema under {SHARED}/data/alerts/lsst_schema")
@pytest.mark.parametrize("path", LSST_SCHEMAS, ids=[p.stem for p in LSST_SCHEMAS])
def test_packets_validate_and_encode_in_the_lsst_schema_and_lsst_readers_read_ours(path):
    lsst = fastavro.schema.load_schema(path)
    table = sources()
    table["ssObjectId"] = np.where(table["diaSourceId"] == 4001, 77, 0)
    alerts = packed(table=table, forced=forced_fluxes(table))
    assert fastavro.validation.validate_many(alerts, lsst)
    out = io.BytesIO()
    fastavro.writer(out, lsst, alerts)
    out.seek(0)
    assert [a["diaSource"]["psfFlux"] for a in fastavro.reader(out)] == [500, 500, 500]
    read = list(fastavro.reader(io.BytesIO(write_alerts(alerts)), reader_schema=lsst))
    assert read[2]["diaObject"]["nDiaSources"] == 4
    assert read[1]["prvDiaSources"][0]["diaSourceId"] == 3001
    assert read[0]["cutoutTemplate"] == b"SIMPLE"
    ours = {f["name"]: f["type"] for r in ("diaSource", "diaObject") for f in _record(schema(), r)["fields"]}
    theirs = {f["name"]: f["type"] for r in ("diaSource", "diaObject") for f in _record(lsst, r)["fields"]}
    newer = {"exposureTime", "trailNdata", "dipoleNdata", "bboxSize"} if "v11_1" not in path.name else set()
    assert {n: kind for n, kind in ours.items() if theirs.get(n) not in (kind, ["null", kind]) and n not in newer} == {}


def _record(whole, name):
    """The definition of a nested record, wherever load_schema has put it."""
    if isinstance(whole, dict):
        if whole.get("type") == "record" and whole["name"].split(".")[-1] == name:
            return whole
        whole = list(whole.values())
    if isinstance(whole, list):
        return next((found for part in whole if (found := _record(part, name)) is not None), None)
    return None


def test_reader_made_from_the_printed_schema_by_apaches_own_library_reads_ours():
    avro_schema = pytest.importorskip("avro.schema", reason="Apache's avro is not installed, and no dependency of ours")
    from avro.datafile import DataFileReader
    from avro.io import DatumReader

    printed = avro_schema.parse(json.dumps(printable(schema())))
    with DataFileReader(io.BytesIO(write_alerts(packed())), DatumReader(readers_schema=printed)) as reader:
        assert [a["diaSourceId"] for a in reader] == [4000, 4001, 4002]


def test_printed_schema_is_whole_and_a_fresh_reader_is_made_from_it():
    """As another program would: the schema's text alone, parsed anew."""
    parsed = fastavro.parse_schema(json.loads(json.dumps(printable(schema()))))
    alerts = packed(forced=forced_fluxes(sources()))
    read = list(fastavro.reader(io.BytesIO(write_alerts(alerts)), reader_schema=parsed))
    assert [a["diaSourceId"] for a in read] == [4000, 4001, 4002]
    assert read[0]["prvDiaForcedSources"][0]["visit"] == 3

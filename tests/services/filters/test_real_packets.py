"""Filters on packets that others made: ZTF's and Rubin's, each in its own schema."""

import json
import os
from pathlib import Path

import fastavro
import pytest

from services.filters.filter import Filter
from services.filters.kinds import kind_of

SHARED = Path(os.environ.get("PACHON_SHARED", Path(__file__).parents[4] / "shared"))
ALERTS = SHARED / "data" / "alerts"
ZTF = {name: sorted((ALERTS / name).glob("*.avro")) for name in ("ztf_one_field_20181129", "ztf_v4_20231012")}
RUBIN = ALERTS / "rubin_v10_0_20251231.parquet"
RUBIN_SCHEMA = ALERTS / "lsst_schema" / "10" / "0" / "lsst.v10_0.alert.avsc"


def ztf(name):
    packets, schema = [], None
    for path in ZTF[name]:
        with path.open("rb") as stream:
            reader = fastavro.reader(stream)
            schema = reader.writer_schema
            packets += list(reader)
    return packets, kind_of(schema)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.skipif(not found, reason=f"no {ALERTS / n}")) for n, found in ZTF.items()]
)
def test_filters_run_on_real_ztf_packets(name):
    packets, kind = ztf(name)
    good = Filter.of("candidate.magpsf < 19 and candidate.rb > 0.5 and count(prv_candidates, magpsf is not null) >= 1", kind)
    expected = [
        p["candidate"]["magpsf"] < 19
        and p["candidate"]["rb"] > 0.5
        and any(c["magpsf"] is not None for c in p["prv_candidates"] or [])
        for p in packets
    ]
    assert [good.passes(p) for p in packets] == expected
    assert 0 < sum(expected) < len(packets)
    by_text = Filter.of("candidate.isdiffpos in ['t', '1'] and candidate.ssdistnr is not null", kind)
    assert [by_text.passes(p) for p in packets] == [
        p["candidate"]["isdiffpos"] in ("t", "1") and p["candidate"]["ssdistnr"] is not None for p in packets
    ]


@pytest.mark.skipif(not (RUBIN.exists() and RUBIN_SCHEMA.exists()), reason=f"no {RUBIN} with its schema")
def test_filters_run_on_real_rubin_packets_and_one_reader_reads_theirs_and_ours():
    import pyarrow.parquet

    from payloads.alert_schema import schema
    from services.filters.cli import predefined

    packets = pyarrow.parquet.read_table(RUBIN).to_pylist()
    theirs = fastavro.schema.load_schema(RUBIN_SCHEMA)
    kind = kind_of(theirs)
    bright = Filter.of("diaSource.snr > 10 and diaSource.reliability > 0.5", kind)
    expected = [(p["diaSource"]["snr"] or 0) > 10 and (p["diaSource"]["reliability"] or 0) > 0.5 for p in packets]
    assert [bright.passes(p) for p in packets] == expected
    history = Filter.of("count(prvDiaForcedSources, psfFlux > 3 * psfFluxErr) >= 2", kind)
    assert [history.passes(p) for p in packets] == [
        sum(f["psfFlux"] > 3 * f["psfFluxErr"] for f in p["prvDiaForcedSources"] or [] if f["psfFlux"] is not None) >= 2
        for p in packets
    ]
    ours = kind_of(json.loads(json.dumps(schema(), default=str)))
    for name, text in predefined().items():
        assert {Filter.of(text, k).passes(p) for k in (kind, ours) for p in packets} <= {True, False}, name


@pytest.mark.skipif(not all(ZTF.values()), reason=f"no packets under {ALERTS}")
def test_one_reader_reads_packets_of_ztf_of_lsst_and_ours():
    from payloads.alerts import read_alerts, write_alerts
    from tests.payloads.test_alerts import packed

    sample = RUBIN_SCHEMA.parent / "sample_data" / "fakeAlert.avro"
    files = [*(path.read_bytes() for paths in ZTF.values() for path in paths), sample.read_bytes(), write_alerts(packed())]
    read = [packet for content in files for packet in read_alerts(content)]
    theirs = {packet["objectId"][:3] for packet in read if "candidate" in packet}
    assert theirs == {"ZTF"}
    assert [packet["diaSourceId"] for packet in read if "diaSource" in packet][-3:] == [4000, 4001, 4002]
    assert len(read) == len(files) + 2

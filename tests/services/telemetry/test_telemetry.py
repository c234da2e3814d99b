"""Reports for the OCS: in order, once each, with their reasons where they are refused."""

import json
import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.telemetry import tables as t
from services.telemetry.reports import DetectorQuality, JobResult
from services.telemetry.telemetry import Telemetry, TelemetryBook


@pytest.fixture(params=["sqlite", "postgresql"])
def telemetry(request, make_home):
    """In each kind of database."""
    url = request.getfixturevalue("fresh_database") if request.param == "postgresql" else None
    with Telemetry.open(make_home(telemetry={"database": url} if url else {})) as made:
        yield made


def quality(visit=5, detector=1, **more):
    return DetectorQuality(instrument="cam", visit=visit, detector=detector, **more)


def test_reports_are_kept_in_their_order_and_each_key_once(telemetry):
    assert telemetry.send(quality(psf_fwhm_arcsec=0.7, wcs_rms_mas=12.0))
    assert telemetry.send(JobResult(command="c1", state="SUCCEEDED", summary={"quanta": 3}))
    assert not telemetry.send(quality(psf_fwhm_arcsec=0.9))
    told = telemetry.read()
    assert [(r.position, r.key) for r in told] == [(1, "detector/cam/5/1"), (2, "job/c1")]
    assert told[0].values["psf_fwhm_arcsec"] == 0.7
    assert [r.position for r in telemetry.read(after=1)] == [2]
    assert telemetry.state() == (2, 0)


def test_many_workers_at_once_leave_no_gap(telemetry):
    def work(detector):
        for visit in range(6):
            telemetry.send(quality(visit, detector))
            telemetry.send(quality(visit, 0))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.position for r in telemetry.read()] == list(range(1, 37))


def test_what_was_not_measured_is_null():
    assert quality(depth_mag=math.nan, sky_njy_arcsec2=math.inf).model_dump(mode="json")["depth_mag"] is None
    assert JobResult(command="c", state="FAILED", summary={"a": math.nan}).summary == {"a": None}


def test_mistakes_name_the_nearest_known_field_and_the_reason():
    with pytest.raises(ValidationError, match="did you mean 'psf_fwhm_arcsec'"):
        quality(psf_fwhm_arcsecs=0.7)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        quality(visit=-1)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*DetectorQuality.model_fields, "x"]),
        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)),
        max_size=4,
    )
)
def test_any_report_is_json_without_nan_or_refused_with_the_field(values):
    try:
        made = quality(**{"visit": 1, "detector": 1} | {k: v for k, v in values.items() if k != "instrument"})
    except ValidationError as error:
        assert error.errors()[0]["msg"]  # noqa: PT017 - either is well, nothing else is
        return
    json.dumps(made.model_dump(mode="json"), allow_nan=False)


def test_report_is_one_line_of_json(make_home):
    with Telemetry.open(make_home()) as telemetry:
        telemetry.send(quality(zeropoint_mag=31.5))
        document = json.loads(telemetry.read()[0].as_json())
    assert (document["position"], document["values"]["zeropoint_mag"], document["kind"]) == (1, 31.5, "detector")


def test_tables_are_those_of_the_migrations(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with TelemetryBook.open(f"sqlite:///{tmp_path}/book.sqlite3").read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "tm_version"})
        assert compare_metadata(context, t.metadata) == []

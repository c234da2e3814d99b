from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from astro_metadata_translator.tests import read_test_file
from astropy.io import fits

from payloads.camera import NO_FILTER, Camera
from payloads.formatters import plain_header
from payloads.headers import HeaderError, OtherInstrument, UnknownDetector, UnknownFilter, observe
from payloads.pointing import nominal_wcs

HEADER = {
    "INSTRUME": "Testcam",
    "IMAGETYP": "OBJECT",
    "DATE-OBS": "2026-03-02T03:00:00",
    "EXPTIME": 30.0,
    "FILTER": "r1",
    "OBJECT": "field",
    "SEQNUM": 7,
    "DETECTOR": 1,
    "RA": 150.0,
    "DEC": 2.0,
    "AIRMASS": 1.2,
}


def with_rules(camera: Camera, **rules: Any) -> Camera:
    """The camera with some header rules replaced; `_name` replaces a key of the camera itself."""
    content = camera.to_dict()
    for name, rule in rules.items():
        if name.startswith("_"):
            content[name[1:]] = rule
        elif rule is None:
            content["headers"].pop(name, None)
        else:
            content["headers"][name] = rule
    return Camera.from_dict(content)


def test_plain_header_becomes_an_observation(camera: Camera) -> None:
    o = observe(HEADER, "x.fits", camera)
    assert (o.observation_type, o.physical_filter, o.band, o.object, o.detector) == ("science", "r1", "r", "field", 1)
    assert (o.day_obs, o.seq_num, o.exposure) == (20260301, 7, 2026030100007)
    assert (o.ra_deg, o.dec_deg, o.airmass, o.exposure_time_s, o.dark_time_s) == (150.0, 2.0, 1.2, 30.0, 30.0)
    assert o.datetime_begin.scale == "tai"
    assert o.datetime_begin.utc.isot == "2026-03-02T03:00:00.000"
    assert (o.datetime_end - o.datetime_begin).sec == pytest.approx(30.0)
    assert o.wcs is None


@pytest.mark.parametrize(
    ("rule", "cards", "utc"),
    [
        ({"keyword": "DATE-OBS"}, {"DATE-OBS": "2021-09-17 T09:35:30"}, "2021-09-17T09:35:30.000"),
        ({"keyword": "DATE-OBS"}, {"DATE-OBS": " 2021-09-17 09:35:30.25Z"}, "2021-09-17T09:35:30.250"),
        ({"keyword": "DATE-OBS", "join": "UT"}, {"DATE-OBS": "2019-03-26", "UT": "02:27:31.13 "}, "2019-03-26T02:27:31.130"),
        ({"keyword": "MJD", "unit": "mjd"}, {"MJD": 58568.5}, "2019-03-26T12:00:00.000"),
        ({"keyword": "D", "format": "%d/%m/%Y %H.%M"}, {"D": "26/03/2019 12.30"}, "2019-03-26T12:30:00.000"),
        ({"keyword": "DATE-OBS", "offset_h": 7}, {"DATE-OBS": "2019-03-26T20:00:00"}, "2019-03-27T03:00:00.000"),
        ({"keyword": "DATE-OBS", "scale": "tai"}, {"DATE-OBS": "2019-03-26T00:00:37"}, "2019-03-26T00:00:00.000"),
    ],
)
def test_times_are_read_as_cameras_write_them(camera: Camera, rule: dict[str, Any], cards: dict[str, Any], utc: str) -> None:
    o = observe(HEADER | cards, "x.fits", with_rules(camera, datetime_begin=rule))
    assert o.datetime_begin.utc.isot == utc


@pytest.mark.parametrize(
    ("unit", "ra", "degrees"),
    [("hourangle", "10:00:00", 150.0), ("deg", "150:30:00", 150.5), (None, -10.0, 350.0), ("rad", 1, 57.29578)],
)
def test_angles_are_read_in_every_unit(camera: Camera, unit: str | None, ra: Any, degrees: float) -> None:
    rule = {"keyword": "RA"} | ({"unit": unit} if unit else {})
    assert observe(HEADER | {"RA": ra}, "x.fits", with_rules(camera, tracking_ra=rule)).ra_deg == pytest.approx(degrees)


def test_day_turns_where_the_camera_says(camera: Camera) -> None:
    late, early = HEADER | {"DATE-OBS": "2026-03-02T12:00:01"}, HEADER | {"DATE-OBS": "2026-03-02T11:59:59"}
    assert observe(early, "x", camera).day_obs == 20260301
    assert observe(late, "x", camera).day_obs == 20260302
    assert observe(early, "x", with_rules(camera, _day_obs_offset_h=5)).day_obs == 20260302


def test_number_can_come_from_the_file_name_with_an_offset_for_each_type(camera: Camera) -> None:
    rule = with_rules(camera, seq_num={"filename": r"_(\d+)[BL]\."}, seq_num_offset={"bias": 1000})
    assert observe(HEADER, "night_12L.fits", rule).seq_num == 12
    assert observe(HEADER | {"IMAGETYP": "BIAS"}, "night_12B.fits", rule).seq_num == 1012
    with pytest.raises(HeaderError, match=r"name 'night\.fits' does not match"):
        observe(HEADER, "night.fits", rule)


def test_number_without_a_rule_follows_from_the_time_alone(camera: Camera) -> None:
    bare = with_rules(camera, seq_num=None)
    first = observe(HEADER, "a.fits", bare)
    assert first.seq_num == observe(HEADER | {"OBJECT": "other"}, "z.fits", bare).seq_num
    assert observe(HEADER | {"DATE-OBS": "2026-03-02T03:00:06"}, "b.fits", bare).seq_num == first.seq_num + 1
    assert observe(HEADER | {"DATE-OBS": "2026-03-02T11:59:59"}, "c.fits", bare).seq_num == 14400


def test_exposure_time_of_another_unit_is_converted(camera: Camera) -> None:
    rule = with_rules(camera, exposure_time={"keyword": "EXPTIME", "unit": "ms"})
    assert observe(HEADER | {"EXPTIME": 2500}, "x", rule).exposure_time_s == 2.5


def test_frame_that_sees_no_light_needs_no_filter_and_no_pointing(camera: Camera) -> None:
    o = observe({k: v for k, v in HEADER.items() if k not in ("FILTER", "RA", "DEC")} | {"IMAGETYP": "bias"}, "x", camera)
    assert (o.physical_filter, o.band, o.ra_deg, o.on_sky) == (NO_FILTER, NO_FILTER, None, False)


def test_detector_may_be_given_by_name(camera: Camera) -> None:
    assert observe(HEADER | {"DETECTOR": "D1"}, "x", camera).detector == 1


def test_wcs_of_the_header_is_used_only_where_the_camera_allows_it(camera: Camera) -> None:
    cards = plain_header(nominal_wcs(camera, 1, 150.0, 2.0).to_header())
    assert observe(HEADER | cards, "x", camera).wcs is not None
    assert observe(HEADER | cards, "x", with_rules(camera, _wcs="nominal")).wcs is None


def test_science_frame_with_a_wcs_needs_no_pointing(camera: Camera) -> None:
    cards = plain_header(nominal_wcs(camera, 1, 150.0, 2.0).to_header())
    o = observe({k: v for k, v in (HEADER | cards).items() if k not in ("RA", "DEC")}, "x", camera)
    assert o.ra_deg is None
    assert o.wcs is not None


@pytest.mark.parametrize(
    ("cards", "kind", "says"),
    [
        ({"INSTRUME": "Other"}, OtherInstrument, "INSTRUME is 'Other'"),
        ({"INSTRUME": None}, OtherInstrument, "INSTRUME is missing"),
        ({"FILTER": "z9"}, UnknownFilter, "no filter 'z9'; it has"),
        ({"FILTER": None}, UnknownFilter, "no filter None"),
        ({"DETECTOR": 9}, UnknownDetector, "no detector 9; it has"),
        ({"DETECTOR": "D9"}, UnknownDetector, "no detector 'D9'"),
        ({"DETECTOR": None}, UnknownDetector, "does not say which"),
        ({"DATE-OBS": None}, HeaderError, "keyword DATE-OBS is missing"),
        ({"DATE-OBS": "yesterday"}, HeaderError, "'yesterday' is not a time"),
        ({"DATE-OBS": "1970-01-01T20:00:00"}, HeaderError, "day_obs 19700101 lies outside"),
        ({"IMAGETYP": "PARTY"}, HeaderError, "'party' is none of"),
        ({"IMAGETYP": "  "}, HeaderError, "keyword IMAGETYP is missing or empty"),
        ({"EXPTIME": None}, HeaderError, "exposure_time"),
        ({"EXPTIME": -1.0}, HeaderError, "exposure_time"),
        ({"EXPTIME": "long"}, HeaderError, "long"),
        ({"SEQNUM": 99999}, HeaderError, "seq_num 99999"),
        ({"SEQNUM": "A7"}, HeaderError, "A7"),
        ({"RA": None}, HeaderError, "where on the sky"),
        ({"RA": "ten"}, HeaderError, "'ten' is not an angle"),
        ({"DEC": 95.0}, HeaderError, "95.0 is no declination"),
        ({"EXPTIME": "nan"}, HeaderError, "exposure_time: nan is no time"),
        ({"EXPTIME": "inf"}, HeaderError, "exposure_time: inf is no time"),
        ({"EXPTIME": "1e300"}, HeaderError, "exposure_time: 1e"),
        ({"EXPTIME": 1e12}, HeaderError, "exposure_time: 1000000000000.0 is no time"),
        ({"RA": "nan"}, HeaderError, "tracking_ra: nan is no right ascension"),
        ({"RA": 1e300}, HeaderError, "is no right ascension"),
        ({"DEC": "nan"}, HeaderError, "tracking_dec: nan is no declination"),
    ],
)
def test_header_that_cannot_be_used_says_which_keyword_and_why(
    camera: Camera, cards: dict[str, Any], kind: type[Exception], says: str
) -> None:
    header = {k: v for k, v in (HEADER | cards).items() if v is not None}
    with pytest.raises(kind, match=says.replace("(", r"\(")) as caught:
        observe(header, "x.fits", camera)
    assert type(caught.value) is kind


# Real headers


def lowell(shared_data: Path, name: str) -> dict[str, Any]:
    return plain_header(fits.getheader(shared_data / "raw_lowell42" / f"{name}.fits.bz2"))


def test_lowell42_science_frame(shared_data: Path) -> None:
    o = observe(lowell(shared_data, "science/20190326.0126"), "20190326.0126.fits.bz2", Camera.load("lowell42"))
    assert (o.observation_type, o.physical_filter, o.day_obs, o.seq_num) == ("science", "VR", 20190326, 126)
    assert o.datetime_begin.utc.isot == "2019-03-26T02:27:31.130"
    assert o.wcs is None, "its WCS cards are strings"
    assert o.ra_deg == pytest.approx(15 * (8 + 18 / 60 + 29.9 / 3600))
    assert o.dec_deg == pytest.approx(25 + 19 / 60 + 59 / 3600)


@pytest.mark.parametrize(("name", "kind", "band"), [("bias/20190326.0001", "bias", "VR"), ("flat/20190326.0100", "flat", "V")])
def test_lowell42_calibration_frames(shared_data: Path, name: str, kind: str, band: str) -> None:
    o = observe(lowell(shared_data, name), "x", Camera.load("lowell42"))
    assert (o.observation_type, o.band) == (kind, band)


def test_lowell42_scale_and_rotation_are_those_of_the_solution_that_its_header_carries_as_text(shared_data: Path) -> None:
    header = lowell(shared_data, "science/20190326.0126")
    camera = Camera.load("lowell42")
    o = observe(header, "x", camera)
    nominal = nominal_wcs(camera, 0, 0.0, 0.0, o.rotation_deg).wcs.cd
    solved = [[float(header[f"CD{i}_{j}"]) for j in (1, 2)] for i in (1, 2)]
    for ours, theirs in zip(nominal, solved, strict=True):
        assert list(ours) == pytest.approx(theirs, abs=2e-7)


def test_orion_numbers_are_unique_within_a_day_and_independent_of_what_else_is_there(shared_data: Path) -> None:
    camera = Camera.load("orion")
    files = sorted((shared_data / "raw_m13_orion").rglob("*.fit.bz2"))
    seen = [observe(plain_header(fits.getheader(f)), f.name, camera) for f in files]
    assert len({o.exposure for o in seen}) == len(files)
    light = next(o for f, o in zip(files, seen, strict=True) if f.name == "9_17_21_M131L20.fit.bz2")
    assert (light.observation_type, light.seq_num, light.day_obs) == ("science", 1, 20210917)
    assert light.datetime_begin.utc.isot == "2021-09-17T21:35:30.000"


@pytest.mark.parametrize(
    ("name", "translator", "expected"),
    [
        ("fitsheader-decam", "DecamTranslator", ("science", 20130831)),
        ("fitsheader-hsc", "HscTranslator", ("science", 20131102)),
    ],
)
def test_real_header_is_read_by_a_class_of_astro_metadata_translator(
    shared_data: Path, camera: Camera, name: str, translator: str, expected: tuple[str, int]
) -> None:
    header = read_test_file(str(shared_data / "schedule_headers/headers" / f"{name}.yaml"))
    content = camera.to_dict() | {"headers": {"translator": translator}, "wcs": "nominal"}
    content["detectors"] = [content["detectors"][0] | {"id": n, "name": f"D{n}"} for n in range(112)]
    content["filters"] = [{"name": "z DECam SDSS c0004 9260.0 1520.0", "band": "z"}, {"name": "HSC-I", "band": "i"}]
    o = observe(header, "x.fits", Camera.from_dict(content))
    assert (o.observation_type, o.day_obs) == expected
    assert 0 < o.seq_num < 1 << 14
    assert o.ra_deg is not None


@pytest.mark.parametrize("said", ["nan", "inf"])
def test_an_airmass_that_is_no_number_is_not_known(camera: Camera, said: str) -> None:
    assert observe(HEADER | {"AIRMASS": said}, "x.fits", camera).airmass is None

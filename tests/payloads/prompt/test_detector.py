"""One simulated visit through the prompt chain: what it finds, what it knows of it, and what it tells."""

from __future__ import annotations

from dataclasses import replace

import fitsio
import numpy as np
import pytest
from scipy.spatial import cKDTree

from payloads.alerts import read_alerts, write_alerts
from payloads.camera import parse_section
from payloads.isr import Plane
from payloads.mask import Mask, any_set
from payloads.prompt.detector import _reduced, process_detector
from payloads.prompt.packets import alert_packets
from payloads.prompt.preloaded import small_masters, smooth_field
from payloads.prompt.products import write_planes
from payloads.prompt.result import PromptResult
from payloads.prompt.simulated import SimulatedVisit, simulate_visit
from payloads.simulator.config import SurveyConfig

SURVEY = {
    "seed": 11,
    "camera": {"detectors": [1, 1], "size": [600, 600], "amplifiers": 4},
    "nights": {"count": 2, "templates": 1},
    "fields": [{"name": "prompt", "visits": {"r": 1}}],
    "stars": {"per_detector": 360},
    "galaxies": {"per_detector": 100},
    "transients": {"per_field": 30, "snr": [6, 40]},
}


@pytest.fixture(scope="module")
def visit() -> SimulatedVisit:
    return simulate_visit(SurveyConfig.from_dict(SURVEY))


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def result(visit: SimulatedVisit, stages: list[str]) -> PromptResult:
    return process_detector([visit.raw], visit.preloaded, processed_mjd_tai=60_000.0, on_stage=stages.append)


def nearest(visit: SimulatedVisit, result: PromptResult) -> tuple[np.ndarray, np.ndarray]:
    """Distance in pixels and row of the nearest true change of each source."""
    true = cKDTree(np.c_[visit.truth["x"], visit.truth["y"]])
    return true.query(np.c_[result.dia_sources["x"], result.dia_sources["y"]])


def test_strong_changes_are_found_and_told(visit, result):
    told = cKDTree(np.c_[result.dia_sources["x"], result.dia_sources["y"]][result.told])
    x, y = (np.rint(np.asarray(visit.truth[name])).astype(int) for name in ("x", "y"))
    seen = ~any_set(result.template_mask[y, x], Mask.NO_DATA, x.shape)
    strong = visit.truth[(np.abs(visit.truth["snr"]) > 10) & seen]
    distance, _ = told.query(np.c_[strong["x"], strong["y"]])
    assert len(strong) > 20
    assert (distance < 2).mean() >= 0.9


def test_what_is_told_is_true(visit, result):
    distance, row = nearest(visit, result)
    true = (distance < 2) & (np.abs(np.asarray(visit.truth["snr"]))[row] > 2)
    assert result.told.sum() > 20
    assert (~true & result.told).sum() <= 1


def test_sources_join_the_objects_known_before_and_the_others_found_their_own(visit, result):
    distance, row = nearest(visit, result)
    truth, sources = visit.truth, result.dia_sources
    sure = (distance < 1.5) & (np.abs(np.asarray(truth["snr"]))[row] > 8) & (np.asarray(truth["kind"])[row] != "asteroid")
    known = np.asarray(truth["known"])[row]
    expected = np.where(known != 0, known, np.asarray(sources["diaSourceId"]))
    assert (known[sure] != 0).sum() > 3
    assert np.array_equal(np.asarray(sources["diaObjectId"])[sure], expected[sure])
    assert set(np.asarray(result.objects["diaObjectId"])) == set(np.asarray(sources["diaObjectId"])) - {0}
    repeated = result.objects[np.isin(np.asarray(result.objects["diaObjectId"]), known[known != 0])]
    assert (np.asarray(repeated["nDiaSources"]) == 2).all()


def test_predicted_bodies_are_named_and_belong_to_no_object(visit, result):
    named = result.dia_sources[np.asarray(result.dia_sources["ssObjectId"]) != 0]
    assert len(named) >= 2
    assert not np.asarray(named["diaObjectId"]).any()
    _, row = nearest(visit, result)
    mine = np.asarray(result.dia_sources["ssObjectId"]) != 0
    assert np.array_equal(np.asarray(visit.truth["id"])[row[mine]], np.asarray(named["ssObjectId"]))
    bodies = visit.preloaded.bodies
    for source in named:
        ra, dec = (float(values[bodies.id == source["ssObjectId"]][0]) for values in (bodies.ra, bodies.dec))
        assert (source["ephRa"], source["ephDec"]) == (ra, dec)
        away = np.hypot((source["ra"] - ra) * np.cos(np.radians(dec)), source["dec"] - dec) * 3600
        assert source["ephOffset"] == pytest.approx(away, rel=1e-4)
    assert np.isnan(result.dia_sources["ephRa"][~mine]).all()


def test_each_known_object_of_the_frame_has_a_forced_flux(visit, result):
    inside = visit.preloaded.known.objects
    assert len(result.forced) >= 0.9 * len(inside)
    assert np.isfinite(result.forced["psfFlux"]).mean() > 0.9


def test_quality_says_what_the_simulator_knows(visit, result):
    q = result.quality
    assert abs(q.zeropoint_mag - visit.zeropoint_mag) < 0.02
    assert q.wcs_rms_mas < 50
    assert q.wcs_stars >= 5
    assert 20 < q.depth_mag < 27
    there = visit.wcs.pixel_to_world_values(300, 300)
    assert np.hypot(*(np.array(result.wcs.world_to_pixel_values(*there)) - 300)) < 0.1


def test_stages_are_told_as_they_begin_and_timed(result, stages):
    assert list(result.timings_s) == stages
    assert all(seconds > 0 for seconds in result.timings_s.values())


def test_whoever_raises_at_a_stage_stops_the_visit(visit):
    class Late(Exception):
        pass

    def deadline(stage: str) -> None:
        if stage == "characterize":
            raise Late

    with pytest.raises(Late):
        process_detector([visit.raw], visit.preloaded, processed_mjd_tai=60_000.0, on_stage=deadline)


def test_alerts_of_the_result_are_valid_packets(visit, result):
    packets = alert_packets(result, visit.preloaded.known, processed_mjd_tai=60_000.0)
    again = read_alerts(write_alerts(packets))
    assert [p["diaSourceId"] for p in again] == np.asarray(result.dia_sources["diaSourceId"])[result.told].tolist()
    assert any(p["prvDiaSources"] for p in again)
    assert all(p["cutoutDifference"] for p in again)


def test_planes_are_written_to_a_sixteenth_of_the_noise(result, tmp_path):
    write_planes(result, tmp_path / "planes.fits")
    written = fitsio.FITS(str(tmp_path / "planes.fits"))["DIFFERENCE"]
    step = written.read_header()["PSCALE"]
    noise = np.sqrt(np.median(result.difference.variance))
    assert 0.03 * noise < step < 0.13 * noise
    assert np.abs(written.read() * step - result.difference.data).max() <= 0.51 * step


def test_a_frame_is_divided_by_the_illumination(visit):
    ny, nx = visit.preloaded.detector.shape
    slope = np.linspace(0.9, 1.1, nx, dtype=np.float32) * np.ones((ny, 1), np.float32)
    plane = Plane(data=slope, mask=np.zeros((ny, nx), np.uint32))
    bare, even = (_reduced(visit.raw, replace(visit.preloaded, illumination=smooth_field(p))) for p in (None, plane))
    good = bare.mask == 0
    np.testing.assert_allclose((bare.data / even.data)[good], slope[good], rtol=1e-3)


def test_fringes_are_taken_off_a_frame(visit):
    ny, nx = visit.preloaded.detector.shape
    y, x = np.mgrid[:ny, :nx]
    pattern = np.sin(2 * np.pi * (x + 0.4 * y) / 40).astype(np.float32)
    plain = _reduced(visit.raw, visit.preloaded)
    good = plain.mask == 0
    sky = float(np.median(plain.data[good]))
    gain = visit.preloaded.detector.amplifiers[0].gain
    fringed = replace(visit.raw, pixels=_with(visit, 0.05 * sky * pattern / gain))
    rms = {}
    for name, fringe in (("left", None), ("taken", pattern.astype(np.float16))):
        change = _reduced(fringed, replace(visit.preloaded, fringe=fringe)).data - plain.data
        rms[name] = float(np.sum((change * pattern)[good]) / np.sum(pattern[good] ** 2)) / sky
    assert rms["left"] == pytest.approx(0.05, rel=0.2)  # the flat divides it
    assert abs(rms["taken"]) < 0.1 * rms["left"]


def _with(visit, light_adu):
    """The raw frame with more light in its imaging pixels."""
    pixels = visit.raw.pixels.astype(np.int64)
    for amplifier in visit.preloaded.detector.amplifiers:
        pixels[parse_section(amplifier.data)] += np.rint(light_adu[parse_section(amplifier.place)]).astype(np.int64)
    return np.clip(pixels, 0, 65535).astype(visit.raw.pixels.dtype)


def test_what_is_preloaded_is_kept_small_and_means_the_same(visit):
    ny, nx = 8, 8
    rng = np.random.default_rng(1)
    noise = np.full((ny, nx), 1.0, np.float32)
    bias = Plane(data=rng.normal(0, 3, (ny, nx)).astype(np.float32), mask=np.zeros((ny, nx), np.uint32), variance=noise)
    dark = Plane(data=np.full((ny, nx), 5000.3, np.float32), mask=np.full((ny, nx), Mask.BAD, np.uint32), variance=noise)
    bright = Plane(data=dark.data, mask=bias.mask, variance=noise)
    small = small_masters(bias=bias, dark=dark, flat=bias)
    assert small["bias"].data.dtype == small["dark"].data.dtype == np.float16
    assert small["flat"].data is bias.data
    assert small["bias"].mask is small["flat"].mask
    assert (small["flat"].mask == Mask.BAD).all()
    np.testing.assert_allclose(small["bias"].data, bias.data, atol=0.1)
    # Four units of rounding at 5000 would be more than the noise of a pixel that is used.
    assert small_masters(bias=bright, dark=None, flat=None)["bias"].data.dtype == np.float32
    kinds = Plane(data=bias.data, mask=np.diag(np.full(ny, Mask.BAD | Mask.HOT | Mask.COLUMN, np.uint32)))
    mapped = small_masters(bias=bias, dark=None, flat=bias, bad_pixels=kinds)
    assert set(mapped) == {"bias", "dark", "flat"}
    assert np.array_equal(mapped["flat"].mask, np.diag(np.full(ny, Mask.BAD, np.uint8)))
    assert mapped["flat"].mask.dtype == np.uint8
    assert not bias.mask.any(), "what was given is as it was"
    again = small_masters(**small)
    assert all(again[name].data is small[name].data and again[name].mask is small[name].mask for name in small)

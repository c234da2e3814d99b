"""What was measured of amplifiers, defects, fields and cubes: good ones pass, wrong ones are told by amplifier."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.pipe.base import Pipeline

from payloads.camera import Amplifier, Detector
from payloads.isr import Plane
from payloads.mask import Mask
from payloads.verification_others import TABLES, bad_pixels, crosstalk, cube, field, linearity, photon_transfer


def amplifier(name, x):
    place = f"[{x}:{x + 63},1:64]"
    return Amplifier(name=name, data=place, place=place, gain=1.5, read_noise=6.0, saturation=6e4)


DETECTOR = Detector(id=0, name="D", amplifiers=(amplifier("A", 1), amplifier("B", 65)))
PTC = {"gain": {"A": 1.5, "B": 1.51}, "gain_err": {"A": 0.003, "B": 0.003}, "read_noise": {"A": 6.0, "B": 6.1}}
LINEARITY = {"correction": {"A": [0.0, 0.01], "B": [0.0, 0.012]}, "rms": {"A": 1e-3, "B": 1e-3}}
CROSSTALK = {"coefficients": [[0.0, 2e-4], [1e-4, 0.0]], "errors": [[0.0, 1e-5], [1e-5, 0.0]]}


def failed(checks):
    return {(c.name, c.amplifier) for c in checks if c.decisive and not c.passed}


def plane(data, mask=None):
    return Plane(data=np.asarray(data, np.float32), mask=np.zeros(np.shape(data), np.uint32) if mask is None else mask)


@pytest.mark.parametrize(("judge", "good"), [(photon_transfer, PTC), (linearity, LINEARITY), (crosstalk, CROSSTALK)])
def test_good_measurements_pass_as_the_first_and_beside_the_certified(judge, good):
    assert failed(judge(good, None, DETECTOR)) == set()
    assert failed(judge(good, good, DETECTOR)) == set()


def test_a_gain_that_is_wrong_unknown_or_changed_is_told_by_amplifier():
    wrong = {**PTC, "gain": {"A": 1.5, "B": 3.0}}
    assert failed(photon_transfer(wrong, None, DETECTOR)) == {("gain_ratio", "B")}
    assert ("gain_ratio", "A") in failed(photon_transfer({**PTC, "gain": {"B": 1.5}}, None, DETECTOR))
    assert failed(photon_transfer({**PTC, "gain": {"A": 1.6, "B": 1.51}}, PTC, DETECTOR)) == {("change_gain", "A")}


def test_a_curve_that_is_wrong_and_a_coefficient_that_is_too_large_or_unknown_are_told():
    curve = {**LINEARITY, "correction": {"A": [0.0, 0.4], "B": [0.0, 0.012]}}
    assert failed(linearity(curve, None, DETECTOR)) == {("correction", "A")}
    loud = {**CROSSTALK, "coefficients": [[0.0, 0.2], [float("nan"), 0.0]]}
    assert failed(crosstalk(loud, None, DETECTOR)) == {("coefficient", "A"), ("coefficient", "B")}
    moved = {**CROSSTALK, "coefficients": [[0.0, 5e-3], [1e-4, 0.0]]}
    assert failed(crosstalk(moved, CROSSTALK, DETECTOR)) == {("change_coefficient", "A")}


def test_a_map_of_too_many_bad_pixels_is_refused():
    few, many = np.zeros((64, 128), np.uint32), np.zeros((64, 128), np.uint32)
    few[:2, :4] = Mask.BAD
    many[:, :20] = Mask.BAD
    zeros = np.zeros((64, 128))
    assert failed(bad_pixels(plane(zeros, few), None, DETECTOR)) == set()
    assert failed(bad_pixels(plane(zeros, many), plane(zeros, few), DETECTOR)) == {("bad", "A"), ("change_bad", "A")}


def test_a_field_is_normalised_smooth_and_whole():
    smooth = np.ones((64, 128)) * np.linspace(0.97, 1.03, 128)
    assert failed(field(plane(smooth), plane(smooth), DETECTOR, centre=1.0, reach=0.25)) == set()
    assert ("median", "") in failed(field(plane(smooth * 2), None, DETECTOR, centre=1.0, reach=0.25))
    steep = np.ones((64, 128)) * np.linspace(0.5, 1.5, 128)
    assert {("low", ""), ("high", "")} <= failed(field(plane(steep), None, DETECTOR, centre=1.0, reach=0.25))
    gone = smooth.copy()
    gone[:, 64:] = np.nan
    assert ("lost", "B") in failed(field(plane(gone), None, DETECTOR, centre=1.0, reach=0.25))


def test_a_cube_has_a_normalised_plane_for_each_wavelength():
    good = np.ones((3, 8, 8))
    assert failed(cube(good, [500.0, 501.0, 502.0])) == set()
    assert failed(cube(good, [500.0, 502.0])) == {("planes", "")}
    assert failed(cube(good, [500.0, 502.0, 501.0])) == {("ascending", "")}
    dark = good.copy()
    dark[1] *= 0.5
    assert failed(cube(dark, [500.0, 501.0, 502.0])) == {("median", "")}


def test_every_product_has_a_task_that_verifies_it():
    graph = Pipeline.from_uri("resource://payloads/pipelines/verification.yaml#monthly").to_graph()
    made = {edge.parent_dataset_type_name for task in graph.tasks.values() for edge in task.outputs.values()}
    assert {f"{name}_verification" for name in (*TABLES, "bias", "dark", "flat", "bad_pixels", "mono_flat")} <= made
    assert {f"{name}_verification" for name in ("synthetic_flat", "illumination", "fringe")} <= made

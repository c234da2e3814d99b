from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from payloads.camera import parse_section
from payloads.simulator.camera import build_camera
from payloads.simulator.signal import ADC_MAX, bleed, collect, cosmic_rays, read_out

STEADY = {"bias_drift_adu": 0.0, "bias_structure_adu": 0.0, "crosstalk": 0.0}


def detector_of(survey):
    return build_camera(survey).detectors[0]


def flat_bias(detector):
    return np.zeros(detector.shape, dtype=np.float32)


def test_bias_frames_scatter_by_the_read_noise_of_each_amplifier(small_survey):
    survey = small_survey(camera=STEADY)
    detector = detector_of(survey)
    rng = np.random.default_rng(1)
    frames = [read_out(flat_bias(detector), flat_bias(detector), detector, survey.camera, rng).astype(float) for _ in range(2)]
    for amplifier in detector.amplifiers:
        for section in (amplifier.data, amplifier.overscan):
            at = parse_section(section)
            measured = np.std(frames[0][at] - frames[1][at]) / np.sqrt(2)
            expected = np.sqrt((amplifier.read_noise / amplifier.gain) ** 2 + 1 / 12)  # and the rounding
            assert measured == pytest.approx(expected, rel=4 / np.sqrt(2 * frames[0][at].size))


def test_slope_of_the_photon_transfer_curve_is_the_gain(small_survey):
    survey = small_survey(camera=STEADY)
    detector = detector_of(survey)
    rng = np.random.default_rng(2)
    levels = [1000.0, 8000.0, 20_000.0, 40_000.0]
    for amplifier in detector.amplifiers:
        at = parse_section(amplifier.data)
        over = parse_section(amplifier.overscan)
        mean, variance = [], []
        for level in levels:
            pair = [
                read_out(
                    collect(np.full(detector.shape, level, np.float32), None, rng),
                    flat_bias(detector),
                    detector,
                    survey.camera,
                    rng,
                )
                for _ in range(2)
            ]
            a, b = (p.astype(float) for p in pair)
            mean.append(0.5 * (a[at].mean() + b[at].mean() - a[over].mean() - b[over].mean()))
            variance.append(np.var(a[at] - b[at]) / 2)
        slope = np.polyfit(mean, variance, 1)[0]
        assert 1 / slope == pytest.approx(amplifier.gain, rel=0.04)
        assert mean == pytest.approx(np.array(levels) / amplifier.gain, rel=2e-3)


def test_crosstalk_is_what_the_matrix_of_the_camera_says(small_survey):
    survey = small_survey(camera=STEADY | {"crosstalk": 0.02, "read_noise_electron": 2.0})
    detector = detector_of(survey)
    source = 1
    electrons = flat_bias(detector)
    bright = electrons[parse_section(detector.amplifiers[source].place)]
    bright[20:40, 30:50] = 30_000.0
    raw = read_out(electrons, flat_bias(detector), detector, survey.camera, np.random.default_rng(3)).astype(float)
    signal = 30_000.0 / detector.amplifiers[source].gain
    matrix = np.array(detector.crosstalk)
    assert np.abs(matrix).max() > 0.01
    for victim, amplifier in enumerate(detector.amplifiers):
        segment = raw[parse_section(amplifier.data)]
        seen = segment[20:40, 30:50].mean() - segment[60:].mean()
        expected = signal if victim == source else matrix[victim, source] * signal
        assert seen == pytest.approx(expected, abs=0.35)


def test_crosstalk_can_be_taken_off_with_the_matrix_of_the_camera(small_survey):
    survey = small_survey(camera=STEADY | {"crosstalk": 0.002, "read_noise_electron": 0.1})
    detector = detector_of(survey)
    electrons = np.random.default_rng(4).uniform(0, 60_000, detector.shape).astype(np.float32)
    raw = read_out(electrons, flat_bias(detector), detector, survey.camera, np.random.default_rng(5)).astype(float)
    segments = np.stack([raw[parse_section(a.data)] - raw[parse_section(a.overscan)].mean() for a in detector.amplifiers])
    mixed = np.eye(len(detector.amplifiers)) + np.array(detector.crosstalk)
    clean = np.tensordot(np.linalg.inv(mixed), segments, 1)
    truth = np.stack([electrons[parse_section(a.place)] / a.gain for a in detector.amplifiers])
    assert np.std(segments - truth) > 20
    assert np.std(clean - truth) < 0.5  # rounding, and a tenth of an electron


def test_full_pixels_stop_at_the_full_well_and_are_above_the_saturation_of_the_camera(small_survey):
    survey = small_survey(camera=STEADY)
    detector = detector_of(survey)
    raw = read_out(
        np.full(detector.shape, 1e7, np.float32), flat_bias(detector), detector, survey.camera, np.random.default_rng(6)
    ).astype(float)
    for amplifier in detector.amplifiers:
        above = raw[parse_section(amplifier.data)] - raw[parse_section(amplifier.overscan)].mean()
        assert above.min() > amplifier.saturation
        assert above.mean() == pytest.approx(survey.camera.full_well_adu, rel=1e-3)
    assert raw.max() <= ADC_MAX


def test_bias_structure_is_in_the_data_and_the_level_in_the_overscan_too(small_survey):
    survey = small_survey(camera={"bias_structure_adu": 5.0, "read_noise_electron": 0.5, "bias_drift_adu": 0.0})
    detector = detector_of(survey)
    structure = np.zeros(detector.shape, np.float32)
    structure[:, ::2] = 40.0
    raw = read_out(flat_bias(detector), structure, detector, survey.camera, np.random.default_rng(7)).astype(float)
    for amplifier in detector.amplifiers:
        data, over = raw[parse_section(amplifier.data)], raw[parse_section(amplifier.overscan)]
        assert data[:, ::2].mean() - data[:, 1::2].mean() == pytest.approx(40.0, abs=0.1)
        assert np.abs(over - np.median(over)).max() < 5
        assert data[:, 1::2].mean() == pytest.approx(over.mean(), abs=0.1)


def test_cosmic_rays_come_as_often_as_asked_and_leave_tracks():
    rng = np.random.default_rng(8)
    images = [cosmic_rays((300, 200), 20.0, rng) for _ in range(40)]
    tracks = [label(image > 0, structure=np.ones((3, 3)))[1] for image in images]
    assert np.mean(tracks) == pytest.approx(20.0, rel=0.15)
    assert np.mean([(image > 0).sum() for image in images]) > 2 * np.mean(tracks)
    assert min(image.min() for image in images) == 0.0


def test_a_full_pixel_bleeds_both_ways_along_its_column_and_keeps_its_charge():
    signal = np.full((101, 5), 100.0, np.float32)
    signal[50, 2] = 1000.0 + 10 * 900.0
    signal[49, 2] = 1000.0 + 4 * 900.0
    after = bleed(signal, 1000.0)
    assert signal[50, 2] == 10_000.0, "the input is left as it was"
    assert after.max() <= 1000.0
    assert after.sum() == pytest.approx(signal.sum())
    full = np.flatnonzero(after[:, 2] >= 999.0)
    assert (full.min(), full.max()) == (49 - 7, 50 + 7)
    np.testing.assert_array_equal(np.delete(after, 2, axis=1), 100.0)


def test_two_full_stars_in_one_column_share_the_room_that_is_left():
    signal = np.zeros((40, 1), np.float32)
    signal[10] = signal[14] = 6 * 1000.0
    after = bleed(signal, 1000.0)
    assert after.max() <= 1000.0
    assert after.sum() == pytest.approx(signal.sum())


def test_nothing_bleeds_where_nothing_is_full():
    signal = np.random.default_rng(9).uniform(0, 900, (30, 30)).astype(np.float32)
    np.testing.assert_array_equal(bleed(signal, 1000.0), signal)

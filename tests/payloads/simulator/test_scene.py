from __future__ import annotations

import numpy as np
import pytest

from payloads.camera import parse_section
from payloads.simulator.detector import detector_truth
from payloads.simulator.exposures import conditions
from payloads.simulator.frames import make_raw
from payloads.simulator.scene import Frame, amplifier_map, make_scene, optimal_snr
from payloads.simulator.sky import Stars
from payloads.simulator.transients import NO_HOST, Transients
from payloads.simulator.wcs import separation_arcsec
from payloads.simulator.world import World, make_world

STILL = {"galaxies": {"per_detector": 0}, "transients": {"per_field": 0}, "asteroids": {"per_field_night": 0}}


def frame_of(world: World, number: int = -1) -> Frame:
    exposure = [e for e in world.planned if e.kind == "science"][number]
    detector = world.camera.detectors[0]
    truth = detector_truth(world.survey, world.camera, detector)
    return Frame(world, exposure, conditions(world.survey, exposure), detector, truth)


def centroid(image: np.ndarray, x: float, y: float, half: int) -> tuple[float, float]:
    cx, cy = round(x), round(y)
    stamp = image[cy - half : cy + half + 1, cx - half : cx + half + 1].astype(float)
    row, column = np.mgrid[-half : half + 1, -half : half + 1]
    return cx + (stamp * column).sum() / stamp.sum(), cy + (stamp * row).sum() / stamp.sum()


def without_sky_and_flat(frame: Frame, expected: np.ndarray, empty: np.ndarray) -> np.ndarray:
    return (expected - empty) / np.maximum(frame.flat, 0.5)


def grid(frame: Frame, spacing: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places on the detector, `spacing` apart, each at another part of its pixel."""
    ny, nx = frame.detector.shape
    x, y = np.meshgrid(
        np.arange(spacing * 0.6, nx - spacing * 0.6, spacing), np.arange(spacing * 0.6, ny - spacing * 0.6, spacing)
    )
    return x.ravel() + rng.uniform(-0.5, 0.5, x.size), y.ravel() + rng.uniform(-0.5, 0.5, x.size)


def with_stars(frame: Frame, x: np.ndarray, y: np.ndarray, mag: float) -> Frame:
    """The same frame under a sky of these constant stars alone."""
    ra, dec = frame.wcs.wcs_pix2world(x, y, 0)
    n = len(x)
    stars = Stars(
        id=np.arange(n),
        ra=ra,
        dec=dec,
        mag=np.full(n, mag),
        colour=np.zeros(n),
        period_d=np.zeros(n),
        amplitude=np.zeros(n),
        phase=np.zeros(n),
    )
    return Frame(World(**{**vars(frame.world), "stars": stars}), frame.exposure, frame.conditions, frame.detector, frame.truth)


EMPTY = STILL | {"stars": {"per_detector": 0}, "camera": {"bad_pixel_fraction": 0.0, "bad_columns": 0, "size": [400, 400]}}


def test_true_wcs_leads_from_the_catalogue_to_the_centroids(small_survey):
    empty = frame_of(make_world(small_survey(**EMPTY)))
    x, y = grid(empty, 50.0, np.random.default_rng(1))
    frame = with_stars(empty, x, y, 17.0)
    light = without_sky_and_flat(frame, make_scene(frame).expected, make_scene(empty).expected)
    stars = frame.world.stars
    assert len(x) >= 49
    centroids = np.array([centroid(light, *place, 22) for place in zip(x, y, strict=True)])
    expected = np.stack(frame.wcs.wcs_world2pix(stars.ra, stars.dec, 0), axis=1)
    assert np.hypot(*(centroids - expected).T).max() < 0.02
    ra, dec = frame.wcs.wcs_pix2world(centroids[:, 0], centroids[:, 1], 0)
    assert separation_arcsec(ra, dec, stars.ra, stars.dec).max() < 0.02 * 0.3


def test_stars_have_the_electrons_of_their_magnitude(small_survey):
    empty = frame_of(make_world(small_survey(**EMPTY)))
    x, y = grid(empty, 90.0, np.random.default_rng(2))
    frame = with_stars(empty, x, y, 18.0)
    light = without_sky_and_flat(frame, make_scene(frame).expected, make_scene(empty).expected)
    expected = len(x) * 10 ** (-0.4 * (18.0 - frame.zeropoint_mag))
    assert light.sum(dtype=np.float64) == pytest.approx(expected, rel=1e-3)


def test_position_angle_of_a_galaxy_is_that_on_the_sky(small_survey):
    survey = small_survey(
        **(STILL | {"stars": {"per_detector": 0}, "camera": {"bad_pixel_fraction": 0.0, "bad_columns": 0, "prnu": 0.0}})
    )
    world = make_world(survey)
    frame = frame_of(world)
    galaxies = world.galaxies
    centre = frame.wcs.wcs_pix2world([120.0], [100.0], 0)
    one = {
        "id": 1,
        "ra": centre[0][0],
        "dec": centre[1][0],
        "mag": 16.0,
        "colour": 0.5,
        "half_light_arcsec": 2.0,
        "axis_ratio": 0.4,
    }
    one |= {"position_angle_deg": 30.0, "spheroid": False}
    lone = type(galaxies)(**{key: np.array([value]) for key, value in one.items()})
    lit = World(**{**vars(world), "galaxies": lone})
    image = make_scene(frame_of(lit)).expected - make_scene(frame).expected
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    ra, dec = frame.wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)
    east, north = (ra - centre[0][0]) * np.cos(np.deg2rad(centre[1][0])) * 3600, (dec - centre[1][0]) * 3600
    w = image.ravel() / image.sum()
    moments = (w * east**2).sum(), (w * east * north).sum(), (w * north**2).sum()
    angle = 0.5 * np.rad2deg(np.arctan2(2 * moments[1], moments[2] - moments[0]))
    assert angle == pytest.approx(30.0, abs=2.5)


def test_snr_of_truth_is_that_of_the_scene(small_survey):
    """The definition applied anew: profile from the difference of two scenes, variance from the one that has the transient."""
    quiet = {"asteroids": {"per_field_night": 0}, "stars": {"variable_fraction": 0.0}}
    world = make_world(small_survey(**quiet, transients={"per_field": 5}))
    frame, bare = frame_of(world), frame_of(make_world(small_survey(**quiet, transients={"per_field": 0})))
    scene, empty = make_scene(frame), make_scene(bare)
    rows = scene.rows["transient_epochs"]
    amplifiers = frame.detector.amplifiers
    variance = scene.expected + amplifier_map(frame.detector, [a.read_noise**2 + a.gain**2 / 12 for a in amplifiers])
    light = scene.expected - empty.expected
    ny, nx = light.shape
    checked = 0
    for k in range(len(rows["id"])):
        x, y = round(float(rows["x"][k])), round(float(rows["y"][k]))
        others = np.hypot(rows["x"] - x, rows["y"] - y)
        if np.sort(others)[1] < 40 or not (16 < x < nx - 17 and 16 < y < ny - 17):
            continue
        box = slice(y - 16, y + 17), slice(x - 16, x + 17)
        assert np.sqrt((light[box].astype(float) ** 2 / variance[box]).sum()) == pytest.approx(rows["snr"][k], rel=0.01)
        checked += 1
    assert checked >= 2


@pytest.mark.parametrize("snr_like", [400.0, 3000.0])
def test_snr_of_truth_is_the_scatter_of_the_best_estimate(snr_like: float):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-10:11, -10:11]
    profile = np.exp(-(x**2 + y**2) / (2 * 1.6**2))
    profile = (profile / profile.sum()).astype(np.float32)
    flat = rng.uniform(0.7, 1.1, profile.shape).astype(np.float32)
    sky, read_noise = 150.0, 6.0
    template = sky * flat
    expected = template + snr_like * flat * profile
    variance = expected + read_noise**2
    snr = optimal_snr(snr_like, profile, flat, variance.astype(np.float32))
    frames = rng.poisson(expected, (6000, *profile.shape)) + rng.normal(0, read_noise, (6000, *profile.shape))
    weight = flat * profile / variance
    estimate = ((frames - template) * weight).sum(axis=(1, 2)) / (flat * profile * weight).sum()
    assert estimate.mean() == pytest.approx(snr_like, rel=0.01)
    assert snr_like / estimate.std() == pytest.approx(snr, rel=0.03)
    # Any other weight does worse: here the plain sum over an aperture.
    aperture = np.hypot(x, y) < 4
    share = (flat * profile)[aperture].sum()
    assert ((frames - template)[:, aperture].sum(axis=1) / share).std() > estimate.std()


def test_snr_of_truth_is_that_of_forced_photometry_on_raw_frames(small_survey):
    """From integers back: the best estimate on raw frame less template scatters by flux / SNR around the true flux."""
    survey = small_survey(**EMPTY, cosmic_rays_per_s_megapixel=0.0, seeing={"median_px": 3.0})
    survey = survey.model_copy(update={"camera": survey.camera.model_copy(update={"bias_drift_adu": 0.0, "crosstalk": 0.0})})
    empty = frame_of(make_world(survey))
    x, y = grid(empty, 40.0, np.random.default_rng(3))
    n = len(x)
    ra, dec = empty.wcs.wcs_pix2world(x, y, 0)
    peak = empty.exposure.mjd_mid
    transients = Transients(
        id=np.arange(n),
        ra=ra,
        dec=dec,
        host=np.full(n, NO_HOST),
        peak_mag=np.linspace(20.0, 23.5, n),
        colour=np.zeros(n),
        onset_mjd=np.full(n, peak - 1),
        peak_mjd=np.full(n, peak),
        decline_d=np.ones(n),
    )
    world = World(**{**vars(empty.world), "transients": transients})
    frame = Frame(world, empty.exposure, empty.conditions, empty.detector, empty.truth)
    scene, template = make_scene(frame), make_scene(empty).expected
    raw, _ = make_raw(world, frame.exposure, frame.detector, frame.truth)
    electrons = np.zeros(frame.detector.shape)
    for a in frame.detector.amplifiers:
        place = parse_section(a.place)
        electrons[place] = (
            raw[parse_section(a.data)] - raw[parse_section(a.overscan)].mean() - frame.truth.bias_adu[place]
        ) * a.gain
    variance = scene.expected + amplifier_map(
        frame.detector, [a.read_noise**2 + a.gain**2 / 12 for a in frame.detector.amplifiers]
    )
    rows = scene.rows["transient_epochs"]
    assert rows["id"].tolist() == list(range(n))
    assert rows["snr"].min() < 10
    assert rows["snr"].max() > 50
    pulls = []
    for k in range(n):
        box = slice(max(round(y[k]) - 14, 0), round(y[k]) + 15), slice(max(round(x[k]) - 14, 0), round(x[k]) + 15)
        profile = (scene.expected - template)[box] / rows["flux_electron"][k]
        weight = profile / variance[box]
        estimate = ((electrons - template)[box] * weight).sum() / (profile * weight).sum()
        pulls.append((estimate / rows["flux_electron"][k] - 1) * rows["snr"][k])
    assert n >= 80
    assert abs(np.mean(pulls)) < 4 / np.sqrt(n)
    assert np.std(pulls) == pytest.approx(1.0, abs=4 / np.sqrt(2 * n))


def test_asteroids_trail_along_their_motion(small_survey):
    changes = STILL | {
        "stars": {"per_detector": 0},
        "asteroids": {"per_field_night": 1, "mag": [18.0, 18.1]},
        "camera": {"bad_pixel_fraction": 0.0, "bad_columns": 0},
        "exposure_s": 600.0,
    }
    frame = frame_of(make_world(small_survey(**changes)), 0)
    none = frame_of(make_world(small_survey(**(changes | {"asteroids": {"per_field_night": 0}}))), 0)
    scene = make_scene(frame)
    rows = scene.rows["asteroid_epochs"]
    assert len(rows["id"]) == 1
    expected_px = rows["rate_arcsec_h"][0] / 6 / 0.3
    assert rows["trail_px"][0] == pytest.approx(expected_px, rel=1e-3)
    image = without_sky_and_flat(frame, scene.expected, make_scene(none).expected)
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    w = image / image.sum()
    mx, my = (w * x).sum(), (w * y).sum()
    assert (mx, my) == pytest.approx((rows["x"][0], rows["y"][0]), abs=0.05)
    spread = np.linalg.eigvalsh(
        [[(w * (x - mx) ** 2).sum(), 0], [(w * (x - mx) * (y - my)).sum(), (w * (y - my) ** 2).sum()]], UPLO="L"
    )
    assert spread[1] - spread[0] == pytest.approx(expected_px**2 / 12, rel=0.15)


def test_fringes_are_in_the_sky_and_not_in_the_flat(small_survey):
    band = {"band": "i", "zeropoint_mag": 26.7, "sky_mag_arcsec2": 20.0}
    fields = [{"name": "f", "visits": {"i": 1}}]
    smooth, fringed = (
        frame_of(make_world(small_survey(**EMPTY, fields=fields, filters={"i": {**band, "fringe": amount}})))
        for amount in (0.0, 0.04)
    )
    np.testing.assert_array_equal(smooth.flat, fringed.flat)
    dark = smooth.truth.dark_electron_s * smooth.exposure.exposure_s
    ratio = (make_scene(fringed).expected - dark) / (make_scene(smooth).expected - dark) - 1
    assert smooth.truth.fringes is None
    assert fringed.truth.fringes is not None
    np.testing.assert_allclose(ratio, 0.04 * fringed.truth.fringes, atol=1e-5)
    assert np.std(ratio) > 0.02

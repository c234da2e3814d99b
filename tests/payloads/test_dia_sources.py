"""Detection and measurement on made differences, reliability, and the catalogue on the sky."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from payloads.dia_catalog import dia_source_table, njy_per_electron
from payloads.dia_score import _filters, _searched
from payloads.dia_sources import DiaSourceConfig, SourceFlag, detect, psf_field, shift
from payloads.difference import Difference
from payloads.ids import split_source_id
from payloads.kernel import MatchingKernel
from payloads.kernel_field import KernelField
from payloads.mask import Mask
from payloads.psf import PsfModel
from payloads.reliability import reliability, reliability_factors

SHAPE = (240, 240)
FWHM = 3.4
NOISE = 10.0


def psf_stamp(fwhm=FWHM, half=12):
    t = np.arange(-half, half + 1)
    stamp = np.exp(-0.5 * (t[None] ** 2 + t[:, None] ** 2) / (fwhm / 2.3548) ** 2)
    return stamp / stamp.sum()


def put(image, x, y, flux, fwhm=FWHM):
    stamp = shift(psf_stamp(fwhm)[None], np.array([x - round(x)]), np.array([y - round(y)]))[0]
    image[round(y) - 12 : round(y) + 13, round(x) - 12 : round(x) + 13] += flux * stamp


def make(paint=None, seed=1, template=None, mask=None, noise=NOISE):
    rng = np.random.default_rng(seed)
    data = rng.normal(0, noise, SHAPE)
    if paint is not None:
        paint(data)
    template = np.zeros(SHAPE) if template is None else template
    mask = np.zeros(SHAPE, np.uint32) if mask is None else mask
    field = KernelField.constant(psf_stamp(), SHAPE)
    kernel = MatchingKernel(
        field=KernelField.constant(np.ones((1, 1)), SHAPE),
        background_terms=np.zeros(1),
        background_order=0,
        noise_removed=0.0,
        chi2=1.0,
        n_stamps=9,
        n_used=9,
        x=np.zeros(9),
        y=np.zeros(9),
    )
    return Difference(
        data=data.astype(np.float32),
        variance=np.full(SHAPE, NOISE**2, np.float32),
        mask=mask,
        matched_template=template.astype(np.float32),
        science=(template + data).astype(np.float32),
        psf=field,
        kernel=kernel,
        convolved="template",
    )


def grid_of_sources(flux, step=40):
    places = [(30.3 + step * i, 29.7 + step * j) for i in range(5) for j in range(5)]

    def paint(data):
        for x, y in places:
            put(data, x, y, flux)

    return np.array(places), paint


def with_reliability(table: Table) -> np.ndarray:
    table["neighbours"] = table["crowd"] = np.zeros(len(table), int)
    return reliability(table)


def test_blank_sky_gives_hardly_any_source_at_five_sigma():
    found = [len(detect(make(seed=seed), FWHM)[0]) for seed in range(4)]
    assert sum(found) <= 1


def test_score_has_unit_width_even_where_the_variance_plane_is_wrong():
    table, score = detect(make(noise=1.5 * NOISE), FWHM)
    assert score.width == pytest.approx(1.5, rel=0.05)
    assert len(table) <= 1


def test_pixels_that_hold_more_photons_count_no_less_for_it():
    """A frame's variance is of its own photons: weights by it took 0.2 sigma off every score, and a per cent off fluxes of 20."""
    level = NOISE**2
    sources = {name: [] for name in ("fluxes", "scores")}
    for seed in range(3):
        _, paint = grid_of_sources(20 * NOISE / np.sqrt((psf_stamp() ** 2).sum()))
        plain = make(paint, seed=seed)
        follows = replace(plain, variance=np.maximum(level + plain.data, 1).astype(np.float32))
        table, _ = detect(follows, FWHM)
        sources["fluxes"].append(np.median(table["psfFlux"]) / np.median(detect(plain, FWHM)[0]["psfFlux"]))
        config = DiaSourceConfig()
        _, quiet = _searched(follows, np.zeros(SHAPE, bool), 0.0, _filters(follows, FWHM, config), FWHM, config, np.inf, True)
        sources["scores"].append(np.median(quiet))
    assert np.mean(sources["fluxes"]) == pytest.approx(1, abs=0.004)
    assert np.mean(sources["scores"]) == pytest.approx(0, abs=0.08)


@pytest.mark.parametrize("sign", [1, -1])
def test_point_sources_are_found_with_flux_and_position_within_their_errors(sign):
    pulls = []
    for seed in range(3):
        places, paint = grid_of_sources(sign * 1500.0)
        template = np.zeros(SHAPE)
        if sign < 0:  # nothing can fade by more than it had
            grid_of_sources(2000.0)[1](template)
        table, _ = detect(make(paint, seed, template=template), FWHM)
        table = table[np.abs(table["snr"]) > 8]
        assert len(table) == 25
        distance = np.hypot(np.array(table["x"])[:, None] - places[:, 0], np.array(table["y"])[:, None] - places[:, 1])
        nearest = distance.argmin(axis=1)
        assert sorted(nearest) == list(range(25))
        assert (np.array(table["isNegative"]) == (sign < 0)).all()
        assert not np.array(table["isDipole"]).any()
        pulls.append(
            np.array(
                [
                    (table["psfFlux"] - sign * 1500) / table["psfFluxErr"],
                    (table["x"] - places[nearest, 0]) / table["xErr"],
                    (table["y"] - places[nearest, 1]) / table["yErr"],
                ]
            )
        )
        np.testing.assert_allclose(np.median(table["apFlux"]), sign * 1500, rtol=0.1)
        assert (np.median(np.array(table["psfChi2"]) / np.array(table["psfNdata"]))) == pytest.approx(1, abs=0.2)
        assert (with_reliability(table) > 0.5).all()
    pull = np.concatenate(pulls, axis=1)
    assert np.abs(pull.mean(axis=1)).max() < 0.4
    assert pull.std(axis=1) == pytest.approx(1, abs=0.3)


def test_a_shifted_star_is_one_dipole_and_not_reliable():
    def paint(data):
        put(data, 120, 120, 20000)
        put(data, 120.9, 120, -20000)

    table, _ = detect(make(paint), FWHM)
    near = np.hypot(table["x"] - 120.5, table["y"] - 120) < 8
    assert near.sum() == 1
    assert np.array(table["isDipole"])[near].all()
    assert with_reliability(table)[near] < 0.2


def test_residual_of_a_bright_star_is_not_significant_but_a_new_source_beside_it_is():
    template = np.zeros(SHAPE)
    for k in range(9):
        put(template, 40 + 20 * k, 120, 4e5)
    rng = np.random.default_rng(3)

    def paint(data):
        data += 0.01 * template * rng.choice([-1, 1], SHAPE)
        put(data, 60, 60, 2500)

    table, score = detect(make(paint, template=template), FWHM)
    assert 0.005 < score.systematic < 0.02
    on_stars = np.abs(table["y"] - 120) < 8
    reliable = with_reliability(table) > 0.5
    assert not (reliable & on_stars).any()
    assert (reliable & (np.hypot(table["x"] - 60, table["y"] - 60) < 1)).sum() == 1


def test_a_cosmic_ray_that_was_missed_is_not_reliable():
    def paint(data):
        data[100, 100] += 600
        put(data, 150, 150, 1500)

    table, _ = detect(make(paint), FWHM)
    ray = np.hypot(table["x"] - 100, table["y"] - 100) < 2
    star = np.hypot(table["x"] - 150, table["y"] - 150) < 2
    score = with_reliability(table)
    assert ray.sum() == star.sum() == 1
    assert score[ray] < 0.3
    assert score[star] > 0.7
    chosen = {name: float(value[ray][0]) for name, value in reliability_factors(table).items()}
    assert min(chosen, key=chosen.get) == "unlike the PSF"


@pytest.mark.parametrize("fwhm", [2.2, 3.4])
def test_faint_hits_of_single_pixels_are_sharper_than_the_psf_and_faint_points_are_not(fwhm):
    """Too faint for the cosmic ray finder; a real camera's frame of 300 s has dozens."""
    stamp = psf_stamp(fwhm)
    flux = 8 * NOISE / np.sqrt((stamp**2).sum())
    middle = np.arange(30, 220, 20)
    grid = np.array(np.meshgrid(middle, middle)).reshape(2, -1)
    rng = np.random.default_rng(5)

    def points(data):
        for x, y in (grid + rng.uniform(-0.5, 0.5, grid.shape)).T:
            put(data, x, y, flux, fwhm)

    def hits(data):
        data[grid[1], grid[0]] += flux * (stamp**2).sum() / stamp.max()

    share, sharp = [], []
    for paint in (points, hits):
        difference = replace(make(paint, seed=9), psf=KernelField.constant(stamp, SHAPE))
        table, _ = detect(difference, fwhm)
        share.append((with_reliability(table) > 0.5).mean())
        sharp.append((reliability_factors(table)["sharper than the PSF"] < 0.5).mean())
    assert sharp[0] < 0.03
    assert sharp[1] > 0.15  # of many others the pixels around are so low that no size can be had: those are "extended"
    assert share[0] > 0.9
    assert share[1] < 0.1


def test_nothing_is_found_on_unusable_pixels_and_what_is_near_them_says_so():
    mask = np.zeros(SHAPE, np.uint32)
    mask[:, 100:104] = np.uint32(Mask.SAT)

    def paint(data):
        data[:, 100:104] += 5000
        put(data, 107, 60, 3000)
        put(data, 180, 60, 3000)

    table, _ = detect(make(paint, mask=mask), FWHM)
    assert len(table) == 2
    near, far = np.array(table["flags"])[np.argsort(table["x"])]
    assert near & SourceFlag.NEAR_SATURATED
    assert far == 0
    score = with_reliability(table)[np.argsort(table["x"])]
    assert score[0] <= score[1] + 0.01
    assert score[1] > 0.5


def test_a_halo_explains_faint_sources_and_a_crowd_of_faint_ones_no_strong_one():
    mask = np.zeros(SHAPE, np.uint32)
    mask[:, :120] = np.uint32(Mask.SUSPECT)

    def paint(data):
        for x in (60, 180):
            put(data, x, 60, 6 * NOISE * 5.1)
            put(data, x, 180, 120 * NOISE * 5.1)

    table, _ = detect(make(paint, mask=mask, seed=4), FWHM)
    table = table[np.abs(table["snr"]) > 5.5]
    order = np.lexsort((table["y"], table["x"]))
    assert len(table) == 4
    table["neighbours"], table["crowd"] = np.zeros(4, int), np.full(4, 15)
    factors = {name: np.asarray(values)[order] for name, values in reliability_factors(table).items()}
    assert (factors["on suspect pixels"] > 0.5).tolist() == [False, True, True, True]
    assert (factors["crowd of detections"] > 0.5).tolist() == [False, True, False, True]


def test_a_trail_is_extended_and_has_its_length_and_direction():
    def paint(data):
        for step in np.linspace(-4, 4, 81):
            put(data, 120 + step * np.cos(0.6), 120 + step * np.sin(0.6), 20000 / 81)
        put(data, 60, 60, 6000)

    table, _ = detect(make(paint), FWHM, DiaSourceConfig())
    trail = np.argmin(np.hypot(table["x"] - 120, table["y"] - 120))
    point = np.argmin(np.hypot(table["x"] - 60, table["y"] - 60))
    assert table["extendedness"][trail] > 0.9
    assert table["extendedness"][point] < 0.3
    assert table["trailLengthPx"][trail] == pytest.approx(8, rel=0.3)
    assert table["trailAngle"][trail] == pytest.approx(np.degrees(0.6), abs=5)
    assert table["trailLengthPx"][point] == 0


def tan(scale_arcsec=0.5):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 60.0]
    wcs.wcs.crpix = [121, 121]
    wcs.wcs.cdelt = [-scale_arcsec / 3600, scale_arcsec / 3600]
    return wcs


def test_catalogue_has_ids_places_and_njy_and_leaves_out_what_is_off_the_frame():
    _, paint = grid_of_sources(1500.0)
    measured, _ = detect(make(paint), FWHM)
    measured = measured[np.abs(measured["snr"]) > 8]
    measured["x"][0] = -3.0
    table = dia_source_table(
        measured,
        shape=SHAPE,
        wcs=tan(),
        zeropoint_mag=31.4,
        visit=20261005 * 100_000 + 7,
        detector=3,
        band="r",
        midpoint_mjd_tai=61318.25,
        processed_mjd_tai=61319.0,
    )
    assert len(table) == len(measured) - 1
    assert len(set(table["diaSourceId"])) == len(table)
    parts = split_source_id(int(table["diaSourceId"][0]))
    assert (parts.exposure, parts.detector, parts.release) == (20261005 * 100_000 + 7, 3, 0)
    np.testing.assert_allclose(table["psfFlux"], measured["psfFlux"][1:])
    ra, dec = tan().pixel_to_world_values(table["x"], table["y"])
    np.testing.assert_allclose(table["ra"], ra)
    np.testing.assert_allclose(table["dec"], dec)
    np.testing.assert_allclose(table["raErr"] * 3600 / 0.5, table["xErr"], rtol=0.02)
    assert njy_per_electron(31.4 - 2.5) == pytest.approx(10)


def test_an_empty_catalogue_has_all_columns():
    measured, _ = detect(make(), FWHM, DiaSourceConfig(threshold_snr=50))
    table = dia_source_table(
        measured,
        shape=SHAPE,
        wcs=tan(),
        zeropoint_mag=30,
        visit=20261005 * 100_000 + 7,
        detector=3,
        band="r",
        midpoint_mjd_tai=61318.25,
        processed_mjd_tai=61319.0,
    )
    assert len(table) == 0
    promised = """diaSourceId visit detector x y ra dec raErr decErr psfFlux psfFluxErr apFlux apFluxErr snr reliability
        isDipole isNegative trailLength midpointMjdTai band extendedness flags"""
    assert set(promised.split()) <= set(table.colnames)


def test_a_psf_model_becomes_a_field_with_the_same_stamps():
    model = PsfModel.constant(psf_stamp())
    field = psf_field(model, SHAPE)
    np.testing.assert_allclose(field.at(np.array([30.0]), np.array([200.0]))[0], model.at(30, 200), atol=1e-9)

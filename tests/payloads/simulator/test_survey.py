from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from payloads.camera import Camera, Observatory, parse_section
from payloads.headers import observe
from payloads.pointing import nominal_wcs
from payloads.simulator.config import ObservatoryConfig, SurveyConfig, SurveyConfigError
from payloads.simulator.frames import make_raw, write_raw
from payloads.simulator.survey import simulate_survey
from payloads.simulator.transients import nominal_flux
from payloads.simulator.wcs import Pointing, detector_wcs, separation_arcsec
from payloads.simulator.world import make_world

# What a camera and a telescope can know. A new card needs a thought: could it give the truth away?
HONEST = {
    *("SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "BSCALE", "BZERO", "COMMENT", "INSTRUME", "DETECTOR", "DETNAME", "OBSID"),
    *("DAYOBS", "SEQNUM", "IMAGETYP", "TIMESYS", "DATE-OBS", "MJD-OBS", "EXPTIME", "DARKTIME", "FILTER", "PROGRAM", "OBJECT"),
    *("RA", "DEC", "ROTPA", "AIRMASS", "CTYPE1", "CTYPE2", "CUNIT1", "CUNIT2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"),
    *("CD1_1", "CD1_2", "CD2_1", "CD2_2", "RADESYS"),
}


def table(out: Path, name: str) -> dict[str, np.ndarray]:
    read = pq.read_table(out / f"{name}.parquet")
    return {column: read[column].to_numpy(zero_copy_only=False) for column in read.column_names}


def digests(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*")) if p.is_file()}


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(made_small: Path, tmp_path: Path, small_survey):
    seen = []
    simulate_survey(small_survey(), tmp_path / "again", jobs=2, progress=lambda done, total: seen.append((done, total)))
    assert digests(tmp_path / "again") == digests(made_small)
    assert seen[-1][0] == seen[-1][1] == len(list((made_small / "raw").rglob("*.fits")))


def test_another_seed_gives_another_sky_and_other_noise(made_small: Path, tmp_path: Path, small_survey):
    simulate_survey(small_survey(seed=4), tmp_path)
    mine, other = digests(made_small), digests(tmp_path)
    raws = [name for name in mine if name.endswith(".fits")]
    assert raws
    assert raws == [name for name in other if name.endswith(".fits")]
    assert not any(mine[name] == other[name] for name in (*raws, "refcat.parquet", "truth/stars.parquet", "camera.yaml"))


def test_any_raw_frame_can_be_made_again_alone(made_small: Path, tmp_path: Path):
    resolved = yaml.safe_load((made_small / "truth/survey.yaml").read_text())
    world = make_world(SurveyConfig.from_dict(resolved))
    for exposure in (world.planned[-1], world.planned[1]):
        detector = world.camera.detectors[0]
        raw, _ = make_raw(world, exposure, detector)
        path = write_raw(world, exposure, detector, raw, tmp_path)
        assert path.read_bytes() == (made_small / path.relative_to(tmp_path)).read_bytes()


def test_camera_description_loads_and_fits_the_raw_frames(made_small: Path):
    camera = Camera.load(made_small / "camera.yaml")
    for path in (made_small / "raw").rglob("*.fits"):
        with fits.open(path) as hdus:
            assert hdus[0].data.dtype == np.uint16
            assert hdus[0].data.shape == (200, 240 + 2 * 8)
            assert hdus[0].header["DETECTOR"] in {d.id for d in camera.detectors}
            assert hdus[0].header["INSTRUME"] == camera.name
    assert camera.detectors[0].shape == (200, 240)
    assert camera.observatory == Observatory(**ObservatoryConfig().model_dump())


def test_headers_give_no_truth_away(made_small: Path):
    for path in (made_small / "raw").rglob("*.fits"):
        assert set(fits.getheader(path)) <= HONEST


def test_wcs_of_a_header_is_off_by_some_arcsec_from_the_true_one(made_small: Path):
    frames = table(made_small, "truth/frames")
    off = []
    for exposure, detector, cards in zip(frames["exposure"], frames["detector"], frames["wcs"], strict=True):
        day, seq = divmod(int(exposure), 100_000)
        header = fits.getheader(made_small / f"raw/{day}/SimCam_{day}_{seq:05d}_d{detector:03d}.fits")
        true, said = WCS(fits.Header.fromstring(cards, sep="\n")), WCS(header)
        places = [w.wcs_pix2world([100.0], [100.0], 0) for w in (true, said)]
        off.append(separation_arcsec(*places[0], *places[1])[0])
        assert not np.allclose(true.wcs.cd, said.wcs.cd, rtol=1e-6, atol=0)
    assert max(off) > 0.5
    assert max(off) < 20


def test_no_transient_is_up_on_template_nights_and_all_are_on_the_others(made_small: Path):
    exposures, epochs, transients = (table(made_small, f"truth/{n}") for n in ("exposures", "transient_epochs", "transients"))
    science = exposures["kind"] == "science"
    templates = set(exposures["exposure"][science & exposures["template"]].tolist())
    assert templates
    assert not templates & set(epochs["exposure"].tolist())
    assert set(epochs["id"].tolist()) == set(transients["id"].tolist())
    assert transients["onset_mjd"].min() > exposures["mjd_mid"][np.isin(exposures["exposure"], list(templates))].max()


def test_half_the_transients_lie_on_galaxies_and_their_snr_spans_the_range(small_survey):
    world = make_world(small_survey(transients={"per_field": 40}, galaxies={"per_detector": 200}, camera={"size": [400, 400]}))
    t, g = world.transients, world.galaxies
    hosted = t.host >= 0
    assert hosted.sum() == 20
    order = {number: k for k, number in enumerate(g.id.tolist())}
    at = np.array([order[h] for h in t.host[hosted].tolist()])
    apart = separation_arcsec(t.ra[hosted], t.dec[hosted], g.ra[at], g.dec[at])
    assert np.median(apart / g.half_light_arcsec[at]) < 2
    band = world.survey.filters["r"]
    electrons = 10 ** (-0.4 * (t.peak_mag - band.zeropoint_mag)) * world.survey.exposure_s
    ends = nominal_flux(world.survey, "r", np.array([5.0, 100.0]))
    assert electrons.min() >= ends[0] * 0.999
    assert electrons.max() <= ends[1] * 1.001
    assert electrons.min() < ends[0] * 2
    assert electrons.max() > ends[1] / 2


def test_transients_are_nothing_before_their_onset_and_whole_at_their_peak(small_survey):
    t = make_world(small_survey()).transients
    assert np.all(t.relative_flux(float(t.onset_mjd.min())) == 0)
    for k in range(len(t.id)):
        assert t.relative_flux(float(t.peak_mjd[k]))[k] == pytest.approx(1.0)
        assert t.relative_flux(float(t.peak_mjd[k] + t.decline_d[k]))[k] == pytest.approx(np.exp(-1))


def test_asteroids_are_on_several_exposures_of_their_night(small_survey, tmp_path: Path):
    fields = [{"name": "f", "visits": {"r": 3}, "cadence_s": 600, "dither_arcsec": 2}]
    config = small_survey(fields=fields, calibrations={"bias": 0, "dark": 0, "flat": 0}, asteroids={"per_field_night": 4})
    simulate_survey(config, tmp_path)
    epochs = table(tmp_path, "truth/asteroid_epochs")
    _, counts = np.unique(epochs["id"], return_counts=True)
    assert (counts >= 3).sum() >= 6
    assert np.all((epochs["rate_arcsec_h"] > 10) & (epochs["rate_arcsec_h"] < 80))
    one = epochs["id"] == epochs["id"][0]
    moved = separation_arcsec(epochs["ra"][one][0], epochs["dec"][one][0], epochs["ra"][one][1], epochs["dec"][one][1])
    assert moved / ((epochs["mjd"][one][1] - epochs["mjd"][one][0]) * 24) == pytest.approx(epochs["rate_arcsec_h"][0], rel=0.02)


def test_schedule_numbers_exposures_within_their_observing_day(small_survey):
    planned = make_world(small_survey(calibrations={"bias": 3, "dark": 2, "flat": 2})).planned
    assert len({e.id for e in planned}) == len(planned)
    times = [e.mjd_begin for e in planned]
    assert times == sorted(times)
    for e in planned:
        day = Time(e.mjd_begin - 37 / 86_400 - 0.5, format="mjd").isot[:10].replace("-", "")
        assert int(day) == e.day_obs
    first = [e.kind for e in planned if e.night == 0]
    assert [first.count(kind) for kind in ("bias", "dark", "flat", "science")] == [3, 2, 2, 1]


def test_reference_catalogue_is_the_bright_stars_a_little_off(made_small: Path):
    catalogue, stars = table(made_small, "refcat"), table(made_small, "truth/stars")
    bright = stars["mag_r"] < 21.5
    assert len(catalogue["id"]) == bright.sum()
    off = separation_arcsec(catalogue["ra"], catalogue["dec"], stars["ra"][bright], stars["dec"][bright])
    assert np.sqrt(np.mean(off**2)) == pytest.approx(0.015 * np.sqrt(2), rel=0.3)
    assert np.std(catalogue["mag_r"] - stars["mag_r"][bright]) == pytest.approx(0.01, rel=0.4)
    assert {"mag_g", "mag_r", "mag_i"} <= set(catalogue)


def test_detector_truth_is_written_and_its_flats_have_median_one(made_small: Path):
    folder = made_small / "truth/detectors/000"
    flat, dead, hot = (np.load(folder / f"{name}.npy") for name in ("flat_r", "dead", "hot"))
    assert np.median(flat) == pytest.approx(1.0, abs=1e-6)
    assert flat[dead].max() < 0.4
    assert dead.sum() >= 100  # half a column
    assert np.load(folder / "dark_electron_s.npy")[hot].min() > 1.0
    assert np.load(folder / "bias_adu.npy").shape == (200, 240)
    amplifiers = table(made_small, "truth/amplifiers")
    camera = Camera.load(made_small / "camera.yaml")
    assert amplifiers["gain"].tolist() == [a.gain for a in camera.detectors[0].amplifiers]


def test_rice_compression_keeps_every_pixel(made_small: Path, tmp_path: Path, small_survey):
    world = make_world(small_survey(camera={"compression": "rice"}))
    exposure, detector = world.planned[-1], world.camera.detectors[0]
    raw, _ = make_raw(world, exposure, detector)
    path = write_raw(world, exposure, detector, raw, tmp_path)
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(hdus[1].data, raw)
        assert hdus[1].header["INSTRUME"] == "SimCam"
    np.testing.assert_array_equal(raw, fits.getdata(made_small / path.relative_to(tmp_path)))


def test_a_directory_with_another_survey_is_refused_and_with_the_same_is_made_again(made_small: Path, small_survey):
    before = digests(made_small)
    with pytest.raises(SurveyConfigError, match="holds another survey"):
        simulate_survey(small_survey(seed=9), made_small)
    assert digests(made_small) == before
    simulate_survey(small_survey(), made_small)
    assert digests(made_small) == before


def test_no_two_transients_blend(small_survey):
    t = make_world(small_survey(transients={"per_field": 30}, galaxies={"per_detector": 60})).transients
    assert len(t.id) >= 25
    apart = separation_arcsec(t.ra[:, None], t.dec[:, None], t.ra, t.dec) + 1e3 * np.eye(len(t.id))
    assert apart.min() > 5 * 3.4 * 0.3


def test_headers_say_what_was_planned_when_read_by_the_rules_of_the_camera(made_small: Path):
    camera = Camera.load(made_small / "camera.yaml")
    exposures = table(made_small, "truth/exposures")
    for row, number in enumerate(exposures["exposure"].tolist()):
        path = made_small / f"raw/{exposures['day_obs'][row]}/{exposures['obs_id'][row]}_d000.fits"
        seen = observe(fits.getheader(path), path.name, camera)
        assert seen.exposure == number
        assert seen.observation_type == exposures["kind"][row]
        assert seen.exposure_time_s == (0.0 if seen.observation_type == "bias" else exposures["exposure_s"][row])
        middle = 0.5 * (seen.datetime_begin.tai.mjd + seen.datetime_end.tai.mjd)
        assert middle == pytest.approx(exposures["mjd_mid"][row], abs=1e-8)
        if seen.observation_type in ("science", "flat"):
            assert seen.physical_filter == exposures["filter"][row]


def test_wcs_of_a_header_is_the_nominal_one_of_the_camera_and_pointing(small_survey):
    survey = small_survey(camera={"detectors": [2, 3]})
    camera = make_world(survey).camera
    pointing = Pointing(ra_deg=13.0, dec_deg=30.0, rotation_deg=25.0, scale_arcsec=0.3)
    for detector in camera.detectors:
        mine = detector_wcs(pointing, detector, 0.3)
        theirs = nominal_wcs(camera, detector.id, 13.0, 30.0, 25.0)
        corners = [np.array([0.0, 239.0, 0.0]), np.array([0.0, 0.0, 199.0])]
        assert separation_arcsec(*mine.wcs_pix2world(*corners, 0), *theirs.wcs_pix2world(*corners, 0)).max() < 1e-5


def test_cosmic_rays_of_a_frame_are_known_and_are_in_it(small_survey):
    survey = small_survey(cosmic_rays_per_s_megapixel=60.0)
    world = make_world(survey)
    exposure, detector = world.planned[-1], world.camera.detectors[0]
    raw, scene = make_raw(world, exposure, detector)
    _, without = make_raw(make_world(small_survey(cosmic_rays_per_s_megapixel=0.0)), exposure, detector)
    assert without.cosmic_rays is not None
    assert without.cosmic_rays.max() == 0
    assert scene.cosmic_rays is not None
    for amplifier in detector.amplifiers:
        at = parse_section(amplifier.data)
        electrons = (raw[at] - np.median(raw[parse_section(amplifier.overscan)])) * amplifier.gain - scene.expected[
            parse_section(amplifier.place)
        ]
        struck = scene.cosmic_rays[parse_section(amplifier.place)] > 1500
        assert struck.sum() >= 5
        assert np.median(electrons[struck] / scene.cosmic_rays[parse_section(amplifier.place)][struck]) == pytest.approx(
            1.0, abs=0.05
        )

"""Simulated raw frames through every pipeline of this room, in a real repository, against the simulator's truth."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from lsst.daf.butler import Butler
from scipy.spatial import KDTree

from payloads.astrometry import wcs_from_cards
from payloads.camera import Camera
from payloads.execute import certify_run, execute_pipeline
from payloads.ingest import ingest
from payloads.mask import Mask
from payloads.overscan import amplifier_map
from payloads.psf import PsfModel
from payloads.refcat import ingest_refcat
from payloads.repository import init_repository, open_repository
from payloads.simulator.config import SurveyConfig
from payloads.simulator.survey import simulate_survey

COLUMNS = ["id", "x", "y", "xErr", "yErr", "psfFlux", "psfFluxErr", "apFlux", "apFluxErr", "snr", "fwhm", "flags", "isStar"]
COLUMNS += ["ra", "dec"]
META = ("PSFFWHM", "SKYLEVEL", "SKYSIGMA", "EXPTIME", "MJD-MID", "BAND")


@dataclass(frozen=True)
class Survey:
    root: Path
    truth: Path
    camera: Camera
    frames: Table

    def butler(self) -> Butler:
        return open_repository(self.root)

    def get(self, name: str, visit: int, run: str = "frames") -> Any:
        key = "exposure" if name in ("raw", "post_isr", "isr_metadata") else "visit"
        return self.butler().get(name, {"instrument": "SimCam", key: visit, "detector": 0}, collections=run)

    @property
    def visits(self) -> list[int]:
        return [int(v) for v in self.frames["exposure"]]


def _run(root: Path, pipeline: str, run: str, kind: str, **options: Any) -> int:
    return execute_pipeline(
        root,
        f"resource://payloads/pipelines/{pipeline}",
        inputs=options.pop("inputs", ["SimCam/defaults"]),
        run=run,
        where=f"instrument='SimCam' AND exposure.observation_type='{kind}'",
        **options,
    )


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """Calibrated, and its frames processed: one night, three visits of one detector."""
    base = tmp_path_factory.mktemp("survey")
    config = SurveyConfig.load("tiny").model_dump(mode="json")
    config["nights"] = {"count": 1, "templates": 1}
    config["calibrations"] = {"bias": 5, "dark": 4, "flat": 4}
    config["camera"]["size"] = [400, 400]
    config["stars"]["per_detector"] = 200
    made = simulate_survey(SurveyConfig.model_validate(config), base / "sim")
    root = base / "home/repo"
    root.parent.mkdir()
    init_repository(root)
    ingest(base / "home", made.camera, sorted((base / "sim").rglob("*.fits*")))
    ingest_refcat(base / "home", base / "sim/refcat.parquet")
    for step in ("bias", "dark", "flat"):
        assert _run(root, f"calibration.yaml#{step}", f"c/{step}", step) == 1
        certify_run(root, dataset_type=step, run=f"c/{step}", instrument="SimCam", into=f"SimCam/calib/c/{step}")
    frames = Table(pq.read_table(base / "sim/truth/frames.parquet").to_pydict())
    assert _run(root, "frames.yaml", "frames", "science") == 3 * len(frames)
    return Survey(root, base / "sim/truth", made.camera, frames)


def _truth(survey: Survey, k: int) -> tuple[WCS, np.ndarray, np.ndarray, np.ndarray]:
    """True WCS of a frame; x, y and electrons of its constant stars that are alone."""
    wcs = WCS(fits.Header.fromstring(survey.frames["wcs"][k], sep="\n"))
    stars = Table(pq.read_table(survey.truth / "stars.parquet").to_pydict())
    galaxies = Table(pq.read_table(survey.truth / "galaxies.parquet").to_pydict())
    places = np.column_stack(wcs.all_world2pix(stars["ra"], stars["dec"], 0))
    others = np.vstack([places, np.column_stack(wcs.all_world2pix(galaxies["ra"], galaxies["dec"], 0))])
    alone = KDTree(others).query(places, k=2)[0][:, 1] > 12
    use = alone & ~np.asarray(stars["is_variable"])
    flux = 10 ** (-0.4 * (np.asarray(stars["mag_r"]) - survey.frames["zeropoint_mag"][k]))
    return wcs, places[use, 0], places[use, 1], flux[use]


def test_bias_is_the_true_one_to_its_noise(survey: Survey) -> None:
    bias = survey.butler().get("bias", instrument="SimCam", detector=0, collections="c/bias")
    detector = survey.camera.detector(0)
    noise = amplifier_map(detector, "read_noise") / amplifier_map(detector, "gain")
    residual = (bias.data - np.load(survey.truth / "detectors/000/bias_adu.npy")) / noise
    # An amplifier's level is its overscan's to say.
    residual -= np.median(residual)
    assert bias.meta["NCOMBINE"] == 4  # one of five is held out
    assert 1.4826 * np.median(np.abs(residual)) <= 1.05 / np.sqrt(4)


def test_products_say_in_their_headers_what_they_came_of(survey: Survey) -> None:
    where = {"instrument": "SimCam", "detector": 0}
    butler = survey.butler()
    bias = butler.find_dataset("bias", **where, collections="c/bias")
    meta = butler.get("flat", **where, physical_filter="r", collections="c/flat").meta
    raws = butler.query_datasets(
        "raw", where="instrument='SimCam' AND exposure.observation_type='flat'", collections="SimCam/raw/all"
    )
    assert {meta[f"INP{k:05d}"] for k in range(1, 5)} == {ref.dataId["exposure"] for ref in raws}
    assert (meta["PRODUCT"], meta["INSTRUME"], meta["DETECTOR"], meta["FILTER"]) == ("flat", "SimCam", 0, "r")
    used = [meta[f"CAL{k:03d}"] for k in range(1, meta["NCAL"] + 1)]
    assert f"bias {bias.id} c/bias" in used
    assert any(word.startswith("camera ") for word in used)
    assert meta["DATE-BEG"] < meta["DATE-END"]
    assert "combineFlat.clip=4.0" in [meta[f"PAR{k:03d}"] for k in range(1, meta["NPAR"] + 1)]


def test_dark_knows_the_hot_pixels_and_flat_the_dead_ones(survey: Survey) -> None:
    folder, butler = survey.truth / "detectors/000", survey.butler()
    dark = butler.get("dark", instrument="SimCam", detector=0, collections="c/dark")
    flat = butler.get("flat", instrument="SimCam", detector=0, physical_filter="r", collections="c/flat")
    hot, dead = np.load(folder / "hot.npy"), np.load(folder / "dead.npy")
    assert ((dark.mask & Mask.BAD) != 0)[hot].mean() > 0.95
    assert ((flat.mask & Mask.BAD) != 0)[dead].mean() > 0.95
    assert ((flat.mask & Mask.BAD) != 0)[~dead].sum() <= 3
    good = ~dead
    true = np.load(folder / "flat_r.npy")
    ratio = (flat.data / true)[good]
    assert np.std(ratio / np.median(ratio)) < 0.005


def test_every_visit_has_all_products_with_their_columns_and_cards(survey: Survey) -> None:
    for visit in survey.visits:
        src, calexp = survey.get("src", visit), survey.get("calexp", visit)
        assert src.colnames == COLUMNS
        assert len(set(src["id"])) == len(src)
        assert set(META) <= set(calexp.meta)
        assert calexp.mask.dtype == np.uint32
        assert (calexp.mask & Mask.DETECTED).any()
        assert calexp.wcs is not None
        assert PsfModel.from_ccddata(survey.get("psf", visit)).fwhm_px == pytest.approx(calexp.meta["PSFFWHM"], rel=0.01)


def test_psf_and_sky_are_the_true_ones(survey: Survey) -> None:
    for row in survey.frames:
        meta = survey.get("calexp", int(row["exposure"])).meta
        assert meta["PSFFWHM"] == pytest.approx(row["psf_fwhm_px"], rel=0.12)
        assert meta["SKYLEVEL"] == pytest.approx(row["sky_electron"], rel=0.01)


def test_solutions_are_right_to_a_tenth_of_a_pixel(survey: Survey) -> None:
    grid = [axis.ravel() for axis in np.meshgrid(np.linspace(0, 399, 7), np.linspace(0, 399, 7))]
    for k, visit in enumerate(survey.visits):
        true, *_ = _truth(survey, k)
        solution = survey.get("visit_solution", visit)
        x, y = true.all_world2pix(*wcs_from_cards(solution["wcs"]).all_pix2world(*grid, 0), 0)
        assert np.sqrt(np.mean((x - grid[0]) ** 2 + (y - grid[1]) ** 2)) < 0.1
        assert solution["rms_pix"] < 0.1
        assert solution["wcs_kind"] == solution["zeropoint_kind"] == "refcat"


def test_calibrated_fluxes_are_unbiased_within_one_per_cent(survey: Survey) -> None:
    ratios, pulls = [], []
    for k, visit in enumerate(survey.visits):
        _, x, y, flux = _truth(survey, k)
        src, solution = survey.get("src", visit), survey.get("visit_solution", visit)
        distance, nearest = KDTree(np.column_stack([src["x"], src["y"]])).query(np.column_stack([x, y]))
        use = (distance < 1.0) & (np.asarray(src["flags"])[nearest] == 0) & (np.asarray(src["snr"])[nearest] > 15)
        # Fluxes in electrons of the measured zero point, taken to those of the true one.
        scale = 10 ** (-0.4 * (survey.frames["zeropoint_mag"][k] - solution["zeropoint_mag"]))
        measured, error = (np.asarray(src[name])[nearest[use]] / scale for name in ("psfFlux", "psfFluxErr"))
        ratios.append(measured / flux[use])
        pulls.append(((measured - flux[use]) / error)[np.asarray(src["snr"])[nearest[use]] < 60])
    ratio, pull = np.concatenate(ratios), np.concatenate(pulls)
    assert len(ratio) > 60
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)
    assert 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.5


def test_tasks_say_how_it_went(survey: Survey) -> None:
    visit = survey.visits[0]
    isr, characterized, astrometry = (
        survey.get(f"{task}_metadata", visit)[task] for task in ("isr", "characterize", "astrometry")
    )
    assert isr["dark_subtracted"]
    assert characterized["noise_ratio"] == pytest.approx(1.0, abs=0.05)
    assert characterized["n_sources"] == len(survey.get("src", visit))
    assert astrometry["n_matched"] >= 20


def test_frames_without_catalogue_are_registered_to_one_another(survey: Survey) -> None:
    count = _run(
        survey.root, "frames_unregistered.yaml#registered", "registered", "science", inputs=["frames", "SimCam/defaults"]
    )
    assert count == 1
    solutions = {visit: survey.get("visit_solution", visit, "registered") for visit in survey.visits}
    assert sorted(s["wcs_kind"] for s in solutions.values()) == ["nominal", "registered", "registered"]
    assert sorted(s["zeropoint_kind"] for s in solutions.values()) == ["nominal", "relative", "relative"]
    reference = next(visit for visit, s in solutions.items() if s["wcs_kind"] == "nominal")
    true = {visit: _truth(survey, k)[0] for k, visit in enumerate(survey.visits)}
    zero = dict(zip(survey.visits, survey.frames["zeropoint_mag"], strict=True))
    points = np.array([[50.0, 60.0], [350.0, 80.0], [200.0, 330.0]])
    for visit, solution in solutions.items():
        there = wcs_from_cards(solutions[reference]["wcs"]).all_world2pix(
            wcs_from_cards(solution["wcs"]).all_pix2world(points, 0), 0
        )
        expected = true[reference].all_world2pix(true[visit].all_pix2world(points, 0), 0)
        assert np.abs(there - expected).max() < 0.15
        relative = solution["zeropoint_mag"] - solutions[reference]["zeropoint_mag"]
        assert relative == pytest.approx(zero[visit] - zero[reference], abs=0.03)


def test_a_frame_of_nan_fails_alone_with_a_clear_message(survey: Survey, tmp_path: Path) -> None:
    from payloads.execute import ExecutionError

    home = tmp_path / "home"
    shutil.copytree(survey.root.parent, home)
    butler = open_repository(home / "repo", writeable=True)
    ref = butler.find_dataset("raw", instrument="SimCam", exposure=survey.visits[0], detector=0, collections="SimCam/raw/all")
    path = Path(butler.getURI(ref).ospath)
    with fits.open(path) as hdus:
        hdu = next(h for h in hdus if h.data is not None)
        spoilt = fits.PrimaryHDU(np.full(hdu.data.shape, np.nan, dtype=np.float32), header=hdu.header)
        spoilt.header.remove("BZERO", ignore_missing=True)
        spoilt.header.remove("BSCALE", ignore_missing=True)
    path.unlink()
    spoilt.writeto(path)
    with pytest.raises(ExecutionError):
        _run(home / "repo", "frames.yaml#isr", "again", "science")
    done = butler.query_datasets("post_isr", collections="again", find_first=False)
    assert {r.dataId["exposure"] for r in done} == set(survey.visits[1:])

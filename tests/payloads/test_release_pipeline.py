"""Templates and a small release through the Butler: two bands, two nights' worth of frames, two patches side by side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.table import vstack
from astropy.time import Time
from astropy.wcs import WCS
from lsst.daf.butler import Butler, CollectionType, DatasetType, Timespan
from lsst.pipe.base import NoWorkFound, Pipeline
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from payloads.camera import Camera
from payloads.execute import execute_pipeline
from payloads.formatters import wcs_of
from payloads.instrument import register_camera
from payloads.psf import PsfModel
from payloads.repository import init_repository, open_repository
from payloads.skymap import SkyMap
from payloads.tasks.coadd import CoaddConfig, CoaddTask
from payloads.tasks.release import MeasureObjectsConfig

SIDE, SCALE, SIGMA = 160, 0.5, 5.0
BANDS = {"r": 27.6, "g": 27.2}  # zero points: electrons of the exposure
FRAMES = 4
FWHM = [2.8, 3.4, 3.0, 3.2]
DAY = 20270101
CAMERA = {
    "name": "Synthcam",
    "pixel_scale_arcsec": SCALE,
    "detectors": [
        {
            "id": 0,
            "name": "only",
            "amplifiers": [
                {"name": "A", "data": "[1:160,1:160]", "place": "[1:160,1:160]", "gain": 1, "read_noise": 5, "saturation": 60000}
            ],
        }
    ],
    "filters": [{"name": f"{band}_01", "band": band} for band in BANDS],
    "headers": {},
}


def frame_wcs(number: int) -> WCS:
    """Pointings differ by a few pixels and turn a little."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0 + 0.0003 * number, 2.0 - 0.0002 * number]
    wcs.wcs.crpix = [SIDE / 2, SIDE / 2]
    turn = np.radians(3.0 * number)
    c, s = np.cos(turn), np.sin(turn)
    wcs.wcs.cd = SCALE / 3600 * np.array([[-c, s], [s, c]])
    wcs.wcs.set()
    return wcs


def sky() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ra, dec and flux in r (nJy) of a grid of stars; in g they have half of it."""
    x, y = np.meshgrid(np.arange(28, 140, 21.0), np.arange(28, 140, 21.0))
    rng = np.random.default_rng(1)
    ra, dec = frame_wcs(0).pixel_to_world_values(x.ravel() + rng.uniform(-2, 2, x.size), y.ravel() + rng.uniform(-2, 2, x.size))
    return ra, dec, 10 ** rng.uniform(4.2, 6.0, x.size)


def gaussian(side: int, x: float, y: float, fwhm_px: float) -> np.ndarray:
    v, u_ = np.mgrid[0:side, 0:side]
    sigma = fwhm_px / 2.3548
    return np.exp(-0.5 * ((u_ - x) ** 2 + (v - y) ** 2) / sigma**2) / (2 * np.pi * sigma**2)


def calexp(number: int, band: str, seed: int) -> CCDData:
    ra, dec, flux = sky()
    zeropoint = BANDS[band]
    x, y = frame_wcs(number).world_to_pixel_values(ra, dec)
    image = np.zeros((SIDE, SIDE))
    electrons = flux * (0.5 if band == "g" else 1.0) * 10 ** (-0.4 * (31.4 - zeropoint))
    for px, py, f in zip(x, y, electrons, strict=True):
        image += f * gaussian(SIDE, px, py, FWHM[number])
    # Something that moves, in one band: a release must not see it.
    if band == "r":
        image += 3e4 * gaussian(SIDE, 44.0 + 21 * number, 60.0, FWHM[number])
    variance = SIGMA**2 + image
    data = image + np.random.default_rng(seed).normal(0, np.sqrt(variance))
    meta = {
        "PSFFWHM": FWHM[number],
        "SKYLEVEL": 0.0,
        "SKYSIGMA": SIGMA,
        "EXPTIME": 30.0,
        "MJD-MID": 61406.0 + 0.01 * number,
        "BAND": band,
    }
    return CCDData(
        data.astype(np.float32),
        unit=u.electron,
        uncertainty=VarianceUncertainty(variance.astype(np.float32)),
        mask=np.zeros((SIDE, SIDE), np.uint32),
        meta=meta,
    )


def solution(number: int, band: str) -> dict[str, Any]:
    cards = {k: v for k, v in frame_wcs(number).to_header(relax=True).items() if k != "MJDREF"}
    # A registered frame has no reference stars: template and release must work from it all the same.
    return {"wcs": cards, "wcs_kind": "registered", "zeropoint_mag": BANDS[band], "zeropoint_err": 0.01,
            "zeropoint_kind": "relative", "n_matched": 20, "rms_pix": 0.05}  # fmt: skip


def region(number: int) -> ConvexPolygon:
    edge = SIDE - 0.5
    ra, dec = frame_wcs(number).pixel_to_world_values([-0.5, edge, edge, -0.5], [-0.5, -0.5, edge, edge])
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(float(a), float(d))) for a, d in zip(ra, dec, strict=True)])


def insert_visit(butler: Butler, seq_num: int, number: int, band: str) -> int:
    visit = DAY * 100_000 + seq_num
    begin = Time(61406.0 + 0.01 * seq_num, format="mjd", scale="tai")
    common = {
        "instrument": "Synthcam",
        "physical_filter": f"{band}_01",
        "day_obs": DAY,
        "seq_num": seq_num,
        "exposure_time": 30.0,
    }
    insert = butler.registry.insertDimensionData
    span = Timespan(begin, begin + 30 * u.s)
    insert("visit", {**common, "id": visit, "name": str(visit), "region": region(number), "timespan": span})
    insert("visit_detector_region", {"instrument": "Synthcam", "visit": visit, "detector": 0, "region": region(number)})
    return visit


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A repository with eight reduced frames and a sky map of two patches and more."""
    root = tmp_path_factory.mktemp("release") / "repo"
    butler = init_repository(root)
    register_camera(butler, Camera.from_dict(CAMERA))
    butler.registry.insertDimensionData("day_obs", {"instrument": "Synthcam", "id": DAY})
    butler.collections.register("frames", CollectionType.RUN)
    dimensions = ("instrument", "visit", "detector")
    types = {
        name: DatasetType(name, dimensions, storage, universe=butler.dimensions)
        for name, storage in (("calexp", "CCDData"), ("psf", "CCDData"), ("visit_solution", "StructuredDataDict"))
    }
    for dataset_type in types.values():
        butler.registry.registerDatasetType(dataset_type)
    seq_num = 0
    for band in BANDS:
        for number in range(FRAMES):
            seq_num += 1
            data_id = {"instrument": "Synthcam", "visit": insert_visit(butler, seq_num, number, band), "detector": 0}
            psf = PsfModel.constant(gaussian(21, 10, 10, FWHM[number]))
            butler.put(calexp(number, band, seq_num), types["calexp"], data_id, run="frames")
            butler.put(psf.to_ccddata(), types["psf"], data_id, run="frames")
            butler.put(solution(number, band), types["visit_solution"], data_id, run="frames")
    sky_map = SkyMap.cover(
        "test", [region(n) for n in range(FRAMES)], pixel_scale_arcsec=SCALE, patch_inner_px=130, patch_border_px=25
    )
    sky_map.register(butler)
    butler.close()
    return SimpleNamespace(root=root, sky_map=sky_map)


def run(repo: SimpleNamespace, pipeline: str, into: str, inputs: list[str], only: str = "", **more: Any) -> int:
    where = "instrument='Synthcam' AND skymap='test'" + only
    return execute_pipeline(
        repo.root, f"resource://payloads/pipelines/{pipeline}", inputs=[*inputs, "skymaps"], run=into, where=where, **more
    )


@pytest.fixture(scope="module")
def released(repo: SimpleNamespace) -> SimpleNamespace:
    counts = {
        "template": run(repo, "template.yaml#template", "t", ["frames"]),
        "coadd": run(repo, "release.yaml#coadd", "c", ["frames"]),
        "objects": run(repo, "release.yaml#objects", "o", ["frames", "c"], config_overrides={"measureObjects": {"release": 3}}),
        "forced": run(repo, "release.yaml#forced", "f", ["frames", "c", "o"]),
    }
    with open_repository(repo.root, collections=["f", "o", "c", "t", "frames", "skymaps"]) as butler:
        yield SimpleNamespace(butler=butler, counts=counts, sky_map=repo.sky_map, root=repo.root)


def everything(released: SimpleNamespace, dataset_type: str) -> list[Any]:
    refs = released.butler.query_datasets(dataset_type, explain=False)
    return [released.butler.get(ref) for ref in sorted(refs, key=lambda r: str(r.dataId))]


def test_one_quantum_per_patch_and_band_per_patch_and_per_frame(released):
    patches = len(released.sky_map.tracts[0].patches)
    assert released.counts == {"template": 2 * patches, "coadd": 2 * patches, "objects": patches, "forced": 2 * FRAMES}


def test_coadds_lie_on_the_sky_map_and_say_what_is_in_them(released):
    for name in ("deep_coadd", "template_coadd"):
        coadd = released.butler.get(name, skymap="test", tract=0, patch=0, band="r")
        wcs = released.sky_map.patch_wcs(0, 0)
        np.testing.assert_allclose(coadd.wcs.pixel_to_world_values(10, 20), wcs.pixel_to_world_values(10, 20), atol=1e-9)
        assert coadd.data.shape == released.sky_map.patch_shape
        assert coadd.meta["ZEROPT"] == 27.0
        assert coadd.meta["NINPUT"] == len(coadd.meta["inputs"]) == FRAMES
        assert sum(entry["weight"] for entry in coadd.meta["inputs"]) == pytest.approx(1)
        psf = PsfModel.from_ccddata(released.butler.get(name.replace("coadd", "psf"), skymap="test", tract=0, patch=0, band="r"))
        assert psf.fwhm_px == pytest.approx(coadd.meta["PSFFWHM"], rel=1e-3)
        assert min(FWHM) < psf.fwhm_px < max(FWHM)


def test_the_best_seeing_makes_the_template_when_asked(repo, released):
    overrides = {"templateCoadd": {"best_seeing_fraction": 0.5, "min_inputs": 2}}
    run(repo, "template.yaml#template", "sharp", ["frames"], " AND patch=0 AND band='r'", config_overrides=overrides)
    with open_repository(repo.root, collections=["sharp"]) as butler:
        coadd = butler.get("template_coadd", skymap="test", tract=0, patch=0, band="r")
    assert coadd.meta["NINPUT"] == 2
    whole = released.butler.get("template_coadd", skymap="test", tract=0, patch=0, band="r")
    assert coadd.meta["PSFFWHM"] < whole.meta["PSFFWHM"]


def test_every_star_is_one_object_with_its_fluxes(released):
    objects = vstack(everything(released, "object"))
    ra, dec, flux = sky()
    apart = 3600 * np.hypot(
        (np.asarray(objects["ra"])[None] - ra[:, None]) * np.cos(np.radians(2)), np.asarray(objects["dec"])[None] - dec[:, None]
    )
    assert np.all((apart < 0.5).sum(axis=1) == 1)  # one pixel; and no star twice where patches overlap
    rows = objects[np.argmin(apart, axis=1)]
    for band, true in (("r", flux), ("g", 0.5 * flux)):
        pull = (rows[f"{band}_psfFlux"] - true) / np.hypot(rows[f"{band}_psfFluxErr"], 0.01 * true)
        assert np.abs(pull).max() < 4.5
        assert abs(np.median(rows[f"{band}_psfFlux"] / true) - 1) < 0.01
    assert np.mean(rows["isStar"]) > 0.85


def test_what_moved_is_no_object(released):
    objects = vstack(everything(released, "object"))
    assert len(objects) == sky()[0].size


def test_ids_are_unique_and_carry_the_release(released):
    ids = np.concatenate([np.asarray(table["objectId"]) for table in everything(released, "object")])
    assert len(set(ids.tolist())) == len(ids)
    assert set((ids >> 57).tolist()) == {3}


def test_forced_fluxes_follow_the_objects_through_all_frames(released):
    objects = vstack(everything(released, "object"))
    ra, dec, flux = sky()
    forced = vstack(everything(released, "forced_source"))
    bright = np.flatnonzero(flux > 1e5)
    for k in bright:
        apart = np.hypot((objects["ra"] - ra[k]) * np.cos(np.radians(2)), objects["dec"] - dec[k])
        mine = forced[forced["objectId"] == objects["objectId"][np.argmin(apart)]]
        assert len(mine) == 2 * FRAMES
        for band, true in (("r", flux[k]), ("g", 0.5 * flux[k])):
            values, errors = (np.asarray(mine[c][mine["band"] == band]) for c in ("psfFlux", "psfFluxErr"))
            clean = np.abs(values - true) < 5 * np.hypot(errors, 0.01 * true)
            assert clean.sum() >= FRAMES - 1  # what moves passes one star at most


def handle(dataset: Any, header: Any = None) -> SimpleNamespace:
    return SimpleNamespace(dataId={"visit": 1, "detector": 0}, get=lambda component=None: header if component else dataset)


def test_a_patch_that_no_frame_reaches_makes_no_coadd(repo):
    image = calexp(0, "r", 1)
    inputs = {
        "calexps": [handle(image, image.meta)],
        "psfs": [handle(PsfModel.constant(gaussian(21, 10, 10, 3.0)).to_ccddata())],
        "solutions": [handle(solution(0, "r"))],
    }
    elsewhere = frame_wcs(0)
    elsewhere.wcs.crval = [150.5, 2.0]
    elsewhere.wcs.set()
    with pytest.raises(NoWorkFound, match="none of 1 frames"):
        CoaddTask(config=CoaddConfig()).run(**inputs, patch_wcs=elsewhere, patch_shape=(100, 100), band="r")
    with pytest.raises(NoWorkFound, match="has a solution"):
        CoaddTask(config=CoaddConfig()).run(**inputs | {"solutions": []}, patch_wcs=elsewhere, patch_shape=(100, 100), band="r")


def test_quality_numbers_are_in_the_metadata(released):
    metadata = everything(released, "deepCoadd_metadata")[0].to_dict()["deepCoadd"]
    assert metadata["n_inputs"] == FRAMES
    assert 0 < metadata["covered_fraction"] <= 1
    assert metadata["wcs_kinds"] == ["registered"]


def test_a_solution_s_cards_are_read_as_the_wcs_they_were():
    x, y = wcs_of(solution(2, "r")["wcs"]).world_to_pixel_values(150.0, 2.0)
    assert (float(x), float(y)) == pytest.approx([float(c) for c in frame_wcs(2).world_to_pixel_values(150.0, 2.0)], abs=1e-6)


def test_configurations_that_make_no_sense_are_refused():
    config = CoaddConfig()
    config.best_seeing_fraction = 1.5
    with pytest.raises(ValueError, match="best_seeing_fraction"):
        config.validate()
    release = MeasureObjectsConfig()
    release.release = 0
    with pytest.raises(ValueError, match="count from 1"):
        release.validate()


@pytest.mark.parametrize("name", ["template", "release"])
def test_pipelines_can_be_expanded_and_every_task_is_in_a_subset(name):
    pipeline = Pipeline.from_uri(f"resource://payloads/pipelines/{name}.yaml")
    graph = pipeline.to_graph()
    assert set(graph.tasks) == set().union(*(subset for subset in pipeline.subsets.values()))

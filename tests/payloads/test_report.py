"""The report: numbers against truth, and a page made of what there is."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.nddata import CCDData
from astropy.table import Table
from astropy.wcs import WCS
from lsst.daf.butler import Butler, CollectionType, DatasetType

from payloads.camera import Camera
from payloads.instrument import register_camera
from payloads.report import summarise, write_report
from payloads.report.field import cut
from payloads.report.quality import judge
from payloads.report.style import sky_stretch, symmetric_limit
from payloads.report.summary import known_offsets
from payloads.report.truth import found_asteroids, match, wcs_offset_px
from payloads.repository import init_repository

DAY, SIDE = 20270102, 80
VISITS = [DAY * 100_000 + k for k in (1, 2, 3, 4)]
CAMERA = {
    "name": "Reportcam",
    "pixel_scale_arcsec": 0.5,
    "detectors": [
        {
            "id": 0,
            "name": "only",
            "amplifiers": [
                {"name": "A", "data": "[1:80,1:80]", "place": "[1:80,1:80]", "gain": 1, "read_noise": 5, "saturation": 6e4}
            ],
        }
    ],
    "filters": [{"name": "r_01", "band": "r"}],
    "headers": {},
}


def frame_wcs() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [40.0, 40.0]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    wcs.wcs.set()
    return wcs


# What is on every frame: a transient at rest, an asteroid, and a false source on the last frame.
TRANSIENT = (30.0, 50.0)
ASTEROID = [(20.0 + 8 * k, 20.0) for k in range(4)]
FALSE = (65.0, 65.0)


def places(k: int) -> list[tuple[float, float]]:
    return [TRANSIENT, ASTEROID[k]] + ([FALSE] if k == 3 else [])


def dia_sources(k: int) -> Table:
    x, y = (np.array(c) + 0.2 for c in zip(*places(k), strict=True))
    ra, dec = frame_wcs().pixel_to_world_values(x, y)
    n = len(x)
    return Table(
        {
            "diaSourceId": (1 << 62) + 1000 * k + np.arange(1, n + 1),  # ids do not fit a float
            "visit": np.full(n, VISITS[k]),
            "detector": np.zeros(n, np.int32),
            "x": x,
            "y": y,
            "ra": ra,
            "dec": dec,
            "psfFlux": np.full(n, 2e4),
            "psfFluxErr": np.full(n, 5e2),
            "snr": np.full(n, 40.0),
            "reliability": np.full(n, 0.9),
            "isNegative": np.zeros(n, bool),
            "midpointMjdTai": np.full(n, 61407.1 + 0.02 * k),
            "band": np.full(n, "r"),
        }
    )


def image(k: int, *, sources: bool, seed: int) -> CCDData:
    v, h = np.mgrid[0:SIDE, 0:SIDE]
    data = np.random.default_rng(seed).normal(0, 1, (SIDE, SIDE))
    for x, y in places(k) if sources else []:
        data += 40 * np.exp(-0.5 * ((h - x) ** 2 + (v - y) ** 2) / 2)
    return CCDData(data.astype(np.float32), unit=u.electron, mask=np.zeros((SIDE, SIDE), np.uint32), wcs=frame_wcs())


def packets(k: int) -> bytes:
    schema = {"type": "record", "name": "alert", "fields": [{"name": "diaSourceId", "type": "long"}]}
    buffer = BytesIO()
    fastavro.writer(buffer, fastavro.parse_schema(schema), [{"diaSourceId": int(i)} for i in dia_sources(k)["diaSourceId"]])
    return buffer.getvalue()


class Filler:
    """Puts datasets of made-up types into a repository, one RUN for all."""

    def __init__(self, butler: Butler) -> None:
        self.butler = butler
        butler.collections.register("made", CollectionType.RUN)

    def put(self, name: str, dimensions: tuple[str, ...], storage: str, dataset: Any, **data_id: Any) -> None:
        dataset_type = DatasetType(name, dimensions, storage, universe=self.butler.dimensions)
        self.butler.registry.registerDatasetType(dataset_type)
        self.butler.put(dataset, dataset_type, instrument="Reportcam", run="made", **data_id)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one night's products, and its truth beside it."""
    home = tmp_path_factory.mktemp("report")
    butler = init_repository(home / "repo")
    register_camera(butler, Camera.from_dict(CAMERA))
    insert = butler.registry.insertDimensionData
    insert("day_obs", {"instrument": "Reportcam", "id": DAY})
    filler = Filler(butler)
    frame, night = ("instrument", "visit", "detector"), ("instrument", "day_obs")
    for k, visit in enumerate(VISITS):
        insert("visit", {"instrument": "Reportcam", "id": visit, "name": str(visit), "physical_filter": "r_01", "day_obs": DAY})
        data_id = {"visit": visit, "detector": 0}
        filler.put("calexp", frame, "CCDData", image(k, sources=True, seed=k), **data_id)
        filler.put("warped_template", frame, "CCDData", image(k, sources=False, seed=10 + k), **data_id)
        filler.put("difference", frame, "CCDData", image(k, sources=True, seed=20 + k), **data_id)
        filler.put("dia_source", frame, "ArrowAstropy", dia_sources(k), **data_id)
        filler.put("alerts", frame, "AlertPackets", packets(k), **data_id)
        cards = {name: value for name, value in frame_wcs().to_header().items() if name != "MJDREF"}
        filler.put("visit_solution", frame, "StructuredDataDict", {"wcs": cards, "rms_pix": 0.07}, **data_id)
    own = [int(dia_sources(k)["diaSourceId"][1]) for k in range(4)]
    filler.put("tracklet", night, "ArrowAstropy", Table({"trackletId": [own[0]], "n": [4]}), day_obs=DAY)
    members = Table({"trackletId": [own[0]] * 4, "diaSourceId": own})
    filler.put("tracklet_source", night, "ArrowAstropy", members, day_obs=DAY)
    still = [int(dia_sources(k)["diaSourceId"][0]) for k in range(4)]
    association = Table({"diaSourceId": still, "diaObjectId": [still[0]] * 4})
    # Per tract in production; here the night is as good a key.
    filler.put("dia_association", night, "ArrowAstropy", association, day_obs=DAY)
    butler.collections.register("Reportcam/prompt", CollectionType.CHAINED)
    butler.collections.redefine_chain("Reportcam/prompt", ["made"])
    butler.close()
    write_truth(home / "truth")
    return home


def write_truth(folder: Path) -> None:
    folder.mkdir()

    def write(name: str, rows: dict[str, Any]) -> None:
        pq.write_table(pa.table(rows), folder / f"{name}.parquet")

    def epochs(where: list[tuple[float, float]], number: int, snr: float) -> dict[str, Any]:
        ra, dec = frame_wcs().pixel_to_world_values(*np.array(where).T)
        return {
            "id": [number] * len(where), "exposure": VISITS[: len(where)], "detector": [0] * len(where),
            "mjd": [61407.1 + 0.02 * k for k in range(len(where))], "x": [w[0] for w in where], "y": [w[1] for w in where],
            "ra": ra, "dec": dec, "difference_njy": [2e4] * len(where), "snr": [snr] * len(where),
        }  # fmt: skip

    missed = epochs([TRANSIENT] * 4, 1, 40.0)
    missed["id"].append(2)
    missed["exposure"].append(VISITS[0])
    for name, value in (("detector", 0), ("mjd", 61407.1), ("x", 70.0), ("y", 10.0), ("difference_njy", 1e4), ("snr", 20.0)):
        missed[name].append(value)
    missed["ra"], missed["dec"] = (np.append(missed[c], [150.1]) for c in ("ra", "dec"))
    write("transient_epochs", missed)
    write("asteroid_epochs", epochs(ASTEROID, 7, 40.0))
    write(
        "variable_epochs", {name: pa.array([], pa.from_numpy_dtype(np.asarray(column).dtype)) for name, column in missed.items()}
    )
    true = frame_wcs()
    true.wcs.crpix = [40.3, 40.4]  # the solutions are half a pixel off
    write("frames", {"exposure": VISITS, "detector": [0] * 4, "wcs": [true.to_header().tostring(sep="\n")] * 4})


def test_the_numbers_are_those_of_the_scene(home):
    found = summarise(home, "Reportcam", truth_dir=home / "truth")
    assert found["transient_completeness_snr10"] == pytest.approx(4 / 5)
    assert found["alert_unmatched_fraction"] == pytest.approx(1 / 9)
    assert found["asteroid_tracklet_fraction"] == 1
    assert found["astrometry_rms_pix"] == pytest.approx(0.5, abs=0.01)
    assert found["counts"]["dia_sources"] == found["counts"]["alerts"] == 9
    assert found["counts"]["differences"] == 4
    assert found["bias_noise_ratio"] is None


def test_without_truth_the_frames_speak_for_themselves(home):
    found = summarise(home, "Reportcam")
    assert found["astrometry_rms_pix"] == pytest.approx(0.07)
    assert found["transient_completeness_snr10"] is None


def test_a_page_is_written_with_what_there_is(home, tmp_path):
    rows = [{"campaign": "night", "step": "difference", "state": "SUCCEEDED", "published": 4}]
    found = write_report(home, tmp_path / "page", "Reportcam", truth_dir=home / "truth", campaigns=rows)
    page = (tmp_path / "page" / "index.html").read_text()
    for name in ("field", "triplets", "difference", "light_curves", "track"):
        assert f'src="{name}.png"' in page
        assert (tmp_path / "page" / f"{name}.png").stat().st_size > 5_000
    assert "masters.png" not in page  # there are none
    assert "SUCCEEDED" in page
    assert "80.0%" in page
    assert "✗ missed" in page
    assert json.loads((tmp_path / "page" / "summary.json").read_text()) == json.loads(json.dumps(found))


def test_ids_of_64_bits_are_joined_without_loss(home):
    from payloads.report.products import Products
    from payloads.report.story import Story

    with Products(home, "Reportcam") as products:
        story = Story.of(products)
    assert story.objects()["n"].tolist() == [4]
    assert len(story.moving()) == 1
    assert len(story.best_alerts(6)) == 2


def test_known_places_are_measured_from_the_nearest_source(home, tmp_path):
    path = tmp_path / "known.csv"
    path.write_text(f"visit,x,y\n{VISITS[0]},20.2,20.2\n{VISITS[1]},29.2,20.2\n{VISITS[3] + 7},1,1\n")
    found = summarise(home, "Reportcam", known=path)
    assert found["known_object_max_offset_pix"] == pytest.approx(1.0)
    assert (found["known_object_frames"], found["known_object_frames_expected"]) == (2, 3)
    assert known_offsets(path, Table())["known_object_max_offset_pix"] is None


def test_an_instrument_without_products_makes_a_page_that_says_so(home, tmp_path):
    write_report(home, tmp_path / "page", "Othercam")
    page = (tmp_path / "page" / "index.html").read_text()
    assert "not known" in page
    assert ".png" not in page


def test_matches_stay_within_their_frame():
    wanted = Table({"exposure": [1, 1, 2], "detector": [0, 1, 0], "x": [5.0, 5.0, 5.0], "y": [5.0, 5.0, 5.0]})
    found = Table({"visit": [2, 1], "detector": [0, 0], "x": [6.0, 8.5], "y": [5.0, 5.0]})
    assert match(wanted, found).tolist() == [-1, -1, 0]
    assert match(wanted, found, radius_px=4).tolist() == [1, -1, 0]


def asteroid(night: int, body: int, snr: list[float]) -> Table:
    count = len(snr)
    exposures = [night * 100_000 + k for k in range(count)]
    return Table(
        {
            "id": [body] * count,
            "exposure": exposures,
            "detector": [0] * count,
            "x": np.arange(count) * 9.0,
            "y": [5.0] * count,
            "snr": snr,
        }
    )


def test_an_asteroid_seen_twice_need_not_be_linked():
    assert found_asteroids(asteroid(DAY, 1, [9.0, 9.0, 2.0]), Table(), Table()) == (0, 0)
    assert found_asteroids(asteroid(DAY, 1, [9.0, 9.0, 9.0]), Table(), Table()) == (0, 1)


def test_a_tracklet_mostly_of_others_does_not_count():
    epochs = asteroid(DAY, 1, [9.0] * 3)
    sources = Table({"visit": epochs["exposure"], "detector": epochs["detector"], "x": epochs["x"], "y": epochs["y"]})
    sources["diaSourceId"] = [11, 12, 13]
    pure = Table({"trackletId": [1] * 3, "diaSourceId": [11, 12, 13]})
    mixed = Table({"trackletId": [1] * 7, "diaSourceId": [11, 12, 13, 91, 92, 93, 94]})
    assert found_asteroids(epochs, sources, pure) == (1, 1)
    assert found_asteroids(epochs, sources, mixed) == (0, 1)


def test_offsets_of_wcs_are_in_pixels():
    moved = frame_wcs()
    moved.wcs.crpix = [43.0, 44.0]
    assert wcs_offset_px(moved, frame_wcs(), (SIDE, SIDE)) == pytest.approx(5.0, abs=1e-3)


def test_verdicts_follow_their_sense():
    rows = {row.label: row for row in judge({"flat_rms": 0.5, "transient_completeness_snr10": 0.99}, truth=True)}
    states = {row.value: row.state for row in rows.values()}
    assert states["50.00%"] == "bad"
    assert states["99.0%"] == "good"
    assert "none" in states.values()
    assert len(judge({}, truth=False)) < len(judge({}, truth=True))


def test_stamps_at_the_edge_are_filled_with_nothing():
    stamp = cut(np.arange(100.0).reshape(10, 10), 0, 9, half=2)
    assert stamp.shape == (5, 5)
    assert stamp[2, 2] == 90
    assert np.isnan(stamp[3:]).all()
    assert np.isnan(stamp[:, :2]).all()
    assert np.isnan(cut(np.ones((10, 10)), 50, 50, half=2)).all()


def test_stretches_survive_images_of_nothing():
    assert sky_stretch(np.full((4, 4), np.nan)).max() == 0
    assert sky_stretch(np.zeros((4, 4))).max() <= 1
    assert symmetric_limit(np.zeros((4, 4))) > 0

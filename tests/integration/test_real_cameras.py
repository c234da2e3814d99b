"""Two real cameras, each known by its YAML alone, from raw files to tracklets and to a release, through the engine.

The numbers that are asserted are printed (`pytest -s`). What is known of the frames is in the README beside them: the places of
asteroid 5945 by hand, the number of sources in a stack of M13.
"""

# ruff: noqa: T201 - the numbers are half of what this is run for
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from scipy.spatial import cKDTree

from deploy.demo.case import read_case
from payloads.camera import Camera
from payloads.report.products import Products
from payloads.repository import open_repository
from payloads.tracklets import project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("PACHON_SHARED", ROOT / "../shared")).resolve() / "data"
RAW = {"lowell42": "raw_lowell42", "orion": "raw_m13_orion"}

# Asteroid 5945: number of the frame, x, y in pixels of the trimmed frame from 0, good to half a pixel.
KNOWN = {
    126: (676.3, 730.7),
    133: (674.3, 726.5),
    140: (672.4, 722.2),
    147: (670.6, 717.9),
    154: (668.5, 713.4),
    161: (666.5, 709.0),
    168: (664.3, 704.6),
    175: (662.1, 699.9),
}


def raw(name):
    folder = SHARED / RAW[name]
    if not folder.is_dir():
        pytest.skip(f"no frames of {name} at {folder}: set PACHON_SHARED to the folder that has data/{RAW[name]}")
    return folder


# Run as programs, where warnings of libraries, which the engine's processes do not make errors of, are none.
COMMON = """
import sys
from pathlib import Path

from deploy.demo.local import run_locally
from deploy.demo.prepare import Frames, prepare
from deploy.home import create_home
from deploy.stack import default_dags
from payloads.camera import Camera

root, home, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
create_home(home, stay_s=2)
case = prepare(home, Frames(Camera.load(root / "payloads" / "cameras" / f"{name}.yaml"), folder), print)


def run(wanted):
    run_locally(home, default_dags(), [run for run in case.runs() if wanted(run.stage)])
"""

# The case as the demo runs it, but for the release.
NIGHT = (
    COMMON
    + """
run(lambda stage: stage != "release")
"""
)

# Masters of several days, as flats came later than the night; the release; and both halves of its frames once more.
RELEASE = (
    COMMON
    + """
from payloads.execute import execute_pipeline

run(lambda stage: stage in ("calibration", "release"))
for half, rest in (("odd", 1), ("even", 0)):
    execute_pipeline(
        home / "repo",
        "resource://payloads/pipelines/release.yaml#deepCoadd,measureObjects",
        inputs=["releases/demo", "orion/defaults", "skymaps"],
        run=f"half/{half}",
        where=f"instrument='{name}' AND skymap='{name}' AND visit.seq_num % 2 = {rest}",
    )
"""
)

# The demo's own ingest of a folder would need frames of each kind; this one is a single file of another camera.
INGEST_ONE = """
import sys
from pathlib import Path

from deploy.home import create_home
from payloads.camera import Camera
from payloads.ingest import ingest

root, home, path, name = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
create_home(home)
report = ingest(home, Camera.load(root / "payloads" / "cameras" / f"{name}.yaml"), [path])
assert (report.ingested, len(report.rejected)) == (0, 1), report
"""


def run_program(program, home, folder, name):
    argv = [sys.executable, "-c", program, str(ROOT), str(home), str(folder), name]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def lowell(tmp_path_factory):
    folder, home = raw("lowell42"), tmp_path_factory.mktemp("lowell42")
    run_program(NIGHT, home, folder, "lowell42")
    with open_repository(home / "repo") as butler:
        case = read_case(butler, "lowell42")
    with Products(home, "lowell42") as products:
        yield case, products


@pytest.fixture(scope="module")
def orion(tmp_path_factory):
    folder, home = raw("orion"), tmp_path_factory.mktemp("orion")
    run_program(RELEASE, home, folder, "orion")
    with open_repository(home / "repo") as butler:
        case = read_case(butler, "orion")
    with Products(home, "orion") as products:
        yield case, products


def by_visit(products, dataset_type, collections):
    return {ref.dataId["visit"]: products.get(ref) for ref in products.refs(dataset_type, collections)}


def test_a_camera_without_wcs_is_run_unregistered(lowell):
    case, _ = lowell
    assert (case.variant, case.calibration_days, case.science_days) == ("unregistered", (20190326,), (20190326,))


def test_lowell_gets_its_masters_and_eight_frames(lowell):
    _, products = lowell
    masters = {name: products.calibrations(name) for name in ("bias", "dark", "flat")}
    assert len(masters["bias"]) == 1
    assert not masters["dark"]  # a cold camera: none were taken
    assert {ref.dataId["physical_filter"] for ref in masters["flat"]} == {"V", "VR"}
    calexps = products.refs("calexp", products.frames)
    assert {ref.dataId["visit"] % 1000 for ref in calexps} == set(KNOWN)


def solutions_are_flagged(products, collections, frames):
    solutions = by_visit(products, "visit_solution", collections)
    kinds = [s["wcs_kind"] for s in solutions.values()]
    assert (kinds.count("nominal"), kinds.count("registered")) == (1, frames - 1)
    assert {s["zeropoint_kind"] for s in solutions.values()} == {"nominal", "relative"}
    rms = [s["rms_pix"] for s in solutions.values() if s["wcs_kind"] == "registered"]
    matched = [s["n_matched"] for s in solutions.values()]
    print(f"registration: rms {max(rms):.3f} px at most, {min(matched)} stars at least")
    assert max(rms) < 0.3


def test_one_frame_has_the_nominal_wcs_and_the_others_are_registered_to_it(lowell):
    solutions_are_flagged(lowell[1], lowell[1].frames, 8)


def test_bright_cores_are_no_cosmic_rays(lowell):
    """Pixels of 1.1 arcsec, a core of 1.7 px on broad wings: half of the stars once were."""
    from payloads.detection import SourceFlag

    _, products = lowell
    shares = []
    for visit, src in by_visit(products, "src", products.frames).items():
        bright = src[np.asarray(src["snr"]) > 50]
        shares.append(float(np.mean((np.asarray(bright["flags"]) & int(SourceFlag.COSMIC_RAY)) != 0)))
        print(f"frame {visit % 1000}: {len(bright)} bright sources, {shares[-1]:.1%} of them with a cosmic ray")
    assert max(shares) < 0.05


def test_asteroid_5945_is_one_tracklet_of_all_eight_frames(lowell):
    _, products = lowell
    sources = products.table("dia_source", products.prompt)
    membership = products.table("tracklet_source", products.prompt)
    x0, y0 = np.array([KNOWN[visit % 1000] for visit in np.asarray(sources["visit"])]).T
    offset = np.hypot(np.asarray(sources["x"]) - x0, np.asarray(sources["y"]) - y0)
    member = np.isin(np.asarray(sources["diaSourceId"]), np.asarray(membership["diaSourceId"]))
    near = sources[member & (offset < 3)]
    tracks = membership[np.isin(np.asarray(membership["diaSourceId"]), np.asarray(near["diaSourceId"]))]
    assert len(set(tracks["trackletId"])) == 1
    assert {visit % 1000 for visit in near["visit"]} == set(KNOWN)
    whole = membership[np.asarray(membership["trackletId"]) == tracks["trackletId"][0]]
    assert len(whole) == 8
    members = np.isin(np.asarray(sources["diaSourceId"]), np.asarray(whole["diaSourceId"]))
    print(f"5945: 8 members, {offset[members].max():.2f} px from the known place at most")
    assert offset[members].max() < 3
    told = products.alert_ids()
    assert np.isin(np.asarray(whole["diaSourceId"]), told).all()


def test_tracklets_of_most_frames_are_bodies_at_a_constant_rate(lowell):
    _, products = lowell
    long = [row for row in products.table("tracklet", products.prompt) if row["n"] >= 7]
    for row in long:
        rate = 150 * np.hypot(row["rate_ra_deg_day"], row["rate_dec_deg_day"])
        angle = np.degrees(np.arctan2(row["rate_ra_deg_day"], row["rate_dec_deg_day"])) % 360
        print(f"{row['n']} sources, {rate:.2f} arcsec/h to {angle:.0f} deg, rms {row['rms_arcsec']:.2f} arcsec")
    assert len(long) >= 2
    assert all(row["rms_arcsec"] < 0.35 for row in long)


def test_at_most_ten_alerts_of_a_frame_are_no_known_body(lowell):
    _, products = lowell
    sources, membership = products.table("dia_source", products.prompt), products.table("tracklet_source", products.prompt)
    tracklets = products.table("tracklet", products.prompt)
    bodies = membership[np.isin(membership["trackletId"], tracklets["trackletId"][np.asarray(tracklets["n"]) >= 7])]
    alerted = np.isin(np.asarray(sources["diaSourceId"]), products.alert_ids())
    unexplained = alerted & ~np.isin(np.asarray(sources["diaSourceId"]), np.asarray(bodies["diaSourceId"]))
    visits = np.asarray(sources["visit"])
    counts = {
        int(v % 1000): (int((alerted & (visits == v)).sum()), int((unexplained & (visits == v)).sum())) for v in np.unique(visits)
    }
    print(f"alerts by frame, all and of no body: {counts}, of {len(sources) / 8:.0f} DIASources a frame")
    assert len(counts) == 8
    assert max(other for _, other in counts.values()) <= 10


def test_orion_gets_its_masters_from_days_apart(orion):
    case, products = orion
    assert (case.variant, case.science_days) == ("unregistered", (20210917,))
    assert [len(products.calibrations(name)) for name in ("bias", "dark", "flat")] == [1, 1, 1]


def test_orion_has_all_its_frames_registered_and_stacked(orion):
    _, products = orion
    assert len(products.refs("calexp", products.releases)) == 12
    solutions_are_flagged(products, products.releases, 12)
    coadds = [products.get(ref) for ref in products.refs("deep_coadd", products.releases)]
    assert max(coadd.meta["NINPUT"] for coadd in coadds) == 12
    assert len(products.refs("forced_source", products.releases)) == 12


def places(table, centre, scale_arcsec):
    """Pixels in the plane about `centre` (ra, dec), which must be one for all tables that are compared."""
    x, y = project(np.asarray(table["ra"]), np.asarray(table["dec"]), *(np.array(c) for c in centre))
    return np.column_stack([x, y]) * 3600 / scale_arcsec


def test_the_stack_of_m13_has_four_hundred_sources_and_both_halves_have_the_bright_ones(orion):
    _, products = orion
    stack = products.table("object", products.releases)
    snr = np.asarray(stack["snr"])
    strong: Table = stack[snr > 10]
    scale = Camera.load(ROOT / "payloads/cameras/orion.yaml").pixel_scale_arcsec
    centre = float(np.median(stack["ra"])), float(np.median(stack["dec"]))
    again = []
    for half in ("odd", "even"):
        found = products.table("object", [f"half/{half}"])
        again.append(cKDTree(places(found, centre, scale)).query(places(strong, centre, scale))[0] < 1.5)
        print(f"{half} frames: {len(found)} objects, {again[-1].mean():.1%} of the stack's above 10 sigma")
    both = (again[0] & again[1]).mean()
    print(f"stack: {(snr >= 5).sum()} objects above 5 sigma, {len(strong)} above 10; {both:.1%} of these in both halves")
    assert (snr >= 5).sum() >= 400
    assert both >= 0.95


def test_a_frame_of_another_camera_is_set_aside_with_the_reason(tmp_path):
    foreign = sorted((raw("orion") / "M13").iterdir())[0]
    run_program(INGEST_ONE, tmp_path / "home", foreign, "lowell42")
    listed = [json.loads(line) for line in (tmp_path / "home/aside/list.jsonl").read_text().splitlines()]
    print(listed[0]["reason"], listed[0]["detail"])
    assert [entry["path"] for entry in listed] == [str(foreign)]
    assert (tmp_path / "home/aside" / listed[0]["stored"]).read_bytes() == foreign.read_bytes()
    assert "TELESCOP" in listed[0]["detail"] or "LCAMMOD" in listed[0]["detail"]


@pytest.mark.parametrize("name", sorted(RAW))
def test_no_code_names_the_camera(name):
    code = [
        p for room in ("backbone", "payloads", "workflow", "operators", "deploy", "dags") for p in (ROOT / room).rglob("*.py")
    ]
    assert len(code) > 50
    assert [str(p) for p in code if name in p.read_text(encoding="utf-8").lower()] == []

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from lsst.sphgeom import LonLat, UnitVector3d

from backbone.errors import EndpointFull
from backbone.home import open_backbone
from payloads import ingest as module
from payloads.camera import Camera
from payloads.cli import ingest as command
from payloads.frames import Reason, check, find_files
from payloads.ingest import ingest
from payloads.instrument import InstrumentError, read_camera
from payloads.pointing import nominal_wcs
from payloads.repository import checksums, open_repository


def raws(home: Path) -> dict[tuple[int, int], Any]:
    butler = open_repository(home / "repo")
    refs = butler.query_datasets("raw", "Testcam/raw/all", explain=False)
    return {(int(r.dataId["exposure"]), int(r.dataId["detector"])): r for r in refs}


def listed(home: Path) -> list[dict[str, Any]]:
    path = home / "aside" / "list.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_good_frames_are_copied_registered_and_can_be_read(home: Path, camera: Camera, write_frame: Callable[..., Path]) -> None:
    paths = [write_frame(f"{n}_{d}.fits", SEQNUM=n, DETECTOR=d) for n in (1, 2) for d in (0, 1)]
    report = ingest(home, camera, [paths[0].parent])
    assert (report.files, report.ingested, report.already, report.rejected) == (4, 4, 0, ())
    found = raws(home)
    assert sorted(found) == [(2026030100001, 0), (2026030100001, 1), (2026030100002, 0), (2026030100002, 1)]
    butler = open_repository(home / "repo")
    ref = found[2026030100001, 1]
    np.testing.assert_array_equal(butler.get(ref).data, fits.getdata(paths[1]))
    assert butler.getURI(ref).ospath.startswith(str(home / "repo"))
    assert checksums(butler, [ref])[ref.id] == hashlib.sha256(paths[1].read_bytes()).hexdigest()
    (exposure, _) = butler.query_dimension_records("exposure", instrument="Testcam")
    assert (exposure.observation_type, exposure.target_name, exposure.can_see_sky) == ("science", "field", True)
    assert exposure.timespan.begin.utc.isot.startswith("2026-03-02T03:00:00.000")


def test_every_on_sky_exposure_is_a_visit_of_the_same_id_and_no_other_is(
    home: Path, camera: Camera, write_frame: Callable[..., Path]
) -> None:
    for number, kind in enumerate(("OBJECT", "BIAS", "DARK", "FLAT"), 1):
        write_frame(f"{kind}.fits", SEQNUM=number, IMAGETYP=kind)
    ingest(home, camera, [write_frame().parent])
    butler = open_repository(home / "repo")
    assert [v.id for v in butler.query_dimension_records("visit")] == [2026030100001]
    assert len(butler.query_dimension_records("exposure")) == 4
    (definition,) = butler.query_dimension_records("visit_definition")
    assert (definition.visit, definition.exposure) == (2026030100001, 2026030100001)


def region(home: Path, detector: int) -> Any:
    records = open_repository(home / "repo").query_dimension_records("visit_detector_region", instrument="Testcam")
    return next(r.region for r in records if r.detector == detector)


def at(ra: float, dec: float) -> UnitVector3d:
    return UnitVector3d(LonLat.fromDegrees(ra, dec))


def test_regions_follow_pointing_scale_and_the_detectors_places(
    home: Path, camera: Camera, write_frame: Callable[..., Path]
) -> None:
    write_frame("0.fits", DETECTOR=0)
    ingest(home, camera, [write_frame("1.fits", DETECTOR=1).parent])
    # detector 0 lies at -x, which is east: larger ra
    east, west = at(150.0 + 45 / 3600, 2.0), at(150.0 - 45 / 3600, 2.0)
    assert region(home, 0).contains(east)
    assert not region(home, 0).contains(west)
    assert region(home, 1).contains(west)
    (visit,) = open_repository(home / "repo").query_dimension_records("visit")
    for place in (east, west, at(150.0, 2.0)):
        assert visit.region.contains(place)
    assert not visit.region.contains(at(150.0, 2.0 + 40 / 3600))


def test_usable_wcs_of_the_header_wins_over_the_pointing(home: Path, camera: Camera, write_frame: Callable[..., Path]) -> None:
    cards = dict(nominal_wcs(camera, 0, 151.0, 3.0).to_header())
    path = write_frame("0.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header.update(cards)
    ingest(home, camera, [path])
    assert region(home, 0).contains(at(151.0 + 45 / 3600, 3.0))
    assert not region(home, 0).contains(at(150.0 + 45 / 3600, 2.0))


def test_ingesting_twice_changes_nothing(home: Path, camera: Camera, write_frame: Callable[..., Path]) -> None:
    write_frame("good.fits")
    folder = write_frame("bad.fits", FILTER="z9", SEQNUM=2).parent
    ingest(home, camera, [folder])
    before, aside = {k: r.id for k, r in raws(home).items()}, listed(home)
    report = ingest(home, camera, [folder])
    assert (report.ingested, report.already, len(report.rejected)) == (0, 1, 1)
    assert {k: r.id for k, r in raws(home).items()} == before
    assert listed(home) == aside


def test_any_order_and_any_subset_gives_the_same_datasets(
    home: Path, camera: Camera, write_frame: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [write_frame(f"{n}.fits", SEQNUM=n) for n in (1, 2, 3)]
    other = Path(shutil.copytree(home, tmp_path / "other"))
    ingest(home, camera, paths)
    for path in reversed(paths):
        ingest(other, camera, [path])
    assert {k: r.id for k, r in raws(home).items()} == {k: r.id for k, r in raws(other).items()}


def test_crash_between_registration_and_copy_is_healed_by_the_next_ingest(
    home: Path, camera: Camera, write_frame: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_frame()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "data_id_expander", die)
        with pytest.raises(KeyboardInterrupt):
            ingest(home, camera, [path])
    assert raws(home) == {}
    assert ingest(home, camera, [path]).ingested == 1


def test_same_content_under_two_names_is_harmless(home: Path, camera: Camera, write_frame: Callable[..., Path]) -> None:
    first = write_frame("a.fits")
    shutil.copy(first, first.with_name("b.fits"))
    report = ingest(home, camera, [first.parent])
    assert (report.ingested, report.already, report.rejected) == (1, 1, ())


def test_other_content_with_the_same_id_is_set_aside_as_duplicate(
    home: Path, camera: Camera, write_frame: Callable[..., Path]
) -> None:
    first = write_frame("a.fits")
    second = write_frame("b.fits", OBJECT="something else")
    report = ingest(home, camera, [first, second])
    assert (report.ingested, [r.reason for r in report.rejected]) == (1, [Reason.DUPLICATE])
    later = write_frame("c.fits", OBJECT="a third")
    report = ingest(home, camera, [later])
    assert [r.reason for r in report.rejected] == [Reason.DUPLICATE]
    (ref,) = raws(home).values()
    assert checksums(open_repository(home / "repo"), [ref])[ref.id] == hashlib.sha256(first.read_bytes()).hexdigest()


def test_detector_that_contradicts_its_exposure_is_set_aside(
    home: Path, camera: Camera, write_frame: Callable[..., Path]
) -> None:
    ingest(home, camera, [write_frame("a.fits", DETECTOR=0)])
    report = ingest(home, camera, [write_frame("b.fits", DETECTOR=1, FILTER="g1")])
    (rejected,) = report.rejected
    assert rejected.reason is Reason.DUPLICATE
    assert "science r1, this is science g1" in rejected.detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_listed(home: Path, camera: Camera, write_frame: Callable[..., Path]) -> None:
    path = write_frame()
    path.chmod(0)
    assert [r.reason for r in ingest(home, camera, [path]).rejected] == [Reason.UNREADABLE]


def test_absent_file_is_listed_without_a_copy(home: Path, camera: Camera, tmp_path: Path) -> None:
    report = ingest(home, camera, [tmp_path / "nowhere.fits"])
    assert [r.reason for r in report.rejected] == [Reason.UNREADABLE]
    assert listed(home)[0]["stored"] is None


def test_list_of_a_crashed_run_is_continued(home: Path, camera: Camera, write_frame: Callable[..., Path]) -> None:
    (home / "aside").mkdir()
    (home / "aside" / "list.jsonl").write_text('{"path": "half a li')
    ingest(home, camera, [write_frame(FILTER="z9")])
    last = (home / "aside" / "list.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["reason"] == "unknown_filter"


def test_full_disk_is_said_plainly_and_what_was_done_is_kept(
    home: Path, camera: Camera, write_frame: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_frame(f"{n}.fits", SEQNUM=n) for n in (1, 2)]
    monkeypatch.setattr(module, "CHUNK", 1)
    real, calls = module._store, []

    def store(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(module, "_store", store)
    with pytest.raises(EndpointFull, match="no space left"):
        ingest(home, camera, paths)
    assert len(raws(home)) == 1
    monkeypatch.setattr(module, "_store", real)
    assert ingest(home, camera, paths).ingested == 1


def test_changed_camera_comes_first_and_the_old_one_is_kept(home: Path, camera: Camera, write_frame: Callable[..., Path]) -> None:
    path = write_frame()
    ingest(home, camera, [path])
    content = copy.deepcopy(camera.to_dict())
    content["detectors"][0]["amplifiers"][0]["gain"] = 3.0
    changed = Camera.from_dict(content)
    ingest(home, changed, [path])
    ingest(home, changed, [path])
    butler = open_repository(home / "repo")
    assert read_camera(butler, "Testcam") == changed
    assert Camera.from_dict(butler.get("camera", instrument="Testcam", collections="Testcam/camera")) == camera
    assert len(butler.collections.get_info("Testcam/defaults").children) == 6
    ingest(home, camera, [path])
    assert read_camera(open_repository(home / "repo"), "Testcam") == camera


def test_camera_that_contradicts_the_repository_is_refused(home: Path, camera: Camera, write_frame: Callable[..., Path]) -> None:
    path = write_frame()
    ingest(home, camera, [path])
    content = copy.deepcopy(camera.to_dict())
    content["filters"][0]["band"] = "z"
    with pytest.raises(InstrumentError, match="physical_filter r1 differs"):
        ingest(home, Camera.from_dict(content), [path])


def test_folders_are_searched_for_names_that_look_like_fits(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.fits", "deep/b.FIT.bz2", "deep/er/c.fits.fz", "deep/notes.txt", "d.fits.tmp"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in find_files([tmp_path, tmp_path / "a.fits"])] == ["a.fits", "b.FIT.bz2", "c.fits.fz"]


def test_number_of_queries_does_not_grow_with_the_number_of_files(
    home: Path, camera: Camera, write_frame: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy

    for n in range(1, 25):
        write_frame(f"{n}.fits", SEQNUM=n)
    folder = write_frame("1.fits").parent
    counts = []
    real = sqlalchemy.engine.Connection.execute

    def execute(self: Any, *arguments: Any, **options: Any) -> Any:
        counts[-1] += 1
        return real(self, *arguments, **options)

    monkeypatch.setattr(sqlalchemy.engine.Connection, "execute", execute)
    few = sorted(folder.iterdir())[:2]
    for files in (few[:1], few[1:], sorted(folder.iterdir())[2:]):
        counts.append(0)
        ingest(home, camera, list(files))
    assert counts[2] <= counts[1] + 5, "22 files cost the queries of one"


def test_command_reports_as_json_and_accepts_a_camera_of_ones_own(
    home: Path, camera: Camera, write_frame: Callable[..., Path], tmp_path: Path
) -> None:
    import yaml

    description = tmp_path / "camera.yaml"
    description.write_text(yaml.safe_dump(camera.to_dict()))
    write_frame("bad.fits", FILTER="z9", SEQNUM=2)
    folder = write_frame("good.fits").parent
    run = CliRunner().invoke(
        command, ["--home", str(home), "--instrument", str(description), "--json", str(folder)], catch_exceptions=False
    )
    report = json.loads(run.stdout)
    assert (report["ingested"], report["aside"], report["reasons"]) == (1, 1, {"unknown_filter": 1})
    plain = CliRunner().invoke(
        command, ["--home", str(home), "--instrument", str(description), str(folder)], catch_exceptions=False
    )
    assert "2 files: 0 ingested, 1 there already, 1 set aside" in plain.stdout
    assert "no filter 'z9'" in plain.stderr


@pytest.mark.parametrize(("name", "folder", "number"), [("lowell42", "raw_lowell42", 19), ("orion", "raw_m13_orion", 42)])
def test_real_frames_are_all_taken(home: Path, shared_data: Path, name: str, folder: str, number: int) -> None:
    camera = Camera.load(name)
    files = find_files([shared_data / folder])
    some = files[:: number // 6]
    report = ingest(home, camera, some)
    assert report.rejected == ()
    assert report.ingested == len(some)
    assert len(files) == number


def test_frames_of_one_camera_are_refused_as_another_s(shared_data: Path) -> None:
    (first, *_) = find_files([shared_data / "raw_m13_orion"])
    judged = check(first, Camera.load("lowell42"))
    assert judged.reason is Reason.OTHER_INSTRUMENT


ODD_NAMES = ["a#b.fits", "a%41.fits", "a b?.fits", "a\nb.fits", "ü[1]*.fits", "x" * 250 + ".fits"]


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_files_of_odd_names_are_files(home: Path, camera: Camera, write_frame: Callable[..., Path], good: bool) -> None:
    content = {}
    for number, name in enumerate(ODD_NAMES, 1):
        path = write_frame(f"{number}.fits", SEQNUM=number).rename(tmp := home.parent / "raw" / name)
        if not good:
            tmp.write_bytes(b"no frame %d" % number)
        content[path] = tmp.read_bytes()
    write_frame("aA.fits", SEQNUM=99)  # what `a%41` would be taken for
    report = ingest(home, camera, [*content])
    assert (report.ingested, len(report.rejected)) == ((len(ODD_NAMES), 0) if good else (0, len(ODD_NAMES)))
    if good:
        butler = open_repository(home / "repo")
        sums = checksums(butler, refs := list(raws(home).values()))
        assert {sums[ref.id] for ref in refs} == {hashlib.sha256(one).hexdigest() for one in content.values()}
    else:
        assert {(home / "aside" / e["stored"]).read_bytes() for e in listed(home)} == set(content.values())


def test_file_whose_name_is_no_text_is_listed_and_the_rest_goes_on(
    home: Path, camera: Camera, write_frame: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    good = write_frame("good.fits", SEQNUM=1)
    write_frame("bad.fits", SEQNUM=2).rename(good.with_name(os.fsdecode(b"b\xff.fits")))
    result = CliRunner().invoke(command, ["--home", str(home), "--instrument", camera_file(home, camera), str(good.parent)])
    assert result.exit_code == 0, result.exception
    assert "1 ingested" in result.output
    assert "its name is no text" in result.output
    assert [entry["reason"] for entry in listed(home)] == ["unreadable"]
    assert r"b\xff.fits: unreadable" in caplog.text
    assert caplog.text.encode(), "what is logged is text, whatever the name"


def camera_file(home: Path, camera: Camera) -> str:
    path = home / "camera.yaml"
    path.write_text(json.dumps(camera.to_dict()))
    return str(path)


def test_ingesting_again_does_not_call_a_copy_whole_that_was_found_bad(
    home: Path, camera: Camera, write_frame: Callable[..., Path]
) -> None:
    (home / "pachon.yaml").write_text("backbone:\n  endpoints: {base: {uri: repo}, ncsa: {uri: ncsa}}\n")
    folder = write_frame(SEQNUM=1).parent
    write_frame("second.fits", SEQNUM=2)
    ingest(home, camera, [folder])
    with closing(open_backbone(home)) as backbone:
        first, second = sorted(key for key in backbone.endpoint("base").list("Testcam/raw/") if key.endswith(".fits"))
        backbone.mark([first], "base", "BAD", actor="scrub", why="rotten")
        backbone.mark([second], "base", "LOST", actor="scrub", why="gone")
        manifests = list(backbone.endpoint("base").list("_pachon/manifests/"))
        assert len(manifests) == 1
        assert ingest(home, camera, [folder]).already == 2
        states = {key: [r.state for r in backbone.locate([key])[key]] for key in (first, second)}
        assert states == {first: ["BAD"], second: ["LOST"]}
        assert list(backbone.endpoint("base").list("_pachon/manifests/")) == manifests, "nothing is told twice"

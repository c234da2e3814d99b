"""A simulated survey from raw frames to alerts and tracklets, held against its truth: completeness and purity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from astropy.table import Table, vstack
from lsst.daf.butler import Butler
from scipy import ndimage
from scipy.spatial import cKDTree

import payloads.simulator.config as simulator_config
from payloads.alerts import read_alerts
from payloads.association import unit_vectors
from payloads.camera import Camera
from payloads.execute import certify_run, execute_pipeline
from payloads.ingest import ingest
from payloads.mask import UNUSABLE, any_set
from payloads.orbit_catalogue import ingest_orbits
from payloads.refcat import ingest_refcat
from payloads.repository import init_repository, open_repository
from payloads.simulator.config import SurveyConfig
from payloads.simulator.survey import simulate_survey
from payloads.skymap_cli import make_from_visits

pytestmark = pytest.mark.slow
INSTRUMENT = "SimCam"
OUTPUTS = ["tracklets", "alerts", "differences", "templates", "frames"]
MATCH_ARCSEC = 0.75


@dataclass
class Survey:
    butler: Butler
    truth: Path

    def epochs(self, *kinds: str) -> Table:
        """True places and brightness of what changes, in every exposure that shows it."""
        names = kinds or ("transient", "variable", "asteroid")
        columns = ["id", "exposure", "detector", "x", "y", "ra", "dec", "snr", "difference_njy"]
        parts = [parquet.read_table(self.truth / f"{name}_epochs.parquet", columns=columns).to_pandas() for name in names]
        return vstack([Table.from_pandas(part) for part in parts])

    def measurable(self, epochs: Table) -> np.ndarray:
        """Which lie on pixels that a difference can say something of: not at its border, nor on saturated or dead pixels."""
        good = np.zeros(len(epochs), bool)
        for ref in self.butler.query_datasets("difference"):
            image = self.butler.get(ref)
            spoiled = any_set(image.mask, UNUSABLE, image.data.shape)
            spoiled = ndimage.uniform_filter(spoiled.astype(float), 7) > 0.15
            here = np.flatnonzero((epochs["exposure"] == ref.dataId["visit"]) & (epochs["detector"] == ref.dataId["detector"]))
            x, y = (np.round(np.array(epochs[c])[here]).astype(int) for c in ("x", "y"))
            ny, nx = image.data.shape
            inside = (x >= 8) & (y >= 8) & (x < nx - 8) & (y < ny - 8)
            good[here[inside]] = ~spoiled[y[inside], x[inside]]
        return good

    def tables(self, name: str) -> Table:
        refs = sorted(self.butler.query_datasets(name), key=lambda ref: sorted(map(str, ref.dataId.required.values())))
        return vstack([self.butler.get(ref) for ref in refs], metadata_conflicts="silent")


def matched(one: Table, one_visit: str, other: Table, other_visit: str) -> np.ndarray:
    """For each row of `one` the row of `other` at the same place in the same visit, or -1."""
    found = np.full(len(one), -1)
    limit = np.radians(MATCH_ARCSEC / 3600)
    for visit in np.unique(one[one_visit]):
        mine, theirs = np.flatnonzero(one[one_visit] == visit), np.flatnonzero(other[other_visit] == visit)
        if len(theirs):
            tree = cKDTree(unit_vectors(np.array(other["ra"][theirs]), np.array(other["dec"][theirs])))
            distance, index = tree.query(unit_vectors(np.array(one["ra"][mine]), np.array(one["dec"][mine])))
            found[mine[distance < limit]] = theirs[index[distance < limit]]
    return found


def small_survey() -> SurveyConfig:
    """The preset for tests with a few more visits and new sources, so that shares mean something."""
    preset = yaml.safe_load((Path(simulator_config.__file__).parent / "presets" / "tiny.yaml").read_text())
    preset["fields"][0] |= {"visits": {"r": 4}, "template_visits": {"r": 4}}
    preset["transients"] = {"per_field": 16}
    preset["asteroids"] = {"per_field_night": 3}
    return SurveyConfig.from_dict(preset)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survey]:
    base = tmp_path_factory.mktemp("survey")
    home, sim = base / "home", base / "sim"
    simulate_survey(small_survey(), sim)
    root = home / "repo"
    init_repository(root).close()
    ingest(home, Camera.load(sim / "camera.yaml"), [sim / "raw"])
    ingest_refcat(home, sim / "refcat.parquet")
    ingest_orbits(home, sim / "truth" / "asteroids.parquet")
    with open_repository(root, writeable=True) as butler:
        make_from_visits(butler, "s1", INSTRUMENT, patch_px=250)
    first = min(int(path.name) for path in (sim / "raw").iterdir())
    given = [f"{INSTRUMENT}/defaults", "skymaps"]
    here = f"instrument='{INSTRUMENT}' AND skymap='s1'"

    def run(pipeline: str, to: str, inputs: list[str], where: str) -> int:
        return execute_pipeline(root, f"resource://payloads/pipelines/{pipeline}", inputs=inputs + given, run=to, where=where)

    for kind in ("bias", "dark", "flat"):
        where = f"instrument='{INSTRUMENT}' AND exposure.observation_type='{kind}'"
        assert run(f"calibration.yaml#{kind}", f"cal/{kind}", [], where)
        certify_run(root, dataset_type=kind, run=f"cal/{kind}", instrument=INSTRUMENT, into=f"{INSTRUMENT}/calib/test/{kind}")
    assert run("frames.yaml", "frames", [], here) == 24
    assert run("template.yaml#template", "templates", ["frames"], f"{here} AND visit.day_obs={first}")
    assert run("difference.yaml#difference", "differences", OUTPUTS[3:], f"{here} AND visit.day_obs>{first}") == 4
    assert run("alerts.yaml", "alerts", OUTPUTS[2:], here) == 5
    assert run("tracklets.yaml#tracklets", "tracklets", OUTPUTS[1:], here) == 1
    with open_repository(root, collections=[*OUTPUTS, *given]) as butler:
        yield Survey(butler, sim / "truth")


def test_new_sources_of_ten_sigma_are_alerted_and_alerts_are_mostly_true(survey: Survey) -> None:
    alerts = [alert for ref in survey.butler.query_datasets("alerts") for alert in read_alerts(survey.butler.get(ref))]
    told = Table({name: [alert["diaSource"][name] for alert in alerts] for name in ("diaSourceId", "visit", "ra", "dec")})
    assert len(told) > 20
    real = matched(told, "visit", survey.epochs(), "exposure") >= 0
    assert (~real).mean() <= 0.2
    new = survey.epochs("transient", "asteroid")
    new = new[(new["snr"] > 10) & survey.measurable(new)]
    seen = matched(new, "exposure", told, "visit") >= 0
    assert len(new) >= 20
    missed = new["id", "exposure", "x", "y", "snr"][~seen].pformat()
    assert seen.mean() >= 0.9, f"missed: {missed}"


def test_fluxes_and_positions_of_new_sources_scatter_as_their_errors_say(survey: Survey) -> None:
    truth = survey.epochs("transient", "asteroid")
    sources = survey.tables("dia_source")
    sources = sources[(sources["reliability"] > 0.5) & (sources["snr"] > 8)]
    row = matched(sources, "visit", truth, "exposure")
    sources, row = sources[row >= 0], row[row >= 0]
    pull = (np.array(sources["psfFlux"]) - np.array(truth["difference_njy"])[row]) / np.array(sources["psfFluxErr"])
    assert abs(np.median(pull)) < 0.7
    assert 0.6 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.6
    offset = (np.array(sources["dec"]) - np.array(truth["dec"])[row]) / np.hypot(np.array(sources["decErr"]), 0.02 / 3600)
    assert 1.4826 * np.median(np.abs(offset)) < 2


def test_each_alert_has_cutouts_and_its_object(survey: Survey) -> None:
    ref = next(iter(survey.butler.query_datasets("alerts")))
    for alert in read_alerts(survey.butler.get(ref)):
        assert all(alert[f"cutout{name}"].startswith(b"SIMPLE") for name in ("Difference", "Science", "Template"))
        if alert["ssSource"] is None:
            assert alert["diaObject"]["diaObjectId"] == alert["diaSource"]["diaObjectId"]
        for earlier in alert["prvDiaSources"] or []:
            assert earlier["diaObjectId"] == alert["diaSource"]["diaObjectId"]
            assert earlier["midpointMjdTai"] < alert["diaSource"]["midpointMjdTai"]


def test_asteroids_whose_orbits_are_known_are_named_in_batch_and_are_no_objects(survey: Survey) -> None:
    asteroids, sources = survey.epochs("asteroid"), survey.tables("dia_source_history")
    bright = asteroids[(asteroids["snr"] > 10) & survey.measurable(asteroids)]
    row = matched(bright, "exposure", sources, "visit")
    seen, row = bright[row >= 0], row[row >= 0]
    assert len(seen) >= 8
    right = np.array(sources["ssObjectId"])[row] == np.array(seen["id"])
    assert right.mean() >= 0.9
    named = np.array(sources["ssObjectId"]) != 0
    assert not np.array(sources["diaObjectId"])[named].any()
    alerts = [alert for ref in survey.butler.query_datasets("alerts") for alert in read_alerts(survey.butler.get(ref))]
    told = [alert for alert in alerts if alert["diaSource"]["diaSourceId"] in set(sources["diaSourceId"][named].tolist())]
    assert len(told) >= 8
    for alert in told:
        assert alert["ssSource"]["ssObjectId"] == alert["diaSource"]["ssObjectId"]
        assert (alert["diaObject"], alert["diaSource"]["diaObjectId"]) == (None, None)


def test_a_transient_seen_in_every_visit_is_one_object(survey: Survey) -> None:
    transients = survey.epochs("transient")
    sources = survey.tables("dia_source_history")
    row = matched(sources, "visit", transients, "exposure")
    bright = np.unique(transients["id"][transients["snr"] > 15])
    several = 0
    for name in bright:
        mine = (row >= 0) & (np.array(transients["id"])[row] == name) & (np.array(sources["diaObjectId"]) != 0)
        assert len(np.unique(sources["diaObjectId"][mine])) <= 1
        several += int(mine.sum() > 1)
    assert several >= 3


def test_asteroids_are_tracklets_and_all_tracklets_are_asteroids(survey: Survey) -> None:
    asteroids = survey.epochs("asteroid")
    sources = survey.tables("dia_source")
    row = matched(sources, "visit", asteroids, "exposure")
    body = dict(zip(sources["diaSourceId"].tolist(), np.where(row >= 0, np.array(asteroids["id"])[row], 0).tolist(), strict=True))
    membership = survey.tables("tracklet_source")
    linked = []
    for tracklet in np.unique(membership["trackletId"]):
        bodies = {body[i] for i in membership["diaSourceId"][membership["trackletId"] == tracklet].tolist()}
        assert len(bodies) == 1
        linked += bodies
    assert 0 not in linked
    assert len(set(linked)) == len(linked)
    visits = np.unique(sources["visit"])
    bright = asteroids[(asteroids["snr"] > 10) & np.isin(asteroids["exposure"], visits)]
    names, counts = np.unique(bright["id"], return_counts=True)
    assert set(names[counts == len(visits)].tolist()) <= set(linked)

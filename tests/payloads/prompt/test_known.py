"""Bodies of the Solar System among a visit's sources: prompt workers and batch name the same ones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from payloads.orbit_catalogue import ingest_orbits, newest_orbits
from payloads.prompt.detector import process_detector
from payloads.prompt.known import OF_BODIES
from payloads.prompt.night import night_almanac
from payloads.prompt.preloaded import KnownObjects
from payloads.prompt.settings import PromptSettings
from payloads.prompt.simulated import simulate_visit
from payloads.repository import ORBITS, ORBITS_CHAIN, init_repository, open_repository
from payloads.simulator.config import SurveyConfig
from payloads.simulator.truth import write_table
from payloads.simulator.world import make_world
from payloads.tasks import bodies as batch
from payloads.tasks.alerts import AssociateTask
from payloads.tasks.bodies import BodiesConfig, name_known


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A visit of which nothing is known but orbits, in a repository; its sources as a worker leaves them."""
    survey = SurveyConfig.load("tiny")
    survey = survey.model_copy(
        update={"asteroids": survey.asteroids.model_copy(update={"per_field_night": 4, "mag": (19, 20.5)})}
    )
    world, visit, home = make_world(survey), simulate_visit(survey), tmp_path_factory.mktemp("known")
    exposure = next(e for e in world.planned if e.id == visit.raw.visit)
    init_repository(home / "repo").close()
    write_table(home / "orbits.parquet", dict(vars(world.asteroids)))
    ingest_orbits(home, home / "orbits.parquet")
    with open_repository(home / "repo") as butler:
        almanac = night_almanac(newest_orbits(butler), world.camera, exposure.day_obs, PromptSettings())
        predicted = almanac.bodies(exposure.target.ra_deg, exposure.target.dec_deg, 0.5, visit.raw.facts.mjd_mid_tai)
        loaded = replace(visit.preloaded, bodies=predicted, known=KnownObjects.none())
        result = process_detector([visit.raw], loaded, processed_mjd_tai=60_000.0)
        handle = butler.getDeferred(butler.find_dataset(ORBITS[0], collections=ORBITS_CHAIN))
        yield SimpleNamespace(camera=world.camera, day_obs=exposure.day_obs, orbits=handle, prompt=result.dia_sources)


@pytest.fixture
def plain(night):
    """The visit's sources as batch finds them."""
    sources = night.prompt.copy()
    sources.remove_columns([*OF_BODIES, "diaObjectId"])
    return sources


def named(night, sources, *, day_obs=None, config=None):
    settings = (config or BodiesConfig()).settings()
    return name_known(sources, night.orbits, night.camera, day_obs or night.day_obs, settings)


def associated(*tables):
    """What the batch task makes of frames' sources, in the order of ids."""
    handles = [
        SimpleNamespace(dataId={"visit": int(t["visit"][0]), "detector": int(t["detector"][0])}, get=lambda t=t: t.copy())
        for t in tables
    ]
    task = AssociateTask(config=AssociateTask.ConfigClass())
    made = task.run(dia_sources=handles, sky_map=Everywhere(), tract=0)
    return made, task.metadata


class Everywhere:
    """A sky map of one tract."""

    def owner_tract(self, ra, dec):
        return np.zeros(len(ra), int)


def test_batch_names_the_bodies_of_a_visit_as_prompt_workers_do(night, plain):
    assert named(night, plain) == np.count_nonzero(night.prompt["ssObjectId"]) >= 2
    for name in OF_BODIES:
        np.testing.assert_array_equal(plain[name], night.prompt[name])


def test_batch_association_leaves_bodies_out_of_objects_as_prompt_workers_do(night, plain):
    named(night, plain)
    made, metadata = associated(plain)
    history = made.dia_source_history
    np.testing.assert_array_equal(history["diaObjectId"], night.prompt["diaObjectId"])
    assert metadata["n_bodies"] == np.count_nonzero(history["ssObjectId"])
    bodies = set(history["diaSourceId"][np.asarray(history["ssObjectId"]) != 0].tolist())
    assert not bodies & (set(made.dia_object["diaObjectId"].tolist()) | set(made.dia_association["diaSourceId"].tolist()))


def test_frames_without_predictions_are_associated_beside_others(night, plain):
    """Of a night before there were orbits: its asteroid founded an object, and keeps it."""
    earlier = plain.copy()
    for name, step in (("visit", 1), ("diaSourceId", 1 << 30), ("midpointMjdTai", 1.0)):
        earlier[name] -= step
    named(night, plain)
    history = associated(earlier, plain)[0].dia_source_history
    old = np.asarray(history["visit"]) == earlier["visit"][0]
    assert not np.ma.isMaskedArray(history["ssObjectId"])
    assert not history["ssObjectId"][old].any()
    assert np.isnan(history["ephRa"][old]).all()
    assert np.array_equal(history["ssObjectId"][~old], night.prompt["ssObjectId"])
    usable = np.asarray(history["reliability"]) >= 0.1
    assert (np.asarray(history["diaObjectId"])[old & usable] != 0).all()


def test_without_predictions_sources_are_as_they_were(night, plain):
    before = plain.colnames
    nowhere = night.camera.model_copy(update={"observatory": None})
    assert name_known(plain, night.orbits, nowhere, night.day_obs, PromptSettings()) is None
    assert named(night, plain, day_obs=20211020) is None  # not the night that these sources are of
    assert plain.colnames == before
    history = associated(plain)[0].dia_source_history
    assert not set(OF_BODIES) & set(history.colnames)


def test_a_frame_without_sources_has_no_body(night, plain):
    empty = plain[:0]
    assert named(night, empty) == 0
    assert set(OF_BODIES) <= set(empty.colnames)


def test_the_almanac_of_a_night_is_made_once_for_all_its_frames(night, plain, monkeypatch):
    made = []
    monkeypatch.setattr(batch, "_kept", {})
    monkeypatch.setattr(batch, "night_almanac", lambda *given: made.append(given) or night_almanac(*given))
    for day in (night.day_obs, night.day_obs, 20211020):
        named(night, plain.copy(), day_obs=day)
    faint = BodiesConfig()
    faint.faintest_mag = 10.0
    assert named(night, plain, day_obs=night.day_obs, config=faint) == 0
    assert len(made) == 3

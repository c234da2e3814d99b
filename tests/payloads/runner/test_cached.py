"""A site's cache: inputs that many jobs read come once, are the right bytes, and never more of them than it may hold."""

from __future__ import annotations

import uuid

import pytest

from backbone.cache import Cache
from tests.payloads.runner.conftest import Planned
from tests.payloads.runner.test_supervisor import forked
from workflow.job import CacheSpace, Place, infos, merged

KB = 1000


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tiny):
    """A graph whose jobs all tests run."""
    return Planned(tmp_path_factory.mktemp("cached") / "planned", tiny, None)


@pytest.fixture
def world(planned, tmp_path):
    """Jobs of the first task, over inputs whose keys are known, at a site with a cache; afterwards the inputs are as before."""

    class World:
        folder, inputs = tmp_path / "cache", sorted(planned.endpoint.list("in/tiny_in/"))

        def run(self, **space):
            space = {"max_bytes": 100 * KB, "dataset_types": ("tiny_in",), **space}
            place = Place(name="here", uri=str(planned.root), cache=CacheSpace(folder=str(self.folder), **space))
            attempt = uuid.uuid4().hex
            assert forked(planned.message(attempt, planned.quanta("first"), endpoint=place)) == 0
            return planned.outcomes(attempt)

        @property
        def cached(self):
            cache = Cache(self.folder, max_bytes=100 * KB)
            return [key for key in self.inputs if cache.holds(key)]

    world = World()
    contents = {key: planned.endpoint.get(key) for key in world.inputs}
    yield world
    for key, content in contents.items():
        planned.endpoint.put(key, content)


def values(planned, outcomes):
    """What the quanta wrote."""
    records = merged(outcome.records for outcome in outcomes)
    keys = [info.path for _, info in infos(records) if "tiny_mid" in info.path]
    return sorted(planned.endpoint.get(key) for key in keys)


def test_inputs_come_from_the_endpoint_once_and_from_the_cache_after_that(world, planned):
    first = world.run()
    assert {o.state for o in first} == {"succeeded"}
    assert len(world.inputs) == 3
    assert world.cached == world.inputs
    for key in world.inputs:
        planned.endpoint.delete(key)
    second = world.run()
    assert {o.state for o in second} == {"succeeded"}
    assert values(planned, second) == values(planned, first) != []


def test_what_is_of_one_exposure_is_not_kept_unless_a_site_says_so(world):
    assert {o.state for o in world.run(dataset_types=())} == {"succeeded"}
    assert world.cached == []


def test_what_has_no_room_is_read_in_place(world):
    assert {o.state for o in world.run(max_bytes=1)} == {"succeeded"}
    assert world.cached == []


def test_bytes_that_are_not_those_of_the_record_never_reach_the_science(world, planned):
    key = world.inputs[0]
    planned.endpoint.put(key, planned.endpoint.get(key))  # it knows its sum now
    path = planned.root / key
    path.write_bytes(path.read_bytes().replace(b"value", b"velue"))
    bad, *good = sorted(world.run(), key=lambda o: o.state)
    assert (bad.state, bad.failure_class, {o.state for o in good}) == ("failed", "infrastructure", {"succeeded"})
    assert "ChecksumMismatch" in bad.error
    assert world.cached == world.inputs[1:]

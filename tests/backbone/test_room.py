"""A place with too little room: what nothing asks for goes early, what is asked for stays."""

import pytest

from backbone.room import make_room

DAY = 86400.0
SHORT = {"name": "short", "copies": [{"at": "base"}, {"at": "ncsa", "keep": "1d"}]}


@pytest.fixture
def expired(place):
    """Four copies of 1, 2, 3 and 4 bytes at ncsa, which go in a day: nothing asks for them any more."""
    place.apply(SHORT)
    place.backbone.register("base", place.files(4), "tester")
    place.move()
    place.time += DAY
    assert place.backbone.work_off_ages() == (0, 4)
    return place


def room(place, limit, at="ncsa"):
    return make_room(place.catalog, place.catalog.endpoint_id(at), limit, now=place.time)


def test_where_there_is_room_the_grace_period_holds(expired):
    assert room(expired, 10) == 0
    assert expired.delete("ncsa") == []


def test_no_more_goes_early_than_must_and_twice_is_once(expired):
    assert room(expired, 8) == 2, "of ten bytes two are too many: the first copies have one and two"
    assert room(expired, 8) == 0, "those that are on their way out count as gone"
    assert expired.delete("ncsa") == ["k/00000", "k/00001"]
    assert room(expired, 8) == 0


def test_what_is_asked_for_again_or_the_last_copy_stays_however_full_the_place_is(expired):
    expired.backbone.require("stage", ["k/00000"], "ncsa", by=expired.time + 60, actor="engine")
    assert room(expired, 0.5) == 3
    assert expired.delete("ncsa") == ["k/00001", "k/00002", "k/00003"]
    assert room(expired, 0.5, at="base") == 0, "policies ask for everything there"
    assert expired.delete("base") == []


def test_the_floor_holds_and_what_it_keeps_is_not_asked_again_and_again(place):
    place.apply({"name": "two", "floor": 2, "copies": [{"at": "base", "keep": "1d"}, {"at": "ncsa", "keep": "1d"}]})
    place.backbone.register("base", place.files(2), "tester")
    place.move()
    place.time += DAY
    place.backbone.work_off_ages()
    assert room(place, 1) == 2
    assert place.delete("ncsa") == []
    assert room(place, 1) == 0
    assert place.states("k/00001") == {"base": "AVAILABLE", "ncsa": "AVAILABLE"}


def test_a_mover_makes_room_at_the_places_that_have_a_limit(make_place, catalog_url):
    place = make_place(catalog_url)
    ncsa = place.settings.endpoints["ncsa"].model_copy(update={"room_gb": 8e-9})
    place.settings.endpoints["ncsa"] = ncsa
    place.apply(SHORT)
    place.backbone.register("base", place.files(4), "tester")
    place.move()
    place.time += DAY
    place.backbone.work_off_ages()
    assert place.backbone.make_room() == 2

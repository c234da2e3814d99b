"""A change of policies is walked through in batches: registration goes on meanwhile, and whoever dies, the walk is ended."""

import pytest

from backbone import tables as t

DAY = 86400.0
TWO = {"name": "raw", "copies": [{"at": "ncsa"}, {"at": "ccin2p3", "keep": "10d"}]}


@pytest.fixture
def place(make_place, catalog_url):
    """A backbone that takes four files at a time."""
    return make_place(catalog_url, batch=4)


def rows(place):
    """Everything that policies decide, but for numbers that tell when."""
    names = {
        t.transfer: ("file", "target", "state", "priority"),
        t.replica: ("file", "endpoint", "state", "due"),
        t.want: ("cohort", "endpoint", "copied_to", "copy_at", "expired_to", "expire_at"),
    }
    with place.catalog.read() as connection:
        return [
            sorted(tuple(getattr(row, n) for n in chosen) for row in connection.execute(table.select()))
            for table, chosen in names.items()
        ]


def register(place, count, prefix, **about):
    return place.backbone.register("base", place.files(count, prefix=prefix, **about), "tester")


def test_registration_goes_on_while_a_change_is_applied(place):
    register(place, 10, "old")
    seen = []

    def say(walked):
        seen.append((walked.files, walked.of))
        assert register(place, 1, f"meanwhile{len(seen)}") == 1, "this would wait for ever if the change held it up"

    place.backbone.apply_policies(place.policies(TWO), "anna", say=say)
    assert seen == [(4, 10), (8, 10), (10, 10)]
    assert place.count(t.transfer) == 2 * (10 + 3), "old files and those that came meanwhile, each once for each place"
    assert (place.count(t.change), place.count(t.walk)) == (0, 0)


def test_kinds_of_files_that_appear_while_the_effect_is_counted_get_their_copies_too(place, monkeypatch):
    from backbone import policy_change

    register(place, 2, "old")
    count = policy_change._effect

    def counted(*args):
        register(place, 3, "new", dataset_type="calexp")
        return count(*args)

    monkeypatch.setattr(policy_change, "_effect", counted)
    place.apply(TWO)
    assert place.count(t.transfer) == 2 * 5


def test_a_change_whose_maker_dies_is_ended_by_movers_and_has_the_same_end(make_place, catalog_url, tmp_path, sqlite_template):
    import shutil

    other = tmp_path / "other.sqlite3"
    shutil.copyfile(sqlite_template, other)
    broken, whole = make_place(catalog_url, batch=4), make_place(f"sqlite:///{other}", batch=1000)
    for place in (broken, whole):
        place.apply({"name": "raw", "copies": [{"at": "ncsa"}]})
        for age in range(12):
            register(place, 1, f"old{age:02d}", created=place.time - age * DAY)
        place.move()

    def dies(_walked):
        raise KeyboardInterrupt

    new = {"name": "raw", "copies": [{"at": "ccin2p3", "after": "2d", "keep": "9d"}]}
    with pytest.raises(KeyboardInterrupt):
        broken.backbone.apply_policies(broken.policies(new), "anna", say=dies)
    whole.apply(new)
    assert broken.backbone.policies_in_force() == whole.backbone.policies_in_force()
    assert rows(broken) != rows(whole)
    assert "being worked off" in str(broken.backbone.explain("old05/00000").missing)
    assert [broken.backbone.work_off_changes() for _ in range(3)] == [4, 4, 0]
    assert rows(broken) == rows(whole)
    assert broken.backbone.explain("old05/00000").missing[0].state == "PENDING"


def test_a_change_waits_for_the_walk_of_the_one_before(place):
    register(place, 10, "old")

    def dies(_walked):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.backbone.apply_policies(place.policies(TWO), "anna", say=dies)
    effect = place.apply({"name": "raw", "copies": [{"at": "ccin2p3", "keep": "10d"}]})
    assert [(e.endpoint, e.copies) for e in effect.endpoints] == [("ncsa", 0)]
    assert place.count(t.transfer) == 10
    assert place.count(t.walk) == 0


def test_what_outlives_its_keeping_while_a_change_is_walked_is_not_asked_for(place):
    register(place, 8, "old", created=place.time - 9.5 * DAY)

    def later(_walked):
        place.time += DAY
        place.backbone.work_off_ages()

    place.backbone.apply_policies(place.policies({"name": "raw", "copies": [{"at": "ncsa", "keep": "10d"}]}), "anna", say=later)
    assert place.count(t.transfer) == 0

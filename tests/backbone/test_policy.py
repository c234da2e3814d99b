"""Policies: read strictly, put in force as they said they would, worked off by age, and deleting nothing below the floor."""

import threading

import pytest
import sqlalchemy as sa

from backbone import tables as t
from backbone.ages import work_off
from backbone.errors import PolicyError
from backbone.expiry import begin_deletions, deleted
from backbone.history import history_of, recent
from backbone.policy import Policy, load_policies
from backbone.policy_plan import plan_for
from backbone.transfers import done, failed, transfers, wake

DAY = 86400.0
SHARED = {"dataset_type": "raw", "collection": "cam/raw/all", "instrument": "cam", "tags": "[]", "retention": "permanent"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policies: [{name: a, copys: []}]", "did you mean 'copies'"),
        ("policies: [{name: a, match: {dataset_type: [raw]}}]", "did you mean 'dataset_types'"),
        ("policies: [{name: a, copies: [{at: nsca}]}]", "did you mean 'ncsa'"),
        ("policies: [{name: a, copies: [{at: ncsa, within: soon}]}]", "no duration"),
        ("policies: [{name: a, copies: [{at: ncsa, priority: 101}]}]", "priority"),
        ("policies: [{name: a, copies: [{at: ncsa}, {at: ncsa}]}]", "two copies at one endpoint"),
        ("policies: [{name: a, public: {after: 2d, latest: 1d}}]", "latest is before after"),
        ("policies: [{name: a, floor: 0, copies: [{at: ncsa, keep: 1d}]}]", "only unarchived"),
        ("policies: [{name: a, unarchived: true, copies: [{at: ncsa, keep: 29d}, {at: base, keep: 30d}]}]", "30d"),
        ("policies: [{name: a, unarchived: true, copies: [{at: ncsa, keep: 30d}]}]", "two endpoints"),
        ("policies: [{name: a}, {name: a}]", "twice"),
        ("policies: [", "YAML"),
    ],
)
def test_mistake_is_named_with_its_place_and_the_nearest_right_word(tmp_path, text, said):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=said):
        load_policies([path], ["base", "ncsa"])


def test_policy_for_an_unknown_endpoint_is_refused_before_anything_changes(place):
    with pytest.raises(PolicyError, match="did you mean 'ncsa'"):
        place.apply({"name": "a", "copies": [{"at": "nsca"}]})
    assert place.backbone.policies_in_force() == ()


def test_durations_are_read_in_their_units(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("policies: [{name: a, copies: [{at: ncsa, within: 90s, after: 6h, keep: 1.5d}, {at: base, keep: 2w}]}]")
    (policy,) = load_policies([path], ["base", "ncsa"])
    assert [(c.within, c.after, c.keep) for c in policy.copies] == [(90, 21600, 1.5 * DAY), (DAY, 0, 14 * DAY)]
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy


@pytest.mark.parametrize(
    ("match", "meant"),
    [
        ({}, True),
        ({"dataset_types": ["r*"], "collections": ["*/raw/*"]}, True),
        ({"dataset_types": ["calexp"]}, False),
        ({"collections": ["*/raw"]}, False),
        ({"instruments": ["cam", "other"]}, True),
        ({"tags": ["night"]}, True),
        ({"tags": ["night", "deep"]}, False),
        ({"retention": ["permanent"]}, True),
    ],
)
def test_policy_means_the_files_it_says(match, meant):
    policy = Policy.model_validate({"name": "a", "match": match, "copies": [{"at": "ncsa"}]})
    assert bool(plan_for([policy], {**SHARED, "tags": '["night"]'}, ["ncsa"]).wants) is meant


def test_policies_that_meet_at_an_endpoint_give_the_most_of_each():
    one = {"name": "one", "floor": 2, "copies": [{"at": "ncsa", "priority": 20, "within": "1h", "keep": "10d"}]}
    two = {"name": "two", "copies": [{"at": "ncsa", "priority": 80, "within": "1d", "after": "1d"}, {"at": "base"}]}
    plan = plan_for([Policy.model_validate(one), Policy.model_validate(two)], SHARED, ["ncsa", "base"])
    want = plan.wants["ncsa"]
    assert (want.priority, want.within_s, want.after_s, want.keep_s, want.policies) == (80, 3600, 0, None, ("one", "two"))
    assert (plan.floor, plan.drop_after_s) == (2, None)


def test_ages_in_the_match_bound_every_copy():
    definition = {"name": "a", "match": {"older_than": "1d", "younger_than": "9d"}, "copies": [{"at": "ncsa", "after": "1h"}]}
    want = plan_for([Policy.model_validate(definition)], SHARED, ["ncsa"]).wants["ncsa"]
    assert (want.after_s, want.keep_s) == (DAY, 9 * DAY)


def test_change_shows_its_effect_and_then_has_just_that(place):
    raw, other = place.files(10), place.files(5, prefix="c", dataset_type="calexp")
    place.backbone.register("base", raw + other, "tester")
    place.backbone.register("ncsa", raw[:4], "tester")
    policies = place.policies({"name": "raw", "match": {"dataset_types": ["raw"]}, "copies": [{"at": "ncsa"}]})
    effect = place.backbone.effect(policies)
    assert (effect.added, effect.cohorts) == (("raw",), 1)
    (ncsa,) = effect.endpoints
    assert (ncsa.endpoint, ncsa.copies, ncsa.copy_bytes, ncsa.deletions) == ("ncsa", 6, sum(f.size for f in raw[4:]), 0)
    assert place.count(t.transfer) == 0
    assert place.backbone.apply_policies(policies, "anna") == effect
    assert place.count(t.transfer) == 6
    assert place.move() == 6
    assert place.backbone.effect(policies).cohorts == 0
    (event,) = recent(place.catalog, what="policies")
    assert (event.actor, event.why) == ("anna", "added: raw")
    # Taken back: what the backbone copied goes after a day, what others brought there stays.
    effect = place.backbone.effect([])
    assert [(e.copies, e.deletions, e.deletion_bytes) for e in effect.endpoints] == [(0, 6, sum(f.size for f in raw[4:]))]
    assert place.backbone.apply_policies([], "anna") == effect
    assert place.delete("ncsa") == []
    place.time += DAY + 1
    assert place.delete("ncsa") == [f.key for f in raw[4:]]
    assert place.backbone.present([f.key for f in raw], "ncsa") == {f.key for f in raw[:4]}


def test_change_touches_only_what_differs(place):
    raw = {"name": "raw", "match": {"dataset_types": ["raw"]}, "copies": [{"at": "ncsa"}]}
    calexp = {"name": "calexp", "match": {"dataset_types": ["calexp"]}, "copies": [{"at": "ncsa"}]}
    place.apply(raw, calexp)
    place.backbone.register("base", place.files(3) + place.files(2, prefix="c", dataset_type="calexp"), "tester")
    before = {x.key: x.deadline for x in _transfers(place)}
    place.time += 60
    effect = place.apply({**raw, "description": "said in other words"}, {**calexp, "copies": [{"at": "ccin2p3"}]})
    assert (effect.changed, effect.cohorts) == (("calexp", "raw"), 1)
    after = {(x.key, x.target): x.deadline for x in _transfers(place)}
    assert {key: deadline for (key, target), deadline in after.items() if target == "ncsa"} == {
        key: deadline for key, deadline in before.items() if key.startswith("k")
    }
    assert sorted(key for key, target in after if target == "ccin2p3") == ["c/00000", "c/00001"]


def _transfers(place):
    return transfers(place.catalog)


def test_policies_of_the_settings_come_into_force_once_and_change_by_command_alone(make_place, catalog_url, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("policies: [{name: raw, copies: [{at: ncsa}]}]")
    place = make_place(catalog_url, policies=(path,))
    assert [p.name for p in place.backbone.policies_in_force()] == ["raw"]
    path.write_text("policies: [{name: raw, copies: [{at: ccin2p3}]}]")
    again = make_place(catalog_url, policies=(path,))
    assert again.backbone.policies_in_force()[0].copies[0].at == "ncsa"
    assert again.backbone.effect(again.backbone.policies_as_written()).changed == ("raw",)


def test_copy_from_an_age_on_is_asked_for_at_that_age(place):
    place.apply({"name": "old", "copies": [{"at": "ncsa", "after": "1d"}]})
    place.backbone.register("base", place.files(3), "tester")
    place.time += DAY / 2
    place.backbone.register("base", place.files(2, prefix="later"), "tester")
    assert place.backbone.work_off_ages() == (0, 0)
    assert place.backbone.explain("k/00000").asks[1].state == "NOT_YET"
    place.time += DAY / 2
    assert place.backbone.work_off_ages() == (3, 0)
    assert place.backbone.work_off_ages() == (0, 0)
    # A file that is registered at that age already needs no waiting.
    place.backbone.register("base", place.files(1, prefix="late", created=place.time - 2 * DAY), "tester")
    assert {x.key for x in _transfers(place)} == {"k/00000", "k/00001", "k/00002", "late/00000"}
    place.time += DAY / 2
    assert place.backbone.work_off_ages() == (2, 0)
    assert place.move() == 6


def test_file_registered_by_a_clock_that_is_behind_is_not_missed(place):
    place.apply({"name": "old", "copies": [{"at": "base"}, {"at": "ncsa", "after": "1d", "keep": "9d"}]})
    place.backbone.register("base", place.files(1), "tester")
    place.time += DAY + 60
    assert place.backbone.work_off_ages() == (1, 0)
    created = place.time - DAY - 10
    place.time -= 30  # the registrar's clock: for it this file is not a day old
    place.backbone.register("base", place.files(1, prefix="behind", created=created), "tester")
    place.time += 30
    assert place.backbone.work_off_ages()[0] == 1
    assert place.move() == 2
    place.time = created + 9 * DAY
    assert place.backbone.work_off_ages() == (0, 2)
    place.backbone.register("ncsa", place.files(1, prefix="late", created=created), "tester")
    place.time += 1
    assert place.backbone.work_off_ages() == (0, 1), "kept its time before it was registered"


def test_ages_cost_nothing_while_none_is_due(place):
    place.apply({"name": "old", "copies": [{"at": "ncsa", "after": "1d", "keep": "9d"}]})
    for number in range(5):
        place.backbone.register("base", place.files(2, prefix=f"p{number}", collection=f"c{number}"), "tester")
    statements = []
    sa.event.listen(place.catalog._engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    assert work_off(place.catalog, now=place.time, grace_s=0) == (0, 0)
    assert len([s for s in statements if "bb_want" in s]) == len([s for s in statements if s.startswith("SELECT")]) == 2


def test_unarchived_files_are_kept_thirty_days_at_both_ends_and_then_dropped_with_their_provenance(place):
    copies = [{"at": "base", "keep": "30d"}, {"at": "ncsa", "keep": "30d"}]
    place.apply({"name": "l1", "match": {"dataset_types": ["calexp"]}, "unarchived": True, "copies": copies})
    files = place.files(3, dataset_type="calexp")
    wanted = [f.key for f in files]
    place.backbone.register("ccin2p3", files, "tester")
    assert place.move() == 6
    place.time += 30 * DAY - 1
    place.backbone.work_off_ages()
    assert [place.delete(name) for name in place.backbone.endpoints] == [[], [], []]
    assert place.backbone.present(wanted, "base") == place.backbone.present(wanted, "ncsa") == set(wanted)
    place.time += 1
    assert place.backbone.work_off_ages() == (0, 9)
    place.time += DAY + 1
    assert [place.delete(name) for name in place.backbone.endpoints] == [wanted] * 3
    explanation = place.backbone.explain(wanted[0])
    assert explanation.dropped == place.time
    assert {ask.state for ask in explanation.asks} == {"OVER"}
    assert [e.what for e in history_of(place.catalog, wanted[0])] == ["registered", "copied", "copied", *["deleted"] * 3]
    # The same file made once more from its provenance is a file again.
    assert place.backbone.register("base", files[:1], "tester") == 0
    assert place.backbone.explain(wanted[0]).dropped is None


@pytest.mark.parametrize("repaired", [True, False])
def test_a_copy_found_bad_after_its_time_is_made_again_and_goes_all_the_same(place, repaired):
    copies = [{"at": "base", "keep": "30d"}, {"at": "ncsa", "keep": "30d"}]
    place.apply({"name": "l1", "match": {"dataset_types": ["calexp"]}, "unarchived": True, "copies": copies})
    place.backbone.register("base", place.files(1, dataset_type="calexp"), "tester")
    (key,) = (f.key for f in place.files(1))
    place.move()
    place.time += 30 * DAY
    place.backbone.work_off_ages()
    place.backbone.mark([key], "ncsa", "BAD", actor="scrub", why="rotten")
    place.time += DAY + 1
    if not repaired:  # nothing may be removed where a mover may be writing at this moment
        assert (place.delete("ncsa"), place.delete("base")) == ([], [])
        assert place.take("base", "ncsa")
        assert place.delete("ncsa") == []
        wake(place.catalog, now=place.time + 61)
    assert place.move() == 1
    place.time += 700  # what stayed is looked at again
    assert (place.delete("ncsa"), place.delete("base")) == ([key], [key])
    assert place.backbone.explain(key).dropped == place.time


def test_nothing_is_deleted_below_the_floor(place):
    place.apply({"name": "two", "floor": 2, "copies": [{"at": "base", "keep": "1d"}, {"at": "ncsa", "keep": "1d"}]})
    place.backbone.register("base", place.files(2), "tester")
    place.move()
    place.time += 3 * DAY
    assert place.backbone.work_off_ages() == (0, 4)
    place.time += 2 * DAY
    assert place.delete("base") == []
    assert place.delete("ncsa") == []
    (reason,) = {r.reason for r in place.backbone.locate(["k/00000"])["k/00000"] if r.endpoint == "base"}
    assert "floor is 2" in reason
    place.backbone.register("ccin2p3", place.files(2), "tester")
    place.time += 601
    assert place.delete("base") == ["k/00000", "k/00001"]
    place.time += 601
    assert place.delete("ncsa") == [], "base's went first: two are left"


def test_copy_that_others_are_being_made_from_stays_for_now(place):
    place.apply({"name": "move", "copies": [{"at": "base", "keep": "1d"}, {"at": "ncsa"}, {"at": "ccin2p3"}]})
    place.backbone.register("base", place.files(1), "tester")
    done(place.catalog, place.take("base", "ncsa"), now=place.time)
    place.time += 3 * DAY
    place.backbone.work_off_ages()
    place.time += 2 * DAY
    assert place.delete("base") == []
    place.move()
    place.time += 601
    assert place.delete("base") == ["k/00000"]


def test_copy_without_fetch_is_kept_where_it_is_found_but_never_brought_there(place):
    copies = [{"at": "ncsa"}, {"at": "ccin2p3", "keep": "7d", "fetch": False}]
    place.apply({"name": "site", "copies": copies})
    place.backbone.register("ccin2p3", place.files(1), "tester")
    place.backbone.register("base", place.files(1, prefix="b"), "tester")
    assert place.move() == 2
    assert place.states("b/00000") == {"base": "AVAILABLE", "ncsa": "AVAILABLE"}
    place.time += 7 * DAY
    place.backbone.work_off_ages()
    place.time += DAY + 1
    assert place.delete("ccin2p3") == ["k/00000"]
    assert place.states("k/00000") == {"ncsa": "AVAILABLE"}


def test_longer_keeping_saves_what_was_about_to_go(place):
    short = {"name": "a", "copies": [{"at": "base"}, {"at": "ncsa", "keep": "1d"}]}
    place.apply(short)
    place.backbone.register("base", place.files(2), "tester")
    place.move()
    place.time += DAY
    assert place.backbone.work_off_ages() == (0, 2)
    place.apply({**short, "copies": [{"at": "base"}, {"at": "ncsa", "keep": "10d"}]})
    place.time += 2 * DAY
    assert place.delete("ncsa") == []
    place.time += 7 * DAY
    assert place.backbone.work_off_ages() == (0, 2)


def test_explanation_says_who_asks_and_what_is_missing(place):
    place.apply({"name": "raw", "copies": [{"at": "ncsa", "priority": 80}, {"at": "ccin2p3", "within": "1h"}]})
    place.backbone.register("base", place.files(1), "tester")
    place.backbone.require("stage", ["k/00000"], "ncsa", by=place.time + 60, actor="engine")
    done(place.catalog, place.take("base", "ncsa"), now=place.time)
    (transfer,) = place.take("base", "ccin2p3")
    failed(place.catalog, transfer, reason="disk full", delay_s=60, now=place.time)
    explanation = place.backbone.explain("k/00000")
    assert {(a.endpoint, a.by, a.state) for a in explanation.asks} == {
        ("base", (), "AVAILABLE"),
        ("ncsa", ("policy raw",), "AVAILABLE"),
        ("ncsa", ("rule stage",), "AVAILABLE"),
        ("ccin2p3", ("policy raw",), "WAITING"),
    }
    (missing,) = explanation.missing
    assert missing.endpoint == "ccin2p3"
    assert "from ncsa" in missing.lacking, "the copy made meanwhile is the next to try"
    assert "disk full" in missing.lacking


def test_two_places_never_delete_each_others_last_copy(make_place, postgresql_catalog):
    """Deletion at both begins at the same moment, over and over: one copy is always left."""
    first, second = make_place(postgresql_catalog), make_place(postgresql_catalog)
    first.apply({"name": "a", "copies": [{"at": "base", "keep": "1d"}, {"at": "ncsa", "keep": "1d"}]})
    first.backbone.register("base", first.files(200), "tester", manifest=False)
    first.move()
    first.time += 3 * DAY
    first.backbone.work_off_ages()
    now = first.time + 2 * DAY
    errors = []

    def delete(place, name):
        try:
            number = place.catalog.endpoint_id(name)
            while begun := begin_deletions(place.catalog, number, limit=3, worker=name, lease_s=60, now=now):
                deleted(place.catalog, begun, now=now)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=delete, args=pair) for pair in ((first, "base"), (second, "ncsa"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    wanted = [f.key for f in first.files(200)]
    assert first.backbone.present(wanted, "base") | first.backbone.present(wanted, "ncsa") == set(wanted)
    assert first.count(t.replica) < 400

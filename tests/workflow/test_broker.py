"""Choosing a site: pure decisions."""

from __future__ import annotations

import pytest

from workflow.broker import SiteFacts, Word, choose, shares

ANY = Word()


def facts(name, **more):
    return SiteFacts(name=name, **{"groups": 0, **more})


def decide(*sites, word=ANY, share=None, groups_in_all=1, input_bytes=0):
    return choose(list(sites), word=word, share=share or {}, groups_in_all=groups_in_all, input_bytes=input_bytes)


def test_a_group_goes_where_its_inputs_are():
    found = decide(facts("a", present_bytes=10, free_slots=9), facts("b", present_bytes=90), input_bytes=100)
    assert found.site == "b"
    assert "90% of the input bytes are there" in found.reason


def test_where_inputs_are_everywhere_free_slots_decide_and_then_the_name():
    assert decide(facts("a", free_slots=1), facts("b", free_slots=2)).site == "b"
    assert decide(facts("b"), facts("a")).site == "a"


@pytest.mark.parametrize("count", [1, 2, 5, 8, 31])
@pytest.mark.parametrize("share", [{"a": 0.5, "b": 0.5}, {"a": 0.75, "b": 0.25}])
def test_shares_are_held_to_within_a_group_wherever_the_inputs_are(count, share):
    done = {"a": 0, "b": 0}
    for _ in range(count):
        here = [facts(s, groups=n, present_bytes=100 if s == "b" else 0) for s, n in done.items()]
        done[decide(*here, share=share, groups_in_all=count, input_bytes=100).site] += 1
    assert all(abs(done[site] - part * count) <= 0.5 for site, part in share.items())


def test_a_site_without_a_share_is_taken_only_where_all_others_are_forbidden():
    sites = [facts("a"), facts("b"), facts("c", free_slots=99)]
    share = {"a": 0.5, "b": 0.5}
    assert decide(*sites, share=share).site == "a"
    assert decide(*sites, share=share, word=Word(never=("a", "b"))).site == "c"


def test_an_operators_word_is_above_all_else():
    sites = [facts("a", present_bytes=100, free_slots=9), facts("b")]
    found = decide(*sites, word=Word(only=("b",)), share={"a": 1.0}, input_bytes=100)
    assert (found.site, found.reason) == ("b", "b is the only site allowed")
    nowhere = decide(*sites, word=Word(never=("a", "b")))
    assert nowhere.site is None
    assert "never a, b" in nowhere.reason


def test_the_same_facts_in_another_order_give_the_same_site():
    sites = [facts(n, groups=g, free_slots=s) for n, g, s in (("a", 2, 1), ("b", 1, 1), ("c", 1, 1))]
    share = {"a": 0.4, "b": 0.3, "c": 0.3}
    found = {decide(*order, share=share, groups_in_all=9).site for order in (sites, sites[::-1], sites[1:] + sites[:1])}
    assert len(found) == 1


def test_a_narrower_word_replaces_the_only_and_adds_to_the_never():
    both = Word(only=("a", "b"), never=("c",), never_machines=("m1",)) + Word(only=("b",), never=("d",), never_machines=("m2",))
    assert both == Word(only=("b",), never=("c", "d"), never_machines=("m1", "m2"))


def test_shares_name_only_sites_that_there_are():
    assert shares({"ncsa": 0.5, "ccin2p3": 0.5}, ["local"]) == {}
    assert shares({"ncsa": 0.5, "ccin2p3": 0.5}, ["ncsa", "local"]) == {"ncsa": 1.0}
    assert shares({"a": 1, "b": 3}, ["a", "b"]) == {"a": 0.25, "b": 0.75}

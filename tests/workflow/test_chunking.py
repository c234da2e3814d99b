"""How quanta become jobs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from workflow.chunking import Waiting, chunks, target


def quanta(*names, s=1.0, mb=100):
    return [Waiting(id=n, expected_s=s, memory_mb=mb) for n in names]


def ids(found):
    return [list(c.quanta) for c in found]


def test_independent_quanta_fill_chunks_up_to_their_time():
    assert ids(chunks(quanta(*"abcde"), {}, target_s=2, max_quanta=10)) == [["a", "b"], ["c", "d"], ["e"]]


def test_a_chunk_holds_no_more_than_its_number():
    assert ids(chunks(quanta(*"abc"), {}, target_s=100, max_quanta=2)) == [["a", "b"], ["c"]]


def test_a_quantum_longer_than_the_target_is_alone():
    assert ids(chunks(quanta("a", "b", s=9), {}, target_s=2, max_quanta=10)) == [["a"], ["b"]]


def test_chained_quanta_share_a_chunk():
    found = chunks(quanta("a1", "b1", "a2", "b2"), {"a2": ["a1"], "b2": ["b1"]}, target_s=2, max_quanta=10)
    assert ids(found) == [["a1", "a2"], ["b1", "b2"]]


def test_a_gathering_quantum_waits_where_its_parents_do_not_fit_one_chunk():
    assert ids(chunks(quanta("a", "b", "g"), {"g": ["a", "b"]}, target_s=2, max_quanta=10)) == [["a", "b"]]
    assert ids(chunks(quanta("a", "b", "g"), {"g": ["a", "b"]}, target_s=3, max_quanta=10)) == [["a", "b", "g"]]


def test_a_quantum_whose_parent_is_in_another_job_waits_and_so_do_its_children():
    assert ids(chunks(quanta("b", "c", "d"), {"b": ["elsewhere"], "c": ["b"]}, target_s=9, max_quanta=9)) == [["d"]]


def test_quanta_that_need_more_memory_do_not_make_the_others_ask_for_it():
    found = chunks(quanta("a") + quanta("b", mb=900) + quanta("c"), {}, target_s=9, max_quanta=9)
    assert {(c.quanta, c.memory_mb) for c in found} == {(("a", "c"), 100), (("b",), 900)}


def test_work_is_spread_over_free_slots_but_not_into_jobs_too_short_to_start():
    assert target(60, 10, 100, 4) == 25
    assert target(60, 10, 1000, 4) == 60
    assert target(60, 10, 5, 4) == 10


@settings(deadline=None)
@given(st.data())
def test_no_quantum_is_lost_twice_or_before_its_parents(data):
    n = data.draw(st.integers(1, 30))
    waiting = [
        Waiting(id=str(i), expected_s=data.draw(st.floats(0.1, 5)), memory_mb=data.draw(st.sampled_from([1, 2])))
        for i in range(n)
    ]
    parents = {str(i): [str(p) for p in data.draw(st.sets(st.integers(0, max(i - 1, 0)), max_size=3)) if p < i] for i in range(n)}
    size = data.draw(st.integers(1, 8))
    found = chunks(waiting, parents, target_s=6, max_quanta=size)
    order = [q for c in found for q in c.quanta]
    assert len(order) == len(set(order))
    for c in found:
        assert len(c.quanta) <= size
        for i, q in enumerate(c.quanta):
            assert set(parents[q]) <= set(c.quanta[:i])
    assert {w.id for w in waiting if not parents[w.id]} <= set(order)

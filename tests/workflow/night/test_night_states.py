"""Life cycles of nights, workers and parts: every pair of state and event."""

from itertools import product

import pytest

from workflow.errors import IllegalTransition
from workflow.night.states import (
    NIGHT_TABLE,
    PART_TABLE,
    PART_TERMINAL,
    WORKER_TABLE,
    WORKER_TERMINAL,
    NightState,
    PartState,
    WorkerState,
)
from workflow.states import follow

TABLES = {"night": (NIGHT_TABLE, NightState), "worker": (WORKER_TABLE, WorkerState), "part": (PART_TABLE, PartState)}


@pytest.mark.parametrize("name", TABLES)
def test_every_pair_has_one_end_or_is_refused(name):
    table, states = TABLES[name]
    events = {event for _, event, _ in table}
    for state, event in product(states, events):
        ends = [end for begin, what, end in table if (begin, what) == (state, event)]
        assert len(ends) <= 1
        if ends:
            assert follow(table, state, event) is ends[0]
        else:
            with pytest.raises(IllegalTransition):
                follow(table, state, event)


def test_what_has_ended_is_changed_by_nothing_but_a_success_that_came_after_all():
    for begin, event, end in PART_TABLE:
        if begin in PART_TERMINAL and end is not begin:
            assert (event, end) == ("succeeded", PartState.SUCCEEDED)


def test_a_worker_that_is_gone_does_not_come_back():
    assert not [row for row in WORKER_TABLE if row[0] in WORKER_TERMINAL]


def test_whatever_a_worker_reports_of_a_part_has_a_row():
    for state, event in product(PartState, ("progress", "succeeded", "failed", "cancelled")):
        follow(PART_TABLE, state, event)

"""Every pair of state and event: what is in a table leads where it says, anything else raises."""

from __future__ import annotations

import itertools

import pytest

from workflow import states as s
from workflow.errors import IllegalTransition

TABLES = {
    "campaign": (s.CAMPAIGN_TABLE, s.CampaignState, s.CAMPAIGN_TERMINAL),
    "step": (s.STEP_TABLE, s.StepState, s.STEP_TERMINAL),
    "quantum": (s.QUANTUM_TABLE, s.QuantumState, s.QUANTUM_TERMINAL),
    "job": (s.JOB_TABLE, s.JobState, s.JOB_TERMINAL),
}
PAIRS = [
    (name, state, event)
    for name, (table, enum, _) in TABLES.items()
    for state, event in itertools.product(enum, sorted({row[1] for row in table}))
]


@pytest.mark.parametrize(("name", "state", "event"), PAIRS)
def test_every_pair_of_state_and_event_is_decided(name, state, event):
    table = TABLES[name][0]
    rows = [after for before, what, after in table if (before, what) == (state, event)]
    if rows:
        assert s.follow(table, state, event) is rows[0]
        assert len(rows) == 1
    else:
        with pytest.raises(IllegalTransition, match=event):
            s.follow(table, state, event)


@pytest.mark.parametrize("name", TABLES)
def test_no_terminal_state_is_left_but_by_a_persons_word_or_a_pools(name):
    table, _, terminal = TABLES[name]
    words = {"retry", "replan", "hotfix", "cancel", "end"}
    assert all(event in words for before, event, after in table if before in terminal and before is not after)


def test_a_success_is_final():
    assert not [row for row in s.QUANTUM_TABLE if row[0] is s.QuantumState.SUCCEEDED]


def test_sources_say_from_where_an_event_may_start():
    before, after = s.sources(s.QUANTUM_TABLE, "exhaust")
    assert (set(before), after) == ({"PENDING", "RUNNING"}, "FAILED")
    with pytest.raises(IllegalTransition):
        s.sources(s.QUANTUM_TABLE, "retry")
    with pytest.raises(IllegalTransition):
        s.sources(s.QUANTUM_TABLE, "no such event")

"""Whole jobs in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from payloads.runner.quanta import load
from payloads.runner.supervisor import run_job
from workflow.job import EXIT_BROKEN, EXIT_PREEMPTED, JobMessage, from_json, heartbeat_key


def forked(message: JobMessage) -> int:
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = run_job(message)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_job_reports_each_quantum_as_it_ends_with_what_it_took_and_wrote(make_planned):
    planned = make_planned()
    firsts, seconds = planned.quanta("first"), planned.quanta("second")
    assert forked(planned.message("j1", [*firsts, *seconds])) == 0
    segments, outcomes = planned.segments("j1"), planned.outcomes("j1")
    # A busy machine may write several that ended since the last flush together; each is there, once, before the end is said.
    assert all(s.outcomes for s in segments[:-1])
    assert sorted(o.quantum for s in segments[:-1] for o in s.outcomes) == sorted([*firsts, *seconds])
    assert [s.final for s in segments] == [False] * (len(segments) - 1) + [True]
    assert {o.state for o in outcomes} == {"succeeded"}
    assert all(o.wall_s > 0 and o.cpu_s > 0 and o.peak_mb > 10 and not o.unwritten for o in outcomes)
    by_quantum = {o.quantum: o for o in outcomes}
    parents = {e["child"]: e["parent"] for e in planned.group.edges}
    assert {q: by_quantum[q].reads for q in seconds} == {q: (parents[q],) for q in seconds}
    for o in outcomes:
        for by_table in from_json(o.records).records.values():
            (info,) = [i for infos in by_table.values() for i in infos]
            assert info.path.startswith("_a/j1/")
            assert (planned.root / info.path.split("#")[0]).is_file()
    assert planned.endpoint.get(heartbeat_key("j1"))


def test_a_job_that_its_pool_starts_anew_overwrites_nothing_and_says_that_it_was_evicted(make_planned):
    planned = make_planned()
    firsts = planned.quanta("first")
    assert forked(planned.message("j1", firsts)) == 0
    wrote = {key: planned.endpoint.get(key) for key in planned.endpoint.list("_a/j1/")}
    assert forked(planned.message("j1", firsts)) == EXIT_PREEMPTED
    assert {key: planned.endpoint.get(key) for key in planned.endpoint.list("_a/j1/")} == wrote


def test_an_input_that_nobody_accepted_is_missing_even_where_it_lies_about(make_planned):
    """It is there, written by another attempt: no path is guessed, and an absent input is no success."""
    planned = make_planned()
    assert forked(planned.message("j1", planned.quanta("first"))) == 0
    seconds = planned.quanta("second")
    assert forked(planned.message("j2", seconds)) == 0
    outcomes = planned.outcomes("j2")
    assert [(o.state, o.failure_class) for o in outcomes] == [("failed", "missing_input")] * 3
    assert "tiny_mid" in outcomes[0].error
    from workflow.job import merged, to_json

    shipped = to_json(merged([planned.group.row["init_records"], *(o.records for o in planned.outcomes("j1"))]))
    assert forked(planned.message("j3", seconds, records=shipped)) == 0
    assert [(o.state, o.reads) for o in planned.outcomes("j3")] == [("succeeded", ())] * 3


@pytest.mark.kill
def test_a_job_that_is_told_to_stop_reports_what_it_did_and_the_quantum_it_was_at(make_planned, tmp_path):
    begun = tmp_path / "begun"
    planned = make_planned({(1, 1): {"do": "wait", "until": str(tmp_path / "never"), "mark": str(begun)}})
    message = planned.message("j1", planned.quanta("first"), flush_s=3600)
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = run_job(message)
        finally:
            os._exit(code)
    for _ in range(6000):  # until it is at the one that waits
        if begun.exists():
            break
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == EXIT_PREEMPTED
    (segment,) = planned.segments("j1")
    assert (segment.final, segment.reason) == (True, "told to stop")
    assert segment.outcomes[-1].failure_class == "preempted"
    assert all(o.state == "succeeded" for o in segment.outcomes[:-1])


@pytest.mark.kill
def test_the_death_of_one_quantum_costs_its_descendants_and_nobody_else(make_planned):
    planned = make_planned({(1, 1): {"do": "kill"}})
    assert forked(planned.message("j1", [*planned.quanta("first"), *planned.quanta("second")])) == 0
    outcomes = planned.outcomes("j1")
    assert sorted(o.failure_class or "well" for o in outcomes) == ["signal", "well", "well", "well", "well"]


def test_a_job_whose_graph_is_not_there_says_so_and_ends(make_planned):
    planned = make_planned()
    message = planned.message("j1", planned.quanta("first")).model_copy(update={"graph_key": "graphs/none.qg"})
    assert forked(message) == EXIT_BROKEN
    (segment,) = planned.segments("j1")
    assert "cannot begin: ObjectAbsent" in segment.reason


def test_only_the_jobs_quanta_are_loaded_parents_first(make_planned):
    planned = make_planned()
    mixed = [*planned.quanta("second")[:1], *planned.quanta("first")]
    work = load(planned.message("j1", mixed), planned.endpoint)
    assert set(work.quanta) == set(mixed)
    order = work.order
    for quantum, parents in work.parents.items():
        assert all(order.index(p) < order.index(quantum) for p in parents)


@pytest.mark.slow
def test_the_module_runs_as_a_program(make_planned, tmp_path):
    planned = make_planned()
    path = tmp_path / "job.json"
    path.write_text(planned.message("j1", planned.quanta("first")[:1]).model_dump_json())
    done = subprocess.run([sys.executable, "-m", "payloads.runner", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [o.state for o in planned.outcomes("j1")] == ["succeeded"]

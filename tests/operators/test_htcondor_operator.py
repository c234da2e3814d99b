"""The operator, its trigger and its hook against the fake schedd (which passes the contract of the real one)."""

import asyncio
import importlib
import json
import logging
from types import SimpleNamespace

import pytest
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from operators.htcondor import hook as hooks
from operators.htcondor import trigger as triggers
from operators.htcondor.fake import FakeSchedd
from operators.htcondor.hook import HTCondorHook, pauses_s, settings_of
from operators.htcondor.operator import HTCondorJobFailed, HTCondorSubmitOperator
from operators.htcondor.schedd import ScheddRefused, ScheddUnavailable
from operators.htcondor.settings import PoolConnectionError, PoolSettings
from operators.htcondor.states import JobState, JobView
from operators.htcondor.trigger import Code, HTCondorJobTrigger, JobEvent, judge


@pytest.fixture
def schedd(monkeypatch, tmp_path):
    """The fake, behind every hook of the connection `pool`."""
    fake = FakeSchedd()
    connection = Connection(
        conn_id="pool",
        conn_type="htcondor",
        host="cm",
        port=9618,
        extra=json.dumps({"folder": str(tmp_path), "files": "transfer"}),
    )

    async def found(conn_id):
        return connection

    monkeypatch.setattr(hooks, "open_schedd", lambda settings: fake)
    monkeypatch.setattr(HTCondorHook, "get_connection", classmethod(lambda cls, conn_id: connection))
    monkeypatch.setattr(triggers.BaseHook, "aget_connection", found)
    monkeypatch.setattr(triggers, "GATHER_S", 0)
    monkeypatch.setattr(triggers, "_batchers", {})
    return fake


def context(try_number=1, run_id="r1", map_index=-1):
    pushed = {}
    ti = SimpleNamespace(
        dag_id="d", run_id=run_id, task_id="t", map_index=map_index, try_number=try_number,
        xcom_push=lambda key, value: pushed.__setitem__(key, value),
    )  # fmt: skip
    return {"ti": ti, "pushed": pushed}


def operator(**more):
    return HTCondorSubmitOperator(task_id="t", htcondor_conn_id="pool", executable="/bin/true", poll_s=0.001, **more)


def deferred(task, **where):
    with pytest.raises(TaskDeferred) as waiting:
        task.execute(context(**where))
    return waiting.value.trigger


async def first(trigger):
    async for event in trigger.run():
        return json.loads(json.dumps(event.payload))
    raise AssertionError("the trigger ended without an event")


def fired(trigger):
    return asyncio.run(first(trigger))


def test_a_job_runs_to_its_end_and_its_numbers_come_back(schedd):
    task = operator(arguments=["a b"])
    trigger = deferred(task)
    schedd.end(trigger.key)
    result = task.execute_complete(context(), fired(trigger))
    assert (result["job_id"], result["exit_code"], result["host"]) == ("1.0", 0, "slot1@fake")
    assert schedd.commands["1.0"]["arguments"] == "\"'a b'\""
    assert schedd.find([trigger.key]) == {}, "its end is noted, it may leave the queue"


def test_worker_that_dies_after_the_submission_finds_its_job_again(schedd):
    first_try = deferred(operator())
    assert deferred(operator(), try_number=2).job_id == first_try.job_id
    assert list(schedd.commands) == ["1.0"]


def test_worker_that_dies_after_the_jobs_end_reports_it_and_submits_nothing(schedd):
    schedd.end(deferred(operator()).key)
    assert operator().execute(context(try_number=2))["job_id"] == "1.0"
    assert list(schedd.commands) == ["1.0"]


def test_lost_answer_leads_to_adoption(schedd, monkeypatch):
    monkeypatch.setattr(hooks.time, "sleep", lambda _: None)
    schedd.lose_answer = True
    assert HTCondorHook("pool").submit(operator()._task_key(context()), operator()._job(), sleep=lambda _: None) == "1.0"
    assert list(schedd.commands) == ["1.0"]


def test_failed_job_is_noted_and_the_next_try_is_a_new_one(schedd):
    task = operator()
    trigger = deferred(task)
    schedd.end(trigger.key, 3)
    with pytest.raises(HTCondorJobFailed, match=r"job 1\.0 of pool cm:9618: exit code 3"):
        task.execute_complete(context(), fired(trigger))
    assert deferred(operator(), try_number=2).job_id == "2.0"


def test_other_runs_tasks_maps_and_airflows_have_jobs_of_their_own(schedd):
    keys = [deferred(operator(), **where).key for where in ({}, {"run_id": "r2"}, {"map_index": 0}, {"map_index": 1})]
    keys.append(deferred(operator(key_per="try"), try_number=1).key)
    keys.append(deferred(operator(key_per="try"), try_number=2).key)
    assert len(set(keys)) == len(keys) == len(schedd.commands)


@pytest.mark.parametrize(("code", "error"), [(4, AirflowSkipException), (5, AirflowFailException), (6, HTCondorJobFailed)])
def test_exit_codes_mean_what_the_task_says(schedd, code, error):
    task = operator(skip_on_exit_code=[4], fail_on_exit_code=[5])
    schedd.end(deferred(task).key, code)
    with pytest.raises(error, match=f"exit code {code}"):
        operator(skip_on_exit_code=[4], fail_on_exit_code=[5]).execute(context())


def test_signal_is_named(schedd):
    schedd.end(deferred(operator()).key, -9)
    with pytest.raises(HTCondorJobFailed, match="killed by signal 9"):
        operator().execute(context())


def test_held_job_is_shown_with_the_pools_reason_and_removed(schedd):
    trigger = deferred(operator())
    schedd.hold(trigger.key, "Transfer input files failure: no such file", 13)
    with pytest.raises(HTCondorJobFailed, match=r"held by the pool \(code 13\.0\).*no such file"):
        operator().execute_complete(context(), fired(trigger))
    assert "no such file" in schedd.past(trigger.key).reason
    assert deferred(operator(), try_number=2).job_id == "2.0"


def test_held_job_may_wait_for_somebody_to_release_it(schedd):
    job = JobView(key="k", job_id="1.0", state=JobState.HELD, hold_code=1, since_s=50, reason="by hand")
    assert judge(job, "wait", 60) is None
    assert judge(job, "wait", 40).code is Code.HELD
    assert judge(job, "fail", 60).code is Code.HELD


def test_input_on_its_way_to_the_schedd_is_no_hold_for_a_time(schedd):
    held = {"key": "k", "job_id": "1.0", "state": JobState.HELD, "hold_code": 16}
    assert judge(JobView(**held, since_s=30)) is None
    assert judge(JobView(**held, since_s=5000)).code is Code.HELD


def test_job_removed_at_the_pool_fails_with_its_reason(schedd):
    trigger = deferred(operator())
    HTCondorHook("pool").remove(trigger.key, "the administrator needs the machine")
    with pytest.raises(HTCondorJobFailed, match="is removed: the administrator needs"):
        operator().execute_complete(context(), fired(trigger))


def test_queue_that_was_wiped_is_told_from_a_failure_of_the_job(schedd):
    trigger = deferred(operator())
    schedd.wipe()
    event = JobEvent.read(fired(trigger))
    assert (event.code, event.job) == (Code.GONE, None)
    with pytest.raises(HTCondorJobFailed, match="neither in its queue nor in its history"):
        operator().execute_complete(context(), event.payload())


def test_silent_pool_is_no_failure_until_the_limit(schedd):
    trigger = deferred(operator(unknown_limit_s=3600))

    async def outage_then_answer():
        schedd.silent = True
        waiting = asyncio.create_task(first(trigger))
        while schedd.refused < 3:
            await asyncio.sleep(0)
        assert not waiting.done()
        schedd.silent = False
        schedd.end(trigger.key)
        return await waiting

    assert asyncio.run(outage_then_answer())["code"] == "ENDED"


def test_connection_that_was_mended_is_read_anew(schedd, monkeypatch):
    trigger = deferred(operator())
    schedd.end(trigger.key)
    asked, good = [], triggers.BaseHook.aget_connection

    async def mended(conn_id):
        asked.append(conn_id)
        return Connection(conn_id="pool", conn_type="htcondor") if len(asked) < 3 else await good(conn_id)

    monkeypatch.setattr(triggers.BaseHook, "aget_connection", mended)
    assert fired(trigger)["code"] == "ENDED"
    assert len(asked) == 3


def test_pool_silent_beyond_the_limit_leaves_the_job_alone_and_a_retry_adopts_it(schedd):
    trigger = deferred(operator(unknown_limit_s=0))
    schedd.silent = True
    event = fired(trigger)
    schedd.silent = False
    assert event["code"] == "UNKNOWN"
    with pytest.raises(HTCondorJobFailed, match="a retry adopts it"):
        operator().execute_complete(context(), event)
    assert "Remove" not in schedd.calls
    assert deferred(operator(), try_number=2).job_id == "1.0"


def test_pool_that_is_silent_at_the_submission_is_asked_again_and_then_left_to_a_retry(schedd):
    schedd.silent = True
    pauses = []
    with pytest.raises(ScheddUnavailable):
        HTCondorHook("pool").submit(operator()._task_key(context()), operator()._job(), limit_s=100, sleep=pauses.append)
    assert sum(pauses) == 100
    with pytest.raises(HTCondorJobFailed, match="a retry adopts"):
        operator(unknown_limit_s=0).execute(context())


def test_job_that_cannot_be_is_not_retried(schedd):
    with pytest.raises(AirflowFailException, match="operator's own"):
        operator(extra={"log": "/tmp/mine"}).execute(context())


def test_person_who_ends_the_task_ends_the_job(schedd):
    task = operator()
    trigger = deferred(task)
    task.on_kill()
    assert schedd.past(trigger.key).state is JobState.REMOVED
    other = deferred(operator(), run_id="r2")
    asyncio.run(other.on_kill())
    assert schedd.past(other.key).reason == triggers.KILLED


def test_restart_of_the_triggerer_touches_nothing(schedd):
    trigger = deferred(operator())
    asyncio.run(trigger.cleanup())
    assert schedd.find([trigger.key])[trigger.key].state is JobState.RUNNING


def test_many_triggers_are_one_question(schedd):
    waiting = [deferred(operator(), map_index=n) for n in range(40)]
    for trigger in waiting:
        schedd.end(trigger.key)
    schedd.calls.clear()

    async def together():
        return await asyncio.gather(*(first(trigger) for trigger in waiting))

    assert {event["code"] for event in asyncio.run(together())} == {"ENDED"}
    assert schedd.calls == ["find"]


def test_ends_of_output_and_errors_are_in_the_tasks_log(schedd, caplog):
    task = operator(tail_bytes=6)
    key = deferred(task).key
    HTCondorHook("pool").folder(key).joinpath("stdout").write_text("long long ago")
    schedd.end(key)
    with caplog.at_level(logging.INFO):
        operator(tail_bytes=6).execute(context())
    assert "the end of its stdout:\nng ago" in caplog.text
    assert "long" not in caplog.text


def test_links_are_there_while_it_runs_and_when_it_has_ended(schedd):
    task, here = operator(campaign="c1"), context()
    with pytest.raises(TaskDeferred) as waiting:
        task.execute(here)
    key = waiting.value.trigger.key
    urls = {"/pachon/htcondor/pool/1.0/classad", f"/pachon/htcondor/pool/{key}/log"}
    assert urls <= {value for value in here["pushed"].values() if isinstance(value, str)}
    schedd.end(key)
    resumed = operator(campaign="c1")
    resumed.execute_complete(context(), fired(waiting.value.trigger))
    found = {link.name: link.get_link(resumed, ti_key=None) for link in resumed.operator_extra_links}
    assert set(found.values()) == {*urls, "/pachon/campaigns/c1"}


@pytest.mark.parametrize("arguments", [("pool", "k", "1.0"), ("pool", "k", "1.0", 2.0, "wait", 5.0, 6.0)])
def test_trigger_is_made_again_from_what_airflow_stores(arguments):
    path, kwargs = HTCondorJobTrigger(*arguments).serialize()
    module, name = path.rsplit(".", 1)
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)


def test_import_path_of_the_trigger_is_api():
    assert HTCondorJobTrigger("c", "k", "1.0").serialize()[0] == "operators.htcondor.trigger.HTCondorJobTrigger"


@pytest.mark.parametrize("code", Code)
def test_event_survives_airflows_database_and_later_versions(code):
    job = JobView(key="k", job_id="1.0", state=JobState.COMPLETED, exit_code=-11, host="m")
    event = JobEvent(key="k", job_id="1.0", code=code, reason="why", job=job)
    payload = json.loads(json.dumps(event.payload()))
    payload["job"]["colour"] = payload["colour"] = "red"
    assert JobEvent.read(payload) == event


def test_button_of_the_connection_form_says_who_we_are_or_why_not(schedd):
    assert HTCondorHook("pool").test_connection() == (True, "schedd fake knows us as survey@fake (0)")
    schedd.silent = True
    assert HTCondorHook("pool").test_connection() == (False, "the schedd does not answer")


def test_connection_of_the_form_is_read_and_empty_fields_are_defaults():
    extra = {"token_directory": None, "schedd": "", "files": "shared", "timeout_s": 5}
    made = settings_of(Connection(conn_id="p", conn_type="htcondor", host="cm", extra=json.dumps(extra)))
    assert made == PoolSettings(collector="cm", files="shared", timeout_s=5)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"host": ""}, "collector"),
        ({"host": "cm", "extra": '{"tokens": "/x"}'}, "did you mean 'token"),
        ({"host": "cm", "extra": '{"schedd": "a\\nb"}'}, "one line"),
    ],
)
def test_connection_that_cannot_be_used_says_which_field(parts, said):
    with pytest.raises(PoolConnectionError, match=said):
        settings_of(Connection(conn_id="p", conn_type="htcondor", **parts))


def test_refusal_is_not_the_jobs_failure(schedd, monkeypatch):
    def refuse(*args, **kwargs):
        raise ScheddRefused("no")

    monkeypatch.setattr(schedd, "submit", refuse)
    with pytest.raises(HTCondorJobFailed, match="no; a retry"):
        operator().execute(context())


def test_pauses_grow_and_sum_up_to_the_limit():
    assert list(pauses_s(100))[:5] == [1, 2, 4, 8, 16]
    assert sum(pauses_s(100)) == 100
    assert max(pauses_s(1000)) == 30


def test_events_of_the_log_are_told_apart(schedd):
    folder = HTCondorHook("pool").folder("k")
    folder.mkdir(parents=True)
    (folder / "job.log").write_text("000 (1.0) submitted\n...\n001 (1.0) executing\n    on x\n...\n")
    assert HTCondorHook("pool").events("k") == ["000 (1.0) submitted", "001 (1.0) executing\n    on x"]
    assert HTCondorHook("pool").events("unknown") == []

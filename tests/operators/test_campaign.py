from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from backbone.errors import TransientError
from operators import door, engine, triggers
from operators.campaign import BacklogOperator, CampaignStepOperator, StartCampaignOperator, SummaryOperator
from operators.triggers import CampaignEvent, Code
from workflow.campaigns import StepStatus
from workflow.states import StepState

NIGHT = {"instrument": "simcam", "day_obs": 20260101}
NAME = "nightly_simcam_20260101_1"
ACTOR = "airflow:nightly/r1 for ocs"


@pytest.fixture
def commands(monkeypatch):
    written = []
    monkeypatch.setattr(door, "record", lambda home, command: written.append(command))
    return written


def step(**kwargs):
    return CampaignStepOperator(task_id="flat", campaign="c", step="flat", **kwargs)


def start(**kwargs):
    return StartCampaignOperator(task_id="start", production="nightly", **kwargs)


def test_campaign_starts_with_no_step_released_and_is_written_in_the_doors_books(campaigns, context, commands, tmp_path):
    assert start().execute(context | {"params": NIGHT | {"command": "ocs-7"}}) == NAME
    assert campaigns.calls == [("start", NAME, ACTOR, "none")]
    path, parameters = campaigns.started[NAME]
    assert path == str(tmp_path / "dags" / "productions" / "nightly.yaml")
    assert parameters == NIGHT | {"skymap": "simcam"}
    assert [(c.command, c.run, c.campaign) for c in commands] == [("ocs-7", "nightly/r1", NAME)]


def test_campaign_started_twice_is_one(campaigns, context, commands):
    names = {start().execute(context | {"params": NIGHT}) for _ in range(2)}
    assert names == {NAME}
    assert len(campaigns.known) == 1


def test_same_name_with_other_content_fails_without_airflow_retrying(campaigns, context, commands):
    start(name="x").execute(context | {"params": NIGHT})
    with pytest.raises(AirflowFailException, match="other content"):
        start(name="x", parameters={"skymap": "wide"}).execute(context | {"params": NIGHT})


def test_unknown_key_in_the_conf_starts_nothing(campaigns, context, commands):
    with pytest.raises(AirflowFailException, match="did you mean 'day_obs'"):
        start().execute(context | {"params": {"instrument": "simcam", "dayobs": 20260101}})
    assert campaigns.calls == []


def test_ledger_outage_at_the_start_is_left_to_airflows_retries(campaigns, context, commands):
    campaigns.outage = TransientError("the ledger did not answer")
    with pytest.raises(TransientError):
        start().execute(context | {"params": NIGHT})


def test_step_is_released_advanced_once_and_deferred(campaigns, context, tmp_path):
    campaigns.put("c", flat="READY")
    with pytest.raises(TaskDeferred) as deferred:
        step(poll_s=0.5).execute(context)
    assert campaigns.calls == [("release", "c", "flat", ACTOR), ("advance", "c")]
    _, kwargs = deferred.value.trigger.serialize()
    assert kwargs == {"home": str(tmp_path), "campaign": "c", "step": "flat", "poll_s": 0.5, "actor": ACTOR}
    assert deferred.value.method_name == "execute_complete"
    assert context["pushed"] == {"_link_CampaignLink": "/pachon/campaigns/c"}


def test_link_is_stored_before_the_engine_is_asked_for_anything(campaigns, context):
    campaigns.put("c", flat="READY")
    campaigns.on_advance = lambda fake: fake.calls.append(dict(context["pushed"]))
    with pytest.raises(TaskDeferred):
        step().execute(context)
    assert campaigns.calls[-1] == {"_link_CampaignLink": "/pachon/campaigns/c"}


def test_step_that_ended_before_the_task_could_wait_needs_no_trigger(campaigns, context):
    campaigns.put("c", flat="READY")
    campaigns.on_advance = lambda fake: fake.put("c", "SUCCEEDED", flat="SUCCEEDED")
    assert step().execute(context)["code"] == "SUCCEEDED"


def test_task_tried_again_adopts_the_step_that_runs(campaigns, context):
    campaigns.put("c", flat="RUNNING")
    for _ in range(2):
        with pytest.raises(TaskDeferred):
            step().execute(context)
    assert not [call for call in campaigns.calls if call[0] not in {"release", "advance"}]


def test_step_that_the_production_does_not_have_is_skipped(campaigns, context):
    campaigns.put("c", flat="READY")
    with pytest.raises(AirflowSkipException, match="has no step dark"):
        CampaignStepOperator(task_id="dark", campaign="c", step="dark").execute(context)


def test_unknown_campaign_fails_without_airflow_retrying(campaigns, context):
    with pytest.raises(AirflowFailException, match="no campaign 'c'"):
        step().execute(context)


def test_pool_that_does_not_answer_is_left_to_the_engine_process(campaigns, context):
    def silent(_):
        raise TransientError("the pool did not answer")

    campaigns.put("c", flat="READY")
    campaigns.on_advance = silent
    with pytest.raises(TaskDeferred):
        step().execute(context)


def test_campaign_paused_by_the_end_of_its_task_is_resumed_by_the_next_try(campaigns, context):
    campaigns.put("c", "PAUSED", reason=triggers.KILLED, flat="RUNNING")
    with pytest.raises(TaskDeferred):
        step().execute(context)
    assert ("resume", "c", ACTOR) in campaigns.calls


def test_campaign_paused_by_a_person_stays_paused(campaigns, context):
    campaigns.put("c", "PAUSED", reason="dome closed", flat="RUNNING")
    with pytest.raises(TaskDeferred):
        step().execute(context)
    assert campaigns.known["c"].state == "PAUSED"


@pytest.mark.parametrize("code", [Code.FAILED, Code.CANCELLED, Code.CAMPAIGN_ENDED, Code.ABSENT])
def test_failure_names_campaign_step_reason_and_next_step(campaigns, context, code):
    event = CampaignEvent(campaign="c", step="flat", code=code, reason="too few frames", expected=9, failed=5)
    with pytest.raises(AirflowFailException) as raised:
        step().execute_complete(context, event.payload())
    for part in ("campaign c step flat", code, "5 of 9", "too few frames", "pachon campaign report c", "pachon campaign retry c"):
        assert part in str(raised.value)


def test_step_that_its_rules_let_succeed_with_failures_succeeds(campaigns, context):
    event = CampaignEvent(campaign="c", step="flat", code=Code.SUCCEEDED, expected=9, published=8, failed=1)
    assert step().execute_complete(context, event.payload())["failed"] == 1


def test_approver_is_the_actor_of_the_release(campaigns, context):
    campaigns.put("c", flat="READY")
    with pytest.raises(TaskDeferred):
        step(approver="demo").execute(context)
    assert campaigns.calls[0] == ("release", "c", "flat", f"{ACTOR}, approved by demo")


def offline(context):
    run = context["dag_run"]
    run.dag_id = "offline"
    return context | {"params": NIGHT}


def test_backlog_of_an_ended_night_gets_new_attempts(campaigns, context):
    done = StepStatus(name="frames", state=StepState.SUCCEEDED, expected=9, published=7, failed=2)
    campaigns.put(NAME, "SUCCEEDED", frames=done)
    campaigns.left = [1, 2]
    campaigns.on_advance = lambda fake: fake.put(NAME, "RUNNING", frames="RUNNING")
    with pytest.raises(TaskDeferred) as deferred:
        BacklogOperator(task_id="backlog").execute(offline(context))
    assert [call[0] for call in campaigns.calls] == ["retry", "advance"]
    assert deferred.value.trigger.serialize()[1]["step"] is None


def test_night_without_backlog_is_done_at_once(campaigns, context):
    campaigns.put(NAME, "SUCCEEDED", frames="SUCCEEDED")
    assert BacklogOperator(task_id="backlog").execute(offline(context))["code"] == "SUCCEEDED"
    assert campaigns.calls == []


def test_night_that_still_runs_is_waited_for_not_retried(campaigns, context):
    campaigns.put(NAME, "RUNNING", frames="RUNNING")
    campaigns.left = [1]
    with pytest.raises(TaskDeferred):
        BacklogOperator(task_id="backlog").execute(offline(context))
    assert campaigns.calls == []


def test_what_fails_again_stays_in_the_backlog_and_stops_nothing(campaigns, context):
    event = CampaignEvent(campaign="c", step=None, code=Code.FAILED, expected=9, failed=2)
    assert BacklogOperator(task_id="backlog", campaign="c").execute_complete(context, event.payload())["failed"] == 2


@pytest.fixture
def prompt_nights(monkeypatch):
    """Names of the prompt nights that have ended."""
    ended = []
    found = SimpleNamespace(statuses=lambda names: [SimpleNamespace(ended=True) if name in ended else None for name in names])
    monkeypatch.setattr(engine, "nights", lambda: found)
    return ended


def test_prompt_night_that_left_nothing_has_no_backlog(campaigns, context, prompt_nights):
    prompt_nights.append("prompt_simcam_20260101_1")
    assert BacklogOperator(task_id="backlog").execute(offline(context)) == {}
    assert campaigns.calls == []


def test_night_that_never_was_fails(campaigns, context, prompt_nights):
    with pytest.raises(AirflowFailException, match=f"no campaign '{NAME}'"):
        BacklogOperator(task_id="backlog").execute(offline(context))


def test_summary_of_a_success_holds_text_and_numbers(campaigns, context):
    campaigns.put("c", "SUCCEEDED", frames="SUCCEEDED")
    found = SummaryOperator(task_id="report", campaign="c").execute(context)
    assert found["labels"][0]["expected"] == 4
    lines = found["text"].splitlines()
    assert lines[0] == "campaign c (p): SUCCEEDED"
    assert lines[1].split() == ["step/task", "SUCCEEDED", "FAILED", "EXPECTED"]
    assert lines[2].split() == ["frames/isr", "3", "1", "4"]
    assert "1 x frames/isr science" in lines[3]


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "PAUSED", "RUNNING"])
def test_summary_makes_the_run_as_red_as_the_campaign(campaigns, context, state):
    campaigns.put("c", state, frames="SUCCEEDED")
    with pytest.raises(AirflowFailException, match=f"campaign c is {state}"):
        SummaryOperator(task_id="report", campaign="c").execute(context)


def test_summary_without_a_campaign_fails(campaigns, context):
    with pytest.raises(AirflowFailException, match="none was started"):
        SummaryOperator(task_id="report", campaign=None).execute(context)

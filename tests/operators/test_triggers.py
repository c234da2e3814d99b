import asyncio
import importlib
import json

import pytest

from backbone.errors import TransientError
from operators import triggers
from operators.triggers import CampaignEvent, CampaignStepTrigger, Code, judge, pause_s
from workflow.campaigns import StepStatus
from workflow.states import CampaignState, StepState

BAD = StepStatus(name="flat", state=StepState.FAILED, expected=9, published=4, failed=5, reason="too few frames")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(triggers, "GATHER_S", 0)
    monkeypatch.setattr(triggers, "_batchers", {})


async def first(trigger):
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")


def trigger(campaign="c", step="flat", **kwargs):
    return CampaignStepTrigger("/home", campaign, step, poll_s=0.001, **kwargs)


@pytest.mark.parametrize("arguments", [("h", "c"), ("h", "c", None, 5.0), ("h", "c", "s", 0.5, "airflow:nightly/r1")])
def test_trigger_is_made_again_from_what_airflow_stores(arguments):
    path, kwargs = CampaignStepTrigger(*arguments).serialize()
    module, name = path.rsplit(".", 1)
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)


def test_import_path_of_the_trigger_is_api():
    assert CampaignStepTrigger("h", "c").serialize()[0] == "operators.triggers.CampaignStepTrigger"


@pytest.mark.parametrize("code", Code)
def test_event_survives_airflows_database(code):
    event = CampaignEvent(campaign="c", step="s", code=code, reason="why", expected=3, failed=1)
    assert CampaignEvent.read(json.loads(json.dumps(event.payload()))) == event


def test_event_of_a_later_version_is_still_read():
    payload = CampaignEvent(campaign="c", step=None, code=Code.FAILED).payload() | {"colour": "red", "version": 2}
    assert CampaignEvent.read(payload).code == Code.FAILED


@pytest.mark.parametrize("campaign", CampaignState)
@pytest.mark.parametrize("step", StepState)
def test_every_pair_of_states_is_judged(campaigns, campaign, step):
    campaigns.put("c", campaign, flat=step)
    event = judge("c", "flat", campaigns.status("c"))
    if step in {"SUCCEEDED", "FAILED", "CANCELLED"}:
        assert event.code == step
    elif campaign in {"SUCCEEDED", "FAILED", "CANCELLED"}:
        assert event.code == Code.CAMPAIGN_ENDED
        assert campaign in event.reason
    else:
        assert event is None


def test_what_the_ledger_does_not_know_is_absent(campaigns):
    campaigns.put("c", flat="RUNNING")
    assert judge("c", "fringe", campaigns.status("c")).code == Code.ABSENT
    assert judge("c", "flat", None).code == Code.ABSENT


def test_whole_campaign_ends_with_the_sum_of_its_steps(campaigns):
    campaigns.put("c", "RUNNING", flat=BAD, bias="SUCCEEDED")
    assert judge("c", None, campaigns.status("c")) is None
    campaigns.put("c", "FAILED", flat=BAD, bias="SUCCEEDED")
    event = judge("c", None, campaigns.status("c"))
    assert (event.code, event.expected, event.failed) == (Code.FAILED, 9, 5)
    assert "too few frames" in event.reason


def test_step_that_ends_fires_once_with_its_reason(campaigns):
    campaigns.put("c", "FAILED", flat=BAD)
    payload = asyncio.run(first(trigger()))
    assert (payload["code"], payload["reason"], payload["failed"]) == ("FAILED", "too few frames", 5)


def test_many_triggers_share_one_query(campaigns):
    for n in range(50):
        campaigns.put(f"c{n}", flat="SUCCEEDED")

    async def together():
        return await asyncio.gather(*(first(trigger(f"c{n}")) for n in range(50)))

    assert [p["campaign"] for p in asyncio.run(together())] == [f"c{n}" for n in range(50)]
    assert [len(call[1]) for call in campaigns.calls] == [50]


def test_ledger_outage_is_not_a_failure(campaigns):
    campaigns.put("c", flat="SUCCEEDED")
    campaigns.outage = TransientError("the ledger did not answer")

    async def outage_then_answer():
        waiting = asyncio.create_task(first(trigger()))
        while triggers.batcher("/home")._campaigns is None:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not waiting.done()
        campaigns.outage = None
        return await waiting

    assert asyncio.run(outage_then_answer())["code"] == "SUCCEEDED"


def test_one_cancelled_trigger_does_not_take_the_others_answer(campaigns):
    campaigns.put("c", flat="SUCCEEDED")

    async def two():
        gone, stays = (asyncio.create_task(first(trigger())) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(two())["code"] == "SUCCEEDED"


def test_killed_task_pauses_its_campaign_and_says_why(campaigns):
    campaigns.put("c", flat="RUNNING")
    asyncio.run(trigger(actor="airflow:nightly/r1").on_kill())
    assert campaigns.calls == [("pause", "c", "airflow:nightly/r1", "drain")]
    assert campaigns.known["c"].reason == triggers.KILLED


def test_restart_of_the_triggerer_touches_nothing(campaigns):
    asyncio.run(trigger().cleanup())
    assert campaigns.calls == []


def test_triggers_of_one_rate_wake_together():
    assert {round(t + pause_s(2.0, 0, t), 9) for t in (10.1, 10.9, 11.5)} == {12.0}


def test_pauses_grow_with_jitter_up_to_a_minute():
    assert 1.0 <= pause_s(1.0, 1, 0.0) <= 2.0
    assert len({pause_s(1.0, 3, 0.0) for _ in range(9)}) > 1
    assert all(pause_s(1.0, n, 0.0) <= 60 for n in range(1, 2000, 99))

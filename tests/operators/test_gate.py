from datetime import UTC, datetime

import pytest
from airflow.providers.standard.exceptions import HITLRejectException
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import TaskAwaitingInput

from operators.gate import ApprovalGate

CONF = {"instrument": "simcam", "first_day": 20260101, "last_day": 20260131, "release": "dr1"}


@pytest.fixture
def gate():
    return ApprovalGate(task_id="approval", conf_of="release", subject="Release dr1?")


@pytest.fixture
def asked(monkeypatch):
    requests = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **kwargs: requests.append(kwargs))
    return requests


def answer(option):
    by = {"id": "2", "name": "scientist"}
    return {"chosen_options": [option], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": by}


def test_gate_asks_a_person_and_waits(gate, asked, context):
    with pytest.raises(TaskAwaitingInput):
        gate.execute(context | {"params": CONF})
    assert asked[0]["options"] == ["Approve", "Reject"]


def test_unattended_demonstration_is_approved_by_demo(gate, asked, context):
    assert gate.execute(context | {"params": CONF | {"auto_approve": True}}) == "demo"
    assert asked == []


def test_approval_names_who_gave_it(gate, context):
    assert gate.execute_complete(context, answer("Approve")) == "scientist"


def test_rejected_release_fails(gate, context):
    with pytest.raises(HITLRejectException):
        gate.execute_complete(context, answer("Reject"))

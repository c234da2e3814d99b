"""The backbone in DAGs: rules are waited for in one query, care finds and reports, the page is for those who log in."""

import asyncio
import json
import warnings
from types import SimpleNamespace

import httpx
import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from backbone import transfers
from backbone.errors import TransientError
from backbone.home import open_backbone
from operators import backbone_pages, backbone_triggers
from operators.backbone import (
    BacklogReportOperator,
    ExpireOperator,
    RepairOperator,
    ReplicateOperator,
    RulesSensor,
    ScrubOperator,
    SweepOperator,
)
from operators.backbone_triggers import Code, RulesEvent, RulesTrigger, judge

with warnings.catch_warnings():
    # The API server's service registry imports starlette's test client, which warns of its own HTTP library.
    warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
    from operators import pages

PLACES = ("base", "ncsa")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(backbone_triggers, "GATHER_S", 0)
    monkeypatch.setattr(backbone_triggers, "_batchers", {})
    backbone_pages._opened.cache_clear()


@pytest.fixture
def home(tmp_path, monkeypatch):
    said = {"endpoints": {name: {"uri": name} for name in PLACES}}
    (tmp_path / "pachon.yaml").write_text(yaml.safe_dump({"backbone": said}))
    monkeypatch.setenv("PACHON_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def backbone(home):
    found = open_backbone(home)
    for n in range(3):
        found.put("base", f"a/{n}", b"x" * 10, {"dataset_type": "raw", "collection": "r", "created": 1.0}, "tester")
    yield found
    found.close()


def context(dag="backbone_replication", **params):
    run = SimpleNamespace(dag_id=dag, run_id="r1", triggering_user_name="anna")
    return {"dag_run": run, "params": params, "ti": None}


def move(backbone, *, stuck=()):
    ids = [backbone.catalog.endpoint_id(name) for name in PLACES]
    for transfer in transfers.take(backbone.catalog, *ids, limit=9, worker="m", lease_s=60, now=backbone.now()):
        if transfer.file.key in stuck:
            transfers.failed(backbone.catalog, transfer, reason="refused", delay_s=0, now=backbone.now(), stuck=True)
        else:
            backbone.endpoint("ncsa").put(transfer.file.key, backbone.endpoint("base").get(transfer.file.key))
            transfers.done(backbone.catalog, [transfer], now=backbone.now())


def replicate(**more):
    return ReplicateOperator(task_id="t", rule="stage", keys=["a/0", "a/1"], at="ncsa", poll_s=0.001, **more)


async def fired(trigger):
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")


def test_files_asked_for_are_waited_for_without_a_slot_and_asking_twice_is_once(backbone):
    for _ in range(2):
        with pytest.raises(TaskDeferred) as deferred:
            replicate().execute(context())
    path, arguments = deferred.value.trigger.serialize()
    assert path == "operators.backbone_triggers.RulesTrigger"
    assert RulesTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)
    move(backbone)
    event = asyncio.run(fired(deferred.value.trigger))
    assert replicate().resume(context(), event)["ok"] == 2
    assert replicate().execute(context())["code"] == "DONE", "and what is there need not be waited for"


def test_what_is_stuck_fails_the_task_with_its_reason_and_the_next_step(backbone):
    with pytest.raises(TaskDeferred) as deferred:
        replicate().execute(context())
    move(backbone, stuck=["a/1"])
    event = asyncio.run(fired(deferred.value.trigger))
    with pytest.raises(AirflowFailException, match=r"1 of 2 files are there, 1 stuck: refused. Next: `pachon backbone transfers"):
        replicate().resume(context(), event)


def test_many_waiting_tasks_are_one_query_and_an_unknown_rule_harms_nobody_else(backbone, home, monkeypatch):
    for n in range(3):
        backbone.require(f"r{n}", [f"a/{n}"], "ncsa", by=backbone.now(), actor="t")
    move(backbone)
    asked = []
    monkeypatch.setattr(backbone_triggers.engine, "open_backbone", lambda home: backbone)
    progress = backbone.progress
    monkeypatch.setattr(backbone, "progress", lambda names: asked.append(list(names)) or progress(names))

    async def all_of_them(names):
        return await asyncio.gather(*(fired(RulesTrigger(str(home), [name], 0.001)) for name in names))

    events = asyncio.run(all_of_them(["r0", "r1", "r2"]))
    assert [e["code"] for e in events] == ["DONE"] * 3
    assert [sorted(names) for names in asked] == [["r0", "r1", "r2"]]
    backbone_triggers._batchers.clear()
    assert [e["code"] for e in asyncio.run(all_of_them(["r0", "nothing"]))] == ["DONE", "ABSENT"]


def test_a_catalog_that_does_not_answer_is_asked_again(backbone, home, monkeypatch):
    backbone.require("r", ["a/0"], "base", by=backbone.now(), actor="t")
    answers = [TransientError("down"), TransientError("down")]

    def opened(home):
        if answers:
            raise answers.pop()
        return backbone

    monkeypatch.setattr(backbone_triggers.engine, "open_backbone", opened)
    assert asyncio.run(fired(RulesTrigger(str(home), ["r"], 0.001)))["code"] == "DONE"
    assert not answers


def test_a_rule_that_nobody_made_fails_at_once(backbone):
    with pytest.raises(AirflowFailException, match="no rule 'nothing'"):
        RulesSensor(task_id="t", rules="nothing").execute(context())
    with pytest.raises(AirflowFailException, match="no endpoint"):
        ReplicateOperator(task_id="t", rule="x", keys=["a/0"], at="nowhere").execute(context())


def test_an_event_of_a_later_version_is_understood():
    event = RulesEvent(code=Code.DONE, total=1, ok=1)
    assert RulesEvent.read({**event.payload(), "new": 1}) == event
    assert judge([None]).code is Code.ABSENT


def test_scrub_and_repair_find_and_mend(backbone, home):
    backbone.require("r", ["a/0"], "ncsa", by=backbone.now(), actor="t")
    move(backbone)
    (home / "ncsa" / "a/0").write_bytes(b"rotten")
    scrub = context("backbone_scrub", minutes=1.0, mb_per_s=100.0)
    assert [r["bad"] for r in ScrubOperator(task_id="t").execute(scrub)] == [0, 1]
    assert [r["damaged"] for r in RepairOperator(task_id="t").execute(context())] == [0, 1]
    move(backbone)
    assert [r["damaged"] for r in RepairOperator(task_id="t").execute(context())] == [0, 0]


def test_nothing_whole_left_fails_with_the_files_names(backbone, home):
    (home / "base" / "a/2").unlink()
    ScrubOperator(task_id="t").execute(context("backbone_scrub", endpoint="base"))
    with pytest.raises(AirflowFailException, match="a/2: the endpoint has no such object"):
        RepairOperator(task_id="t").execute(context())
    with pytest.raises(AirflowFailException, match="1 transfers are stuck: base: no whole copy"):
        BacklogReportOperator(task_id="t").execute(context())
    assert BacklogReportOperator(task_id="t").execute(context(endpoint="ncsa"))["pending"] == 0


def test_sweep_and_expiry_look_at_the_named_endpoint_or_all(backbone):
    backbone.endpoint("ncsa").put("stray", b"x")
    backbone.endpoint("ncsa").put("_a/1/running", b"x")
    found = SweepOperator(task_id="t").execute(context())
    assert [(r["endpoint"], r["orphans"]) for r in found] == [("base", 0), ("ncsa", 1)]
    assert [r["endpoint"] for r in SweepOperator(task_id="t").execute(context(endpoint="ncsa"))] == ["ncsa"]
    assert ExpireOperator(task_id="t").execute(context()) == {"copies_asked_for": 0, "copies_due_for_deletion": 0}


@pytest.mark.parametrize("operator", [SweepOperator, RepairOperator, ScrubOperator])
def test_an_endpoint_that_is_none_is_named_with_the_nearest_known_one(backbone, operator):
    with pytest.raises(AirflowFailException, match="did you mean 'ncsa'"):
        operator(task_id="t").execute(context("backbone_scrub", endpoint="nsca"))


def test_a_conf_with_a_mistake_fails_at_once(backbone):
    with pytest.raises(AirflowFailException, match="did you mean 'minutes'"):
        ScrubOperator(task_id="t").execute(context("backbone_scrub", minute=1))


def get(path):
    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pages.app), base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.fixture
def reader():
    pages.app.dependency_overrides[pages.may_read] = lambda: None
    yield
    pages.app.dependency_overrides.clear()


def test_page_and_document_show_the_places(backbone, reader):
    answer = get("/backbone")
    assert answer.status_code == 200
    assert "ncsa" in answer.text
    assert [place["name"] for place in get("/api/backbone").json()["places"]] == ["base", "ncsa"]


def test_nobody_sees_the_page_without_logging_in(backbone):
    assert get("/backbone").status_code == 401
    assert get("/api/backbone").status_code == 401


def test_a_home_without_a_backbone_has_no_page(home, reader):
    (home / "pachon.yaml").write_text("{}")
    assert get("/backbone").status_code == 404

"""Every DAG file: a new one is covered at once."""

import importlib.util
import socket
import time
from itertools import pairwise
from pathlib import Path

import pendulum
import pytest
import sqlalchemy
import yaml
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction

from operators import door, engine, science
from operators.campaign import CampaignStepOperator, StartCampaignOperator
from operators.conf import SCHEMAS, read
from workflow.production import Production
from workflow.states import CampaignState, StepState
from workflow.status import CampaignReport, CampaignStatus, StepStatus

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"
FILES = sorted(DAGS.glob("*.py"))
ORDER = ["nightly", "offline", "calibration_daily", "calibration_monthly", "release"]


@pytest.fixture(scope="module")
def bag():
    return BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="pachon")


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def dag(request, bag):
    return bag.dags[request.param.stem]


def test_every_file_is_read_and_holds_the_dag_of_its_name(bag):
    assert bag.import_errors == {}
    assert set(bag.dags) == {path.stem for path in FILES} == set(SCHEMAS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_file_is_short_quick_to_read_and_does_nothing_when_read(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a DAG file must do nothing when it is read")

    assert path.read_text().count("\n") < 80
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(sqlalchemy, "create_engine", refuse)
    monkeypatch.setattr(engine, "open_campaigns", refuse)
    monkeypatch.setattr(engine, "home", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    spec = importlib.util.spec_from_file_location(f"read_{path.stem}", path)
    begun = time.perf_counter()
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert time.perf_counter() - begun < 1.0


def test_operator_on_duty_finds_what_it_is(dag):
    assert dag.description
    assert dag.doc_md.strip().startswith("###")
    assert dag.tags
    assert dag.max_active_runs <= 4
    assert all(task.owner not in {"", "airflow"} for task in dag.tasks)


def test_form_is_that_of_its_conf(dag):
    assert set(dag.params) == set(SCHEMAS[dag.dag_id].model_fields)


def test_only_scheduled_dags_begin_paused(dag):
    scheduled = SCHEMAS[dag.dag_id].scheduled and dag.timetable.can_be_scheduled
    assert bool(dag.is_paused_upon_creation) == scheduled


def test_tasks_go_through_the_pool_of_their_class(dag):
    pools = yaml.safe_load((ROOT / "deploy" / "pools.yaml").read_text())
    assert {task.pool for task in dag.tasks} <= set(pools)
    assert {task.weight_rule for task in dag.tasks} == {"absolute"}, "else a first task outweighs another class's last"


def test_productions_have_their_order(bag):
    weights = [bag.dags[name].tasks[0].priority_weight for name in ORDER]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == len(weights)


def steps_after(dag, start):
    group = start.task_id.rpartition(".")[0]
    return [t for t in dag.topological_sort() if isinstance(t, CampaignStepOperator) and t.task_id.rpartition(".")[0] == group]


def test_tasks_are_the_steps_of_their_production_and_its_siblings_in_order(dag):
    for start in (task for task in dag.tasks if isinstance(task, StartCampaignOperator)):
        tasks = steps_after(dag, start)
        assert all(earlier.task_id in later.upstream_task_ids for earlier, later in pairwise(tasks))
        named = [task.step for task in tasks]
        files = [DAGS / "productions" / f"{start.production}.yaml", *(DAGS / "productions").glob(f"{start.production}_un*.yaml")]
        productions = [[step.name for step in Production.load(f).steps] for f in files]
        assert all(steps == [name for name in named if name in steps] for steps in productions)
        assert {name for steps in productions for name in steps} == set(named)


def test_nothing_of_the_full_release_runs_before_the_approval(bag):
    release = bag.dags["release"]
    before = release.get_task("approval").get_flat_relative_ids(upstream=True)
    after = release.get_task("approval").get_flat_relative_ids(upstream=False)
    assert {t for t in release.task_dict if t.startswith("mini.")} == before
    assert {t for t in release.task_dict if t.startswith("full.")} == after


class Obedient:
    """An engine whose steps succeed as soon as they are released and advanced."""

    def __init__(self):
        self.log, self.states = [], {}

    def start(self, production, *, name, parameters, actor, release):
        self.states = {step.name: "UNREADY" for step in Production.load(production).steps}
        self.log.append(f"start {name}")
        return self.status(name)

    def release(self, name, step, actor):
        self.log.append(f"release {step}")
        self.states[step] = "READY"
        return self.status(name)

    def advance(self, name):
        self.states = {step: "SUCCEEDED" if state == "READY" else state for step, state in self.states.items()}
        return self.status(name)

    def status(self, name):
        steps = tuple(StepStatus(name=n, state=StepState(s)) for n, s in self.states.items())
        state = "SUCCEEDED" if set(self.states.values()) == {"SUCCEEDED"} else "RUNNING"
        return CampaignStatus(name=name, production="p", state=CampaignState(state), steps=steps)

    def report(self, name):
        return CampaignReport(campaign=self.status(name), labels=())


@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")  # imported by Airflow's service registry
@pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # of Airflow's own Alembic settings
def test_night_runs_through_its_steps_in_order(bag, monkeypatch, tmp_path):
    from airflow.utils.db import initdb

    engine_fake = Obedient()
    monkeypatch.setattr(engine, "open_campaigns", lambda home: engine_fake)
    monkeypatch.setattr(door, "record", lambda home, command: command)
    monkeypatch.setattr(science, "ask", lambda *words: engine_fake.log.append(" ".join(words[:2])) or '{"new": 1}')
    monkeypatch.setenv("PACHON_HOME", str(tmp_path))
    initdb()
    run = bag.dags["nightly"].test(run_conf={"instrument": "simcam", "day_obs": 20260101})
    assert run.state == "success"
    steps = ["frames", "difference", "associate", "package"]
    assert engine_fake.log == ["start nightly_simcam_20260101_1", *(f"release {step}" for step in steps), "alerts collect"]


def test_calibration_steps_are_in_the_order_that_their_tasks_ask_for():
    from payloads.calibration_order import product_order

    uri = "resource://payloads/pipelines/calibration.yaml"
    after = {task.makes[0]: set(task.after) for task in product_order(uri)}
    for cadence in ("daily", "monthly", "annual"):
        steps = Production.load(DAGS / "productions" / f"calibration_{cadence}.yaml").steps
        made = [product_order(step.pipeline)[0].makes[0] for step in steps if step.pipeline.startswith(uri)]
        assert {"bias", "dark", "flat"} <= set(made)
        assert all(made.index(before) < made.index(one) for one in made for before in after[one] & set(made))
        assert [step.name for step in steps][-1] == "verify", "nothing is certified before all of it was judged"


@pytest.mark.parametrize(
    ("dag_id", "first", "last"), [("calibration_monthly", 20260301, 20260331), ("calibration_annual", 20250101, 20251231)]
)
def test_schedule_starts_the_last_whole_span_when_its_clock_has_moved_on(bag, dag_id, first, last):
    timetable = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags[dag_id])).timetable  # as the scheduler has it
    restriction = TimeRestriction(earliest=pendulum.datetime(2026, 1, 1), latest=None, catchup=True)
    now, info = pendulum.datetime(2026, 4, 2), None
    while following := timetable.next_dagrun_info(
        last_automated_data_interval=info and info.data_interval, restriction=restriction
    ):
        if following.run_after > now:
            break
        info = following
    asked = read(dag_id, {"instrument": "SimCam"}, info.run_after)
    assert (asked.first_day, asked.last_day) == (first, last)

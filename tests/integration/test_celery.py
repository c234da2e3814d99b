"""The DAGs under CeleryExecutor: two workers over RabbitMQ, one of them killed in the middle; calibrations and what follows.

By default the calibrations of a month, which the schedule starts, of a year, which a scientist starts, and of a day, which the
observatory asks for; and the release that the year opens. With PACHON_CELERY_DAGS=all every DAG to its end, the release approved
by a person, templates because they are missing.
"""

import json
import os
import stat
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from deploy.debian import NoDebianMirror
from deploy.demo.prepare import prepare
from deploy.home import create_home
from deploy.processes import marked
from deploy.rabbitmq import RabbitServer, programs
from deploy.rest import AirflowClient, NotThere
from deploy.stack import Stack, default_dags
from operators.conf import read
from workflow.campaigns import Campaigns
from workflow.context import Context
from workflow.ledger import tables as t
from workflow.settings import SchedulerSettings, Settings

ALL = os.environ.get("PACHON_CELERY_DAGS") == "all"
pytestmark = [pytest.mark.airflow, pytest.mark.celery, pytest.mark.slow, pytest.mark.kill, pytest.mark.timeout(900)]
LIMIT_S = 600  # for a machine that is busy with other things
RELEASE = "dr1"
REST = {"template_generation", "template", "nightly", "offline", "release"}
# Says where it runs; is killed with its worker, and ends when it is let go.
STAYS = """
from datetime import timedelta
from airflow.sdk import dag, task, Param

@dag(dag_id="stays", schedule=None, params={"folder": Param(type="string")})
def stays():
    @task(retries=3, retry_delay=timedelta(seconds=1))
    def one(params):
        import os, pathlib, time
        here = pathlib.Path(params["folder"])
        with (here / "began").open("a") as file:
            file.write(os.environ["PACHON_PROCESS"] + "\\n")
        while not (here / "go").exists():
            time.sleep(0.1)
        with (here / "ended").open("a") as file:
            file.write("x")
    one()

stays()
"""


def until(true, what):
    limit = time.monotonic() + LIMIT_S
    while not (found := true()):
        assert time.monotonic() < limit, f"waited too long for {what}"
        time.sleep(0.2)  # nothing here can be waited on but another process's work
    return found


def own_dags(folder):
    """The project's DAGs and one of the test's own, as one bundle."""
    folder.mkdir()
    for path in default_dags().iterdir():
        if path.suffix == ".py" or path.name == "productions":
            (folder / path.name).symlink_to(path)
    (folder / "stays.py").write_text(STAYS)
    return folder


def killed(stack, worker):
    """All processes of a Celery worker at once, as when its machine is lost."""
    (program,) = [p for p in stack.programs({}) if p.name == worker]
    processes = program.remains()
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=10)
    return len(processes)


class Night:
    """What was asked of Airflow, and what became of it."""

    def __init__(self, stack, client, case, folder):
        self.stack, self.client, self.case, self.folder = stack, client, case, folder
        self.ended = {}
        self.looks = []

    def ask(self, dag, conf, by="admin"):
        until(lambda: dag in self.client.dags(), f"DAG {dag}: {self.client.import_errors()}")
        self.client.unpause(dag)
        run = dag if dag in ("stays", "calibration_report") else read(dag, conf).run_id(dag)
        with AirflowClient(self.stack.api_url, by, self.stack.password(by)) as client:
            client.trigger(dag, run, conf)
        return run

    def end(self, dag, run):
        found = self.client.wait(dag, run, timeout_s=LIMIT_S, poll_s=0.3)
        self.ended[dag] = found.state
        return found

    def worker_of(self, line=0):
        """The worker that runs the task `stays` (its name is in the process's mark)."""
        began = self.folder / "began"
        words = until(lambda: began.exists() and began.read_text().splitlines()[line:], f"line {line} of {began}")
        return words[0].rpartition(":")[2]


@pytest.fixture(scope="module")
def night(survey, postgresql_programs, tmp_path_factory):
    """Everything has been asked for and done, with one worker killed while both had work."""
    try:
        programs()
    except NoDebianMirror as error:
        pytest.skip(f"no RabbitMQ: {error}")
    home = tmp_path_factory.mktemp("celery")
    stack = Stack(home, own_dags(home / "dags"))
    try:
        create_home(home)
        Settings.load(home).model_copy(update={"airflow": SchedulerSettings(executor="celery", workers=2)}).write()
        case = prepare(home, survey, print)
        stack.up(print)
        with AirflowClient(stack.api_url, "admin", stack.password("admin")) as client:
            made = Night(stack, client, case, home)
            drive(made)
            yield made
    finally:
        stack.down(print)
        assert marked(f"{home}:") == [], "down left processes behind"
        assert not RabbitServer(home).running()


def drive(night):
    days = {"first_day": night.case.science_days[0], "last_day": night.case.science_days[-1]}
    days["first_day"] = min(days["first_day"], *night.case.calibration_days)
    here = {"instrument": night.case.instrument}
    night.ask("stays", {"folder": str(night.folder)})
    night.month = scheduled(night, "calibration_monthly", str(days["first_day"]))
    night.victim = night.worker_of()
    until(lambda: any(task.started_at for task in night.client.tasks("calibration_monthly", night.month)), "the month's begin")
    night.processes_killed = killed(night.stack, night.victim)
    night.down = {state.name for state in night.stack.status() if state.healthy is False}
    # All at once: Airflow takes a minute to be sure that the killed worker's task is dead.
    night.year = night.ask("calibration_annual", {**here, **days, "release": RELEASE, "serial": 2}, by="scientist")
    night.release = read("release", {**here, **days, "release": RELEASE, "serial": 2}).run_id("release")
    night.end("calibration_monthly", night.month)
    night.second = night.worker_of(1)
    (night.folder / "go").touch()
    night.end("stays", "stays")
    night.stack.up(print)
    night.up = {state.name for state in night.stack.status() if state.healthy is not False}
    night.end("calibration_annual", night.year)
    observatory(night, {**here, "day_obs": night.case.calibration_days[0], "command": "ocs-7"})
    if ALL:
        drive_the_rest(night)


def scheduled(night, dag, day):
    """A month's first run by the schedule: in Airflow's books the end of the month of `day` (YYYYMMDD) is when it is due."""
    year, month = divmod(int(day[:4]) * 12 + int(day[4:6]), 12)
    due = datetime(year, month + 1, 1, tzinfo=UTC)
    until(lambda: dag in night.client.dags(), f"DAG {dag}: {night.client.import_errors()}")
    books = sa.create_engine(night.stack.settings.environment({})["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    columns = ("next_dagrun", "next_dagrun_create_after", "next_dagrun_data_interval_start", "next_dagrun_data_interval_end")
    move = sa.text(f"UPDATE dag SET {', '.join(f'{c} = :due' for c in columns)} WHERE dag_id = :dag")  # noqa: S608 (ours)
    run = f"scheduled__{due.isoformat()}"

    def moved():
        with books.begin() as connection:  # again, as each reading of the DAG's file sets it to the next month
            connection.execute(move, {"due": due, "dag": dag})
        night.client.unpause(dag)
        time.sleep(1)  # for the scheduler's round
        return _run(night, dag, run)

    until(moved, f"run {run}")
    books.dispose()
    return run


def observatory(night, conf):
    """A day's calibrations by its command, given twice; how they are going and what became of them, over REST."""
    with AirflowClient(night.stack.api_url, "ocs", night.stack.password("ocs")) as ocs:
        run = read("calibration_daily", conf).run_id("calibration_daily")
        for _ in range(2):
            ocs.trigger("calibration_daily", run, conf)
        night.ended["calibration_daily"] = ocs.wait("calibration_daily", run, timeout_s=LIMIT_S, poll_s=0.3).state
        night.told = json.loads(ocs.text("/pachon/api/commands/ocs-7"))
    before = Campaigns.open(night.stack.home).certifications.every()
    night.client.trigger("calibration_daily", "again", {name: said for name, said in conf.items() if name != "command"})
    night.end("calibration_daily", "again")
    night.changed_by_again = Campaigns.open(night.stack.home).certifications.every() != before
    night.end("calibration_report", night.ask("calibration_report", {"day_obs": conf["day_obs"]}))
    night.report = json.loads(night.client.text(f"/pachon/calibrations/SimCam/{conf['day_obs']}/report.json"))


def drive_the_rest(night):
    asked = until(lambda: night.client.approvals("release", night.release), "the approval")
    night.client.answer("release", night.release, asked[0]["task"], "Approve")
    night.end("release", night.release)  # while it runs no template is made
    runs = {run.dag: run for run in night.case.runs()}
    for serial in (1, 2):
        looked = night.ask("template_generation", {**runs["template"].conf, "serial": serial})
        night.end("template_generation", looked)
        night.looks.append({task.id: task.state for task in night.client.tasks("template_generation", looked)})
        if serial == 1:
            night.end("template", night.client.xcom("template_generation", looked, "needed")["run_id"])
    for dag in ("nightly", "offline"):
        night.end(dag, night.ask(dag, runs[dag].conf))


def test_every_dag_run_succeeded_with_a_worker_killed_meanwhile(night):
    assert night.processes_killed > 2
    assert set(night.ended.values()) == {"success"}
    expected = {"stays", "calibration_daily", "calibration_monthly", "calibration_annual", "calibration_report"}
    assert set(night.ended) == expected | (REST if ALL else set())


@pytest.mark.skipif(not ALL, reason="PACHON_CELERY_DAGS=all runs every DAG")
def test_templates_were_made_because_they_were_missing_and_then_are_not(night):
    assert night.looks == [{"needed": "success", "make": "success"}, {"needed": "skipped", "make": "skipped"}]
    (made,) = [s for s in Campaigns.open(night.stack.home).every() if s.production == "template"]
    assert made.state.value == "SUCCEEDED"


def test_schedule_took_the_month_that_had_ended(night):
    (campaign,) = [s for s in Campaigns.open(night.stack.home).every() if s.name.startswith("calibration_monthly_SimCam_202110")]
    assert campaign.name.split("_")[3:5] == ["20211001", "20211031"]


def test_observatory_is_told_of_its_calibrations_and_asking_twice_changes_nothing(night):
    assert (night.told["command"], night.told["state"]) == ("ocs-7", "SUCCEEDED")
    assert [(s["name"], s["state"]) for s in night.told["steps"]][-1] == ("verify", "SUCCEEDED")
    assert {(p["dataset_type"], p["state"]) for p in night.told["products"]} == {
        (n, "CERTIFIED") for n in ("bias", "dark", "flat")
    }
    days = [s for s in Campaigns.open(night.stack.home).every() if s.production == "calibration_daily"]
    assert (len(days), night.changed_by_again) == (1, False)
    assert {p["product"] for p in night.report["products"]} >= {"bias", "dark", "flat"}


def test_task_of_the_killed_worker_was_run_again_by_the_other_and_ended_once(night):
    assert {night.victim, night.second} == {"celery-1", "celery-2"}
    assert (night.folder / "ended").read_text() == "x"


def test_status_shows_the_killed_worker_and_up_starts_it_again(night):
    assert night.down == {night.victim}
    assert {"celery-1", "celery-2", "rabbitmq", "postgres"} <= night.up
    mark = f"{night.stack.home}:{night.victim}"
    until(lambda: len(marked(mark)) > 2, "renamed processes that keep their mark: others would be left behind")


def test_year_opened_its_release_which_runs_with_the_years_conf(night):
    run = until(lambda: _run(night, "release", night.release), "the release")
    assert run.conf["release"] == RELEASE
    assert run.state in {"queued", "running", "success"}
    starts = until(
        lambda: [s.name for s in Campaigns.open(night.stack.home).every() if s.production == "release"], "its campaign"
    )
    assert f"release_mini_{RELEASE}_2" in starts


def _run(night, dag, run):
    try:
        return night.client.run(dag, run)
    except NotThere:
        return None


def test_nothing_is_lost_and_nothing_done_twice(night):
    home = night.stack.home
    done = [s.name for s in Campaigns.open(home).every() if s.ended and s.state.value == "SUCCEEDED"]
    assert {"calibration_monthly", "calibration_annual"} <= {Campaigns.open(home).status(name).production for name in done}
    ledger = Context(Settings.load(home)).ledger
    of_done = t.quantum.c.campaign.in_(done) if "campaign" in t.quantum.c else sa.true()
    quanta = ledger.all(sa.select(t.quantum.c.id, t.quantum.c.state).where(t.quantum.c.current, of_done))
    accepted = [row.quantum for row in ledger.all(sa.select(t.accepted.c.quantum))]
    published = [row.quantum for row in ledger.all(sa.select(t.outbox.c.quantum).where(t.outbox.c.published.is_not(None)))]
    ledger.close()
    assert quanta
    assert {row.state for row in quanta} == {"SUCCEEDED"}
    for found in (accepted, published):
        assert len(found) == len(set(found))
        assert {row.id for row in quanta} <= set(found)


def test_broker_is_of_this_machine_and_user_alone(night):
    home = night.stack.home
    ports = json.loads((home / "run" / "ports.json").read_text())
    ours = {number for name, number in ports.items() if name.startswith("rabbitmq")}
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port in ours}
    assert listening <= {"127.0.0.1", "::1"}
    secret = (home / "secrets" / "rabbitmq").read_text()
    kept = [p for p in RabbitServer(home).folder.rglob("*") if p.is_file() and p.stat().st_size < 1e6]
    assert not [p for p in kept if secret in p.read_text(errors="replace")]
    for path in (Path(home / "secrets" / "rabbitmq"), RabbitServer(home).folder / "definitions.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in " ".join(" ".join(p.cmdline()) for p in marked(f"{home}:"))

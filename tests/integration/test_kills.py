"""`kill -9` of everything in turn while a night is processed: the products are those of an undisturbed run.

PACHON_SOAK_KILLS says how many kills (default 3), PACHON_KILL_SEED which ones.
"""

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, is_dataclass, replace

import numpy as np
import psutil
import pytest
import sqlalchemy as sa
from astropy.nddata import CCDData
from astropy.table import Table

from backbone.butler import attempt_prefix
from deploy import postgres
from deploy.demo.prepare import prepare
from deploy.home import create_home
from deploy.processes import marked
from deploy.rest import AirflowClient, AirflowUnavailable
from deploy.stack import Stack, default_dags
from operators.conf import read
from payloads.alerts import read_alerts
from payloads.repository import open_repository
from workflow.campaigns import Campaigns
from workflow.context import Context
from workflow.job import keys_of, merged
from workflow.ledger import tables as t
from workflow.settings import Settings

KILLS = int(os.environ.get("PACHON_SOAK_KILLS", "3"))
SEED = int(os.environ.get("PACHON_KILL_SEED", "20270101"))
pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.kill, pytest.mark.timeout(1000 + 60 * KILLS)]

LIMIT_S = 800 + 60 * KILLS  # for a machine that is busy with other things
TIMES = {"timeProcessedMjdTai", "validityStartMjdTai", "DATE"}  # of processing
DATASET_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PROGRAMS = ("engine", "airflow-scheduler", "airflow-triggerer", "airflow-dag-processor", "airflow-api-server")
JOB, CHILD = "job", "child"
UNDISTURBED = """
import sys
from pathlib import Path
from deploy.demo.local import run_locally
from deploy.demo.case import DagRun
from json import loads
run_locally(Path(sys.argv[1]), Path(sys.argv[2]), [DagRun(**run) for run in loads(sys.argv[3])])
"""


def needed(case):
    """The DAG runs of the case but its release, with the first day's calibrations alone: those are valid from then on."""
    case = replace(case, calibration_days=case.calibration_days[:1])
    return [run for run in case.runs() if run.stage != "release"]


@dataclass
class Killer:
    """Kills at moments of its own choice, one thing at a time, and starts again what it killed."""

    stack: Stack
    say: Callable[[str], None] = print
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311 (moments, not secrets)
    log: list = field(default_factory=list)
    due: float = 0.0
    victim: str = ""
    spared: set = field(default_factory=set)

    def choose(self):
        victims = [*PROGRAMS, JOB, JOB, CHILD]
        self.victim = self.rng.choice(victims)
        self.due = time.monotonic() + self.rng.uniform(0, 6)

    def tick(self, run, allowed):
        """Kill if it is time; True if something was killed. No more than `allowed` kills by now."""
        if len(self.log) >= allowed or time.monotonic() < self.due:
            return False
        if self.victim in PROGRAMS:
            self._program(self.victim)
        elif not self._job(run):
            return False
        self.log.append((self.victim, run))
        self.say(f"killed {self.victim} during {run}")
        self.choose()
        return True

    def _program(self, name):
        (program,) = [p for p in self.stack.programs({}) if p.name == name]
        leader = program.leader()
        leader.kill()
        psutil.wait_procs([leader], timeout=10)
        self.stack.up(self.say)

    def _job(self, run):
        """All processes of a running job, or only the one that computes; that once in a run, for its budget is one retry."""
        for record in (self.stack.home / "run" / "jobs" / "local").glob("*/record"):
            with contextlib.suppress(OSError, psutil.Error, ValueError, IndexError):
                if (record.parent / "exit").exists():
                    continue
                keeper, session = (int(word) for word in record.read_text().split()[:2])
                if self.victim == JOB or run in self.spared:
                    os.killpg(session, signal.SIGKILL)
                    return True
                children = [c for runner in psutil.Process(keeper).children() for c in runner.children()]
                if children:
                    children[0].kill()
                    self.spared.add(run)
                    return True
        return False


def patient(act):
    """The answer of an Airflow that may just be dead."""
    limit = time.monotonic() + 60
    while True:
        try:
            return act()
        except AirflowUnavailable:
            assert time.monotonic() < limit, "Airflow does not come back"
            time.sleep(0.2)  # there is no event to wait for


def drive(stack, killer, runs):
    """Each DAG run in order, with kills meanwhile; the state that each ended in."""
    ended = {}
    with AirflowClient(stack.api_url, "admin", stack.password("admin")) as client:
        limit = time.monotonic() + LIMIT_S
        while not {run.dag for run in runs} <= set(patient(client.dags)):
            assert time.monotonic() < limit, client.import_errors()
            time.sleep(0.2)
        for number, run in enumerate(runs, 1):
            allowed = -(-KILLS * number // len(runs))  # some in each run, and none left at the end
            killer.choose()
            name = read(run.dag, run.conf).run_id(run.dag)
            begun = time.monotonic()
            for _ in range(2):  # as one would whose first answer was lost
                patient(lambda: client.trigger(run.dag, name, run.conf))  # noqa: B023 (called at once)
            while True:
                killer.tick(name, allowed)
                now = patient(lambda: client.run(run.dag, name))  # noqa: B023
                if now.ended:
                    break
                assert time.monotonic() < limit, f"{name} is {now.state}, tasks {client.tasks(run.dag, name)}; kills {killer.log}"
                time.sleep(0.3)
            killer.say(f"{name} ended {now.state} after {time.monotonic() - begun:.0f} s")
            ended[name] = now.state
    return ended


def start_undisturbed(home, runs):
    from json import dumps

    described = dumps([{"stage": r.stage, "dag": r.dag, "conf": dict(r.conf)} for r in runs])
    with (home / "local.log").open("wb") as log:
        argv = [sys.executable, "-c", UNDISTURBED, str(home), str(default_dags()), described]
        return subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def ledger_url(home):
    """A database of the home's own server, where PostgreSQL can be had."""
    if not postgres.obtained():
        return None
    server = postgres.PostgresServer(home)
    server.up()
    return server.database("ledger").replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture(scope="module")
def ended(survey, tmp_path_factory):
    """Two homes over the same frames, one disturbed and one not; both have done all they had to do."""
    quiet, home = tmp_path_factory.mktemp("quiet"), tmp_path_factory.mktemp("disturbed")
    create_home(quiet, slots=1, stay_s=2)
    runs = needed(prepare(quiet, survey, print))
    undisturbed = start_undisturbed(quiet, runs)
    stack = Stack(home)
    try:
        create_home(home, ledger=ledger_url(home))
        prepare(home, survey, print)
        stack.up(print)
        killer = Killer(stack)
        states = drive(stack, killer, runs)
        campaigns = Campaigns.open(home)
        limit = time.monotonic() + 60
        while campaigns.live():
            assert time.monotonic() < limit, f"the engine has still work with {campaigns.live()}"
            time.sleep(0.2)
        assert undisturbed.wait(LIMIT_S) == 0, (quiet / "local.log").read_text()[-3000:]
        yield quiet, home, states, killer
    finally:
        undisturbed.kill()
        undisturbed.wait()
        stack.down(print)
        assert marked(f"{home}:") == [], "down left processes behind"


def test_every_kill_was_done_and_every_dag_run_succeeded(ended):
    _, _, states, killer = ended
    assert len(killer.log) == KILLS, killer.log
    assert set(states.values()) == {"success"}, (states, f"seed {SEED}", killer.log)


def test_dag_run_that_was_asked_for_twice_is_one_campaign(ended):
    _, home, states, _ = ended
    assert len(Campaigns.open(home).every()) == len(states)


def test_products_are_those_of_an_undisturbed_run(ended):
    quiet, home, _, killer = ended
    expected, found = products(quiet), products(home)
    assert {"bias", "calexp", "template_coadd", "difference", "dia_source", "alerts"} <= {key[0] for key in expected}
    assert found.keys() == expected.keys(), (f"seed {SEED}", killer.log)
    differ = [key for key in expected if expected[key] != found[key]]
    assert not differ, (f"seed {SEED}", killer.log, {key: difference(expected[key], found[key]) for key in differ[:5]})


def test_every_quantum_is_accepted_once_and_published_once(ended):
    ledger = Context(Settings.load(ended[1])).ledger
    quanta = {r.id: r.state for r in ledger.all(sa.select(t.quantum.c.id, t.quantum.c.state).where(t.quantum.c.current))}
    assert set(quanta.values()) == {"SUCCEEDED"}
    for table in (t.accepted, t.outbox):
        assert sorted(r.quantum for r in ledger.all(sa.select(table.c.quantum))) == sorted(quanta)
    assert not ledger.all(sa.select(t.outbox.c.seq).where(t.outbox.c.published.is_(None)))
    assert {r.swept is not None for r in ledger.all(sa.select(t.job.c.swept))} == {True}
    ledger.close()


def test_nothing_is_left_of_attempts_that_were_not_accepted(ended):
    home = ended[1]
    ledger = Context(Settings.load(home)).ledger
    rows = ledger.all(sa.select(t.outcome.c.records).join(t.accepted, t.accepted_outcome()))
    planned = ledger.all(sa.select(t.group.c.init_records))
    keep = keys_of(merged([r.records for r in rows] + [r.init_records for r in planned]))
    jobs = {r.id for r in ledger.all(sa.select(t.job.c.id))}
    ledger.close()
    files = {p.relative_to(home / "repo").as_posix() for p in (home / "repo" / "_a").rglob("*") if p.is_file()}
    of_jobs = {key for key in files if key.split("/")[1] in jobs}
    assert of_jobs == {key for key in keep if key.startswith(tuple(f"{attempt_prefix(job)}/" for job in jobs))}
    assert list((home / "run" / "jobs" / "local").iterdir()) == []
    assert list((home / "run" / "messages").glob("*")) == []


def products(home):
    """Every dataset of every campaign → what it holds, as plain values and digests."""
    butler = open_repository(home / "repo")
    # Logs and metadata tell of the attempt; packages and configurations are made by planning.
    kinds = [d for d in butler.registry.queryDatasetTypes() if not d.name.endswith(("_log", "_metadata", "_config", "packages"))]
    campaigns = [s.name for s in Campaigns.open(home).every()]
    runs = [run for name in campaigns for run in butler.collections.query(f"{name}/*")]
    found = {}
    for kind in kinds:
        for ref in butler.query_datasets(kind, runs, find_first=False, explain=False, limit=None):
            thing = butler.get(ref)
            found[kind.name, ref.run, str(ref.dataId)] = plain(read_alerts(thing) if kind.name == "alerts" else thing)
    return found


def plain(thing):
    """As values that can be compared, arrays by digest; provenance (dataset ids, runs, time of processing) left out."""
    if isinstance(thing, CCDData):
        parts = {"data": thing.data, "mask": thing.mask, "uncertainty": thing.uncertainty and thing.uncertainty.array}
        cards = {k: v for k, v in thing.meta.items() if "BUTLER" not in k.upper()}
        wcs = thing.wcs.to_header_string() if thing.wcs is not None else None
        return plain({**parts, "unit": str(thing.unit), "meta": cards, "wcs": wcs})
    if isinstance(thing, Table):
        meta = {k: v for k, v in thing.meta.items() if "butler" not in k.lower()}
        return {
            "columns": {name: plain(np.asarray(thing[name])) for name in thing.colnames if name not in TIMES},
            "meta": plain(meta),
        }
    if isinstance(thing, np.ndarray):
        digest = hashlib.sha256(repr(thing.tolist()).encode() if thing.dtype.hasobject else np.ascontiguousarray(thing).tobytes())
        return thing.dtype.str, thing.shape, digest.hexdigest()
    if isinstance(thing, dict):
        return {key: plain(value) for key, value in thing.items() if key not in TIMES}
    if is_dataclass(thing):
        return plain({"values": astuple(thing)})
    if isinstance(thing, (list, tuple)):
        return [plain(item) for item in thing]
    if isinstance(thing, bytes):
        return hashlib.sha256(thing).hexdigest()
    return DATASET_ID.sub("an id", repr(thing))


def difference(one, other):
    """Where two plain things differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {k: difference(one.get(k), other.get(k)) for k in {*one, *other} if one.get(k) != other.get(k)}
    return one, other

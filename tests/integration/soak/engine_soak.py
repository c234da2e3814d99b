"""A campaign whose every fault is known, on two HTCondor pools, PostgreSQL and Airflow, while something dies every few seconds.

Quanta misbehave as their inputs say (tests/workflow/tiny): that is the truth the ledger is held to at the end. Broken off, or out
of minutes, the same home goes on where it was. `make soak-engine` (benchmarks/soak_engine.py) runs it at length.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from blows import Killer, Reviver
from lsst.daf.butler import Butler
from truth import BUDGETS, LABELS, Books, Difference, Quantum, Truth, differences

from backbone.errors import TransientError
from deploy.condor.pool import CondorServer
from deploy.keys import write_private
from deploy.postgres import PostgresServer
from deploy.rest import AirflowClient
from deploy.stack import Stack
from workflow.campaigns import Campaigns
from workflow.context import Context
from workflow.ledger import tables as t
from workflow.settings import Settings

TINY = Path(__file__).parents[2] / "workflow" / "tiny"
CAMPAIGN, STEP, RUN = "soak", "work", "soak_1"
SITES = ("ncsa", "ccin2p3")
SLOTS = 3  # of each: what hangs or is slow needs no core
TIME_LIMIT_S = 4
LEASE_S = 40
MEMORY_MB = 1024
AIRFLOW_ENDS_S = 180

DAG = f'''
from airflow.sdk import DAG
from operators.campaign import CampaignStepOperator
from operators.priority import DRP

with DAG("soak", schedule=None, default_args=DRP.default_args()):
    CampaignStepOperator(task_id="{STEP}", campaign="{CAMPAIGN}", step="{STEP}")
'''


class Soak:
    """One home, made once, gone on with as often as one likes."""

    def __init__(
        self,
        home: Path,
        *,
        inputs: int,
        seed: int,
        airflow: bool,
        every_s: float,
        blows: int | None = None,
        detectors: int = 200,
        stay_s: float = 0,
        say: Callable[[str], None] = print,
    ) -> None:
        """`inputs` pairs of quanta in groups of `detectors`; a blow every `every_s`, `blows` at most; jobs stay for `stay_s`."""
        if inputs % detectors:
            raise ValueError(f"{inputs} inputs: groups have {detectors}, so ask for a multiple of that")
        self.home, self.airflow, self.stay_s, self.say = home, airflow, stay_s, say
        self.every_s, self.blows, self._detectors = every_s, blows, detectors
        self.truth = Truth.drawn(inputs, seed)
        self.airflow_ended = "not waited for"
        self._minutes = 0.0
        if str(TINY) not in sys.path:
            sys.path.insert(0, str(TINY))  # the tiny tasks, importable here, in the engine and in jobs
        os.environ["PYTHONPATH"] = str(TINY)

    def make(self) -> None:
        """Repository, settings, campaign, DAG: each once."""
        self.home.mkdir(parents=True, exist_ok=True)
        plan = json.dumps([self.truth.inputs, self._detectors, self.airflow, sorted(self.truth.deeds)])
        made = self.home / "made"
        if not made.exists():
            self._make()
            made.write_text(plan)
        elif made.read_text() != plan:
            raise ValueError(f"{self.home} holds another soak: ask for the same quanta and seed, or name another home")
        PostgresServer(self.home).up()
        self.campaigns = Campaigns.open(self.home)
        self.campaigns.start(self._production(), name=CAMPAIGN, actor="soak", release="none" if self.airflow else "all")

    def _make(self) -> None:
        import tiny_tasks

        self.say(f"making {self.truth.inputs} inputs")
        (self.home / "dags").mkdir(exist_ok=True)
        (self.home / "dags" / "soak.py").write_text(DAG)
        (self.home / "tiny.yaml").write_text(tiny_tasks.PIPELINE)
        exposures, size = self.truth.inputs // self._detectors, self._detectors
        values = {(n // size + 1, n % size): self.truth.value(n) for n in range(self.truth.inputs)}
        tiny_tasks.make_repo(self.home / "repo", exposures=exposures, detectors=size, values=values)
        server = PostgresServer(self.home)
        server.up()
        server.database("ledger")
        self._settings(server.url("ledger").replace("postgresql://", "postgresql+psycopg2://")).write()

    def _settings(self, ledger: str) -> Settings:
        pool = {
            "kind": "htcondor",
            "slots": SLOTS,
            "job_lease_s": 20,
            "stay_s": self.stay_s,
            "environment": {"PYTHONPATH": str(TINY)},
        }
        engine = {"lease_s": LEASE_S, "heartbeat_s": 5, "flush_s": 2, "memory_mb": MEMORY_MB, "first_quantum_s": 0.1}
        return Settings.model_validate(
            {
                "home": self.home,
                "ledger": ledger,
                "sites": [{"name": name, "pool": pool, "endpoint": {"uri": "repo"}} for name in SITES],
                "engine": engine,
                "servers": {"postgres": True},
            }
        )

    def _production(self) -> dict[str, Any]:
        step = {
            "name": STEP,
            "pipeline": f"{self.home / 'tiny.yaml'}#pair",
            "inputs": ["in"],
            "where": "instrument='TinyCam'",
            "group_by": ["exposure"],
            "chunk": {"target_s": 30, "max_quanta": 500},
            "on_failure": "continue",
            "time_limit_s": TIME_LIMIT_S,
            "retries": BUDGETS,
        }
        return {"production": "soak", "kind": "drp", "steps": [step], "share": dict.fromkeys(SITES, 0.5)}

    def run(self, minutes: float) -> bool:
        """Until the campaign has ended (True) or the minutes are over; HOME/blows.json has the blows and minutes of all runs."""
        stack = Stack(self.home, dags=self.home / "dags") if self.airflow else Stack(self.home, with_airflow=False)
        settings = Settings.load(self.home)
        pools = [CondorServer(self.home, site.name, site.pool) for site in settings.sites]
        rng = random.Random(time.time_ns())  # noqa: S311 (moments, not secrets)
        killer = Killer(self.home, stack, pools, rng, frozen_s=LEASE_S + 10)
        begun, self._minutes = time.monotonic(), self.tally["minutes"]
        try:
            stack.up(self.say)
            self._trigger(stack)
            with Reviver(stack, rng, self.every_s / 4, self.say):
                ended = self._until_ended(killer, begun, begun + 60 * minutes)
            killer.thaw()
            if not ended:
                self.say(self._why())
            if ended and self.airflow:
                self.airflow_ended = self._wait_for_airflow(stack)
            return ended
        finally:
            killer.thaw()
            self._note([], begun)
            stack.down(self.say)

    def _until_ended(self, killer: Killer, begun: float, limit: float) -> bool:
        due = time.monotonic() + self.every_s
        while time.monotonic() < limit:
            if self._ended():
                return True
            spent = self.blows is not None and killer.log.total() >= self.blows
            now = time.monotonic()
            if not spent and now > due and (hit := killer.strike()):
                due = now + self.every_s
                self._note([hit], begun)
                self.say(f"{time.strftime('%H:%M:%S')} hit {hit:18} {self._line()}")
            time.sleep(0.5)
        return self._ended()

    @property
    def tally(self) -> dict[str, Any]:
        """`blows` by victim and `minutes`, over all runs."""
        path = self.home / "blows.json"
        return json.loads(path.read_text()) if path.exists() else {"blows": {}, "minutes": 0.0}

    def _note(self, blows: list[str], begun: float) -> None:
        """At once: whoever is killed next, it happened."""
        minutes = round(self._minutes + (time.monotonic() - begun) / 60, 1)
        found = {"blows": Counter(self.tally["blows"]) + Counter(blows), "minutes": minutes}
        write_private(self.home / "blows.json", json.dumps(found))

    def _trigger(self, stack: Stack) -> None:
        if not self.airflow:
            return
        with AirflowClient(stack.api_url, "admin", stack.password("admin")) as client:
            limit = time.monotonic() + 120
            while "soak" not in client.dags():
                assert time.monotonic() < limit, client.import_errors()
                time.sleep(0.5)
            client.unpause("soak")
            client.trigger("soak", RUN, {})

    def _wait_for_airflow(self, stack: Stack) -> str:
        """The state of Airflow's run, which only watches: it ends when it sees the campaign's end."""
        stack.up(lambda _: None)
        with AirflowClient(stack.api_url, "admin", stack.password("admin")) as client:
            try:
                return client.wait("soak", RUN, timeout_s=AIRFLOW_ENDS_S).state
            except TransientError as error:
                return str(error)

    def _ended(self) -> bool:
        try:
            return self.campaigns.status(CAMPAIGN).ended is not None and CAMPAIGN not in self.campaigns.live()
        except Exception as error:  # the database may just be dead
            self.say(f"no status: {type(error).__name__}")
            return False

    def _line(self) -> str:
        try:
            step = self.campaigns.status(CAMPAIGN).step(STEP)
        except Exception as error:
            return f"no status: {type(error).__name__}"
        return (
            f"{step.accepted}/{step.expected} accepted, {step.published} published, {step.failed} failed, {step.running} running"
        )

    def _why(self) -> str:
        try:
            return "\n".join(f"{f.subject}: {f.answer}" for f in self.campaigns.why(CAMPAIGN).findings)
        except Exception as error:
            return f"why it has not ended is not known: {type(error).__name__}"

    def differences(self) -> list[Difference]:
        """Where ledger, Butler and Airflow are not the truth; empty if all is well."""
        server = PostgresServer(self.home)
        server.up()
        ledger = Context(Settings.load(self.home)).ledger
        try:
            found = list(differences(self.truth, self._books(ledger)))
        finally:
            ledger.close()
            server.down()
        if self.airflow and self.airflow_ended != "success":
            found.append(Difference("lost", f"Airflow's run: {self.airflow_ended}"))
        return [*found, *self._in_butler()]

    def _books(self, ledger: Any) -> Books:
        q, o = t.quantum.c, t.outcome.c
        rows = {
            r.id: ((r.label, self._number(json.loads(r.data_id))), r.state)
            for r in ledger.all(sa.select(q.id, q.label, q.data_id, q.state).where(q.current))
        }
        failed = sa.select(o.quantum, o.failure_class, sa.func.count().label("n")).where(o.state == "failed")
        failures: dict[Quantum, Counter[str]] = {}
        for r in ledger.all(failed.group_by(o.quantum, o.failure_class)):
            failures.setdefault(rows[r.quantum][0], Counter())[r.failure_class] = r.n
        accepted = Counter(rows[r.quantum][0] for r in ledger.all(sa.select(t.accepted.c.quantum)))
        out = sa.select(t.outbox.c.quantum).where(t.outbox.c.published.is_not(None))
        published = Counter(rows[r.quantum][0] for r in ledger.all(out))
        return Books(list(rows.values()), failures, accepted, published)

    def _in_butler(self) -> Iterator[Difference]:
        """What the registry has must be the outputs of the quanta that succeed, each once."""
        with Butler.from_config(str(self.home / "repo")) as butler:
            for label, kind in zip(LABELS, ("tiny_mid", "tiny_out"), strict=True):
                refs = butler.query_datasets(kind, collections="*", find_first=False, limit=None, explain=False)
                there = Counter(self._number(ref.dataId) for ref in refs)
                due = {n for n in range(self.truth.inputs) if self.truth.state(label, n) == "SUCCEEDED"}
                if wrong := due ^ there.keys():
                    yield Difference(
                        "lost", f"{kind}: of {len(due)} that are due {len(wrong)} are missing or should not be there"
                    )
                if more := there.total() - len(there):
                    yield Difference("twice", f"{kind}: {more} more than one of a kind")

    def _number(self, data_id: Any) -> int:
        return (int(data_id["exposure"]) % 100_000 - 1) * self._detectors + int(data_id["detector"])

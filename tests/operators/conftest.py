"""An Airflow home of the tests' own, and a fake of the engine's public face."""

import os
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from operators import engine
from workflow.campaigns import BacklogEntry, CampaignReport, CampaignStatus, LabelReport, RetryReport, StepStatus
from workflow.errors import ConflictError, UnknownCampaign
from workflow.states import CampaignState, QuantumState, StepState

# Airflow reads its configuration when it is first imported: after this, by the test modules.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="pachon-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{os.environ['AIRFLOW_HOME']}/airflow.db")


@dataclass
class FakeCampaigns:
    """As `workflow.campaigns.Campaigns`, of what a test puts in; `calls` is what was asked, `outage` what the ledger raises."""

    known: dict = field(default_factory=dict)
    started: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)
    outage: Exception | None = None
    on_advance: object = None
    left: list = field(default_factory=list)
    found: dict = field(default_factory=dict)

    def put(self, name, state="RUNNING", reason="", **steps):
        """A campaign; steps as name=state or name=StepStatus."""
        made = tuple(s if isinstance(s, StepStatus) else StepStatus(name=n, state=StepState(s)) for n, s in steps.items())
        self.known[name] = CampaignStatus(name=name, production="p", state=CampaignState(state), steps=made, reason=reason)

    def _note(self, *call):
        if self.outage is not None:
            raise self.outage
        self.calls.append(call)

    def start(self, production, *, name, parameters, actor, release):
        self._note("start", name, actor, release)
        content = (str(production), dict(parameters))
        if self.started.setdefault(name, content) != content:
            raise ConflictError(f"campaign {name} exists with other content")
        self.known.setdefault(name, CampaignStatus(name=name, production="p", state=CampaignState.READY))
        return self.known[name]

    def documents(self, name, dataset_type):
        self._note("documents", name, dataset_type)
        return self.found.get(dataset_type, [])

    def release(self, name, step, actor):
        self._note("release", name, step, actor)
        return self.status(name)

    def advance(self, name):
        self._note("advance", name)
        if self.on_advance is not None:
            self.on_advance(self)
        return self.known[name]

    def status(self, name):
        if name not in self.known:
            raise UnknownCampaign(f"the ledger has no campaign {name!r}")
        return self.known[name]

    def statuses(self, which):
        self._note("statuses", tuple(which))
        return [self.known.get(name) for name, _ in which]

    def pause(self, name, actor, how="drain", reason=""):
        self._note("pause", name, actor, how)
        self.known[name] = replace(self.known[name], state=CampaignState.PAUSED, reason=reason)
        return self.known[name]

    def resume(self, name, actor):
        self._note("resume", name, actor)
        self.known[name] = replace(self.known[name], state=CampaignState.RUNNING, reason="")
        return self.known[name]

    def retry(self, name, actor, *, dry_run=False):
        self._note("retry", name, actor)
        return RetryReport(campaign=name, failed=len(self.left), pruned=0, steps=(), dry_run=dry_run)

    def backlog(self, name=None):
        return [
            BacklogEntry(campaign=name, step="frames", label="isr", visit=v, detector=0, data_id={}, reason="") for v in self.left
        ]

    def report(self, name):
        states = dict.fromkeys((s.value for s in QuantumState), 0) | {"SUCCEEDED": 3, "FAILED": 1}
        row = LabelReport(step="frames", label="isr", states=states, expected=4)
        error = {
            "step": "frames",
            "label": "isr",
            "failure_class": "science",
            "payload": True,
            "count": 1,
            "wall_s": 1.5,
            "example": "too <few> stars",
        }
        return CampaignReport(campaign=self.status(name), labels=(row,), errors=(error,))


@pytest.fixture
def campaigns(monkeypatch, tmp_path):
    """The fake, behind every operator and trigger; PACHON_HOME is a home of its own."""
    fake = FakeCampaigns()
    monkeypatch.setattr(engine, "open_campaigns", lambda home: fake)
    monkeypatch.setenv("PACHON_HOME", str(tmp_path))
    return fake


@pytest.fixture
def context(tmp_path):
    """The parts of a task's context that the operators use; `pushed` collects XComs."""
    pushed = {}
    run = SimpleNamespace(dag_id="nightly", run_id="r1", run_after=datetime(2026, 3, 5, tzinfo=UTC), triggering_user_name="ocs")
    ti = SimpleNamespace(xcom_push=lambda key, value: pushed.__setitem__(key, value), id="ti")
    dag = SimpleNamespace(fileloc=str(tmp_path / "dags" / "nightly.py"))
    return {"dag_run": run, "dag": dag, "ti": ti, "task_instance": ti, "params": {}, "pushed": pushed}


@pytest.fixture(scope="session")
def condor(tmp_path_factory):
    """Settings of a real pool of this machine, started for these tests; skipped where HTCondor can be had in no way."""
    from deploy.condor.pool import CondorServer
    from deploy.debian import NoDebianMirror
    from operators.htcondor.settings import from_parts
    from workflow.pools.settings import HTCondorPool

    home = tmp_path_factory.mktemp("condor")
    server = CondorServer(home, "testpool", HTCondorPool(kind="htcondor", slots=4))
    try:
        server.up()
    except NoDebianMirror as error:
        pytest.skip(f"no HTCondor: {error}")
    try:
        host, port = (server.folder / "address").read_text().strip().split(":")
        extra = {"token_directory": str(server.token_file.parent), "trust_domain": server.site, "files": "transfer"}
        yield from_parts(host=host, port=int(port), password=None, extra=extra)
    finally:
        server.down()
        assert not server.running()

"""Everything that a person or a program may do twice, or do again after a crash, does no harm."""

import os
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa
from astropy.table import Table

from deploy.demo.prepare import prepare
from deploy.stack import default_dags
from payloads.repository import checksums, open_repository
from workflow.context import Context
from workflow.ledger import tables as t
from workflow.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PRODUCTION = default_dags() / "productions" / "calibration_daily.yaml"
# Prepares a home, and ends as by `kill -9` at the n-th of the moments at which it writes.
PREPARE_AND_DIE = """
import os, signal, sys
from pathlib import Path
import payloads.ingest as ingest
from deploy.demo import prepare as module
from payloads.camera import Camera

home, out, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
place, name = {
    "repository": (module, "ingest"),
    "observations": (ingest, "data_id_expander"),
    "half of the frames": (ingest, "_store"),
    "reference catalogue": (module, "ingest_refcat"),
    "sky map": (module, "make_from_visits"),
}[moment]
if moment == "half of the frames":
    ingest.CHUNK, real, calls = 10, ingest._store, []
    def store(*arguments):
        calls.append(1)
        die() if len(calls) == 2 else real(*arguments)
    ingest._store = store
else:
    setattr(place, name, die)
module.prepare(home, module.Frames(Camera.load(out / "camera.yaml"), out / "raw", out / "refcat.parquet"), print)
"""


def contents(home):
    """What a prepared home holds: every dataset's type, RUN, data ID and content, and every record.

    Files that the Butler writes name their dataset, whose id is new in each repository: not their bytes are compared.
    """
    butler = open_repository(home / "repo")
    refs = [
        ref
        for kind in ("raw", "camera", "ref_cat", "skymap_definition")
        for ref in butler.query_datasets(kind, "*", find_first=False, explain=False, limit=None)
    ]
    sums = checksums(butler, refs)
    records = [
        str(record)
        for kind in ("exposure", "visit", "visit_detector_region", "visit_definition", "tract", "patch")
        for record in butler.query_dimension_records(kind, explain=False, limit=None)
    ]
    held = {r.id: sums[r.id] if r.datasetType.name == "raw" else text_of(butler.get(r)) for r in refs}
    return sorted((r.datasetType.name, r.run, str(r.dataId), held[r.id]) for r in refs), sorted(records)


def text_of(thing):
    """Everything in it; a table's own text leaves rows out."""
    return repr((thing.colnames, thing.as_array().tolist())) if isinstance(thing, Table) else repr(thing)


def pachon(*words, home):
    environment = os.environ | {"PACHON_HOME": str(home), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "deploy.cli", *map(str, words)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prepared(survey, tmp_path_factory):
    home = tmp_path_factory.mktemp("whole")
    return home, prepare(home, survey, print)


def test_ingest_twice_is_once(prepared, survey):
    home, _ = prepared
    before = contents(home)
    ingest = ("ingest", "--instrument", survey.raw.parent / "camera.yaml", survey.raw)
    assert "0 ingested, 27 there already, 0 set aside" in pachon(*ingest, home=home)
    assert contents(home) == before


def test_prepare_twice_is_once(prepared, survey):
    home, case = prepared
    before = contents(home)
    assert prepare(home, survey, print) == case
    assert contents(home) == before


@pytest.mark.parametrize("moment", ["repository", "observations", "half of the frames", "reference catalogue", "sky map"])
def test_prepare_goes_on_where_it_was_killed(prepared, survey, tmp_path, moment):
    whole, case = prepared
    home = tmp_path / "home"
    argv = [sys.executable, "-c", PREPARE_AND_DIE, home, survey.raw.parent, moment]
    assert subprocess.run(argv, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert prepare(home, survey, print) == case
    assert contents(home) == contents(whole)


def test_campaign_started_twice_is_one_and_does_its_work_once(prepared):
    home, case = prepared
    parameters = ("--param", f"instrument={case.instrument}", "--param", f"day_obs={case.calibration_days[0]}")
    start = ("campaign", "start", PRODUCTION, "--name", "twice", *parameters, "--json")
    ledger = Context(Settings.load(home)).ledger

    def rows():
        return [ledger.all(sa.select(table).order_by(*table.primary_key)) for table in (t.campaign, t.quantum, t.job, t.outbox)]

    pachon(*start, home=home)
    begun = rows()
    pachon(*start, home=home)
    assert rows() == begun
    first = pachon(*start, "--local", home=home)
    done = rows()
    assert len(done[1]) == len(done[3]) > 0
    assert pachon(*start, "--local", home=home) == first
    again = rows()
    ledger.close()
    assert again[1:] == done[1:], "no quantum, job or publication more"

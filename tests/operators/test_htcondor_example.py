"""The example DAG on a real pool, through Airflow itself."""

import json
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag

EXAMPLES = Path(__file__).parents[2] / "operators" / "htcondor" / "example_dags"
LOCAL_BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")  # imported by Airflow's service registry
@pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # of Airflow's own Alembic settings
def test_example_runs_on_a_real_pool_and_brings_its_files_back(condor, tmp_path, monkeypatch):
    from airflow.utils.db import initdb

    host, _, port = condor.collector.partition(":")
    extra = {"token_directory": condor.token_directory, "trust_domain": condor.trust_domain, "folder": str(tmp_path / "jobs")}
    connection = {"conn_type": "htcondor", "host": host, "port": int(port), "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_HTCONDOR_DEFAULT", json.dumps(connection))
    bundle = {"name": "examples", "classpath": LOCAL_BUNDLE, "kwargs": {"path": str(EXAMPLES)}}
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
    initdb()
    examples = BundleDagBag(dag_folder=str(EXAMPLES), bundle_path=EXAMPLES, bundle_name="examples")
    assert examples.import_errors == {}
    run = examples.dags["htcondor_submit"].test()
    assert run.state == "success"
    assert {ti.task_id for ti in run.get_task_instances()} == {"square", "last"}
    said = sorted(path.read_text().split()[0] for path in tmp_path.glob("jobs/*/stdout") if path.read_text())
    assert said == ["0", "1"]
    (answer,) = tmp_path.glob("jobs/*/answer.txt")
    assert answer.read_text() == run.run_id

"""An Airflow home of the tests' own."""

import os
import tempfile
from pathlib import Path

# Airflow reads its configuration when it is first imported: after this, by the test modules.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="pachon-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{os.environ['AIRFLOW_HOME']}/airflow.db")
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(__file__).parents[2] / "dags")

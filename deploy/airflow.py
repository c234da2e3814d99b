"""Settings of the local Airflow: one environment for all its components, made from the home, its secrets and its ports.

Everything goes by environment variables, so that no generated airflow.cfg is the truth; what differs from
Airflow's defaults says why.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from backbone.errors import PermanentError
from deploy import postgres
from deploy.keys import secret
from deploy.ports import LOOPBACK, port
from deploy.rabbitmq import RabbitServer

# Name and arguments. Nobody serves logs: on one machine the API server reads the files, and the log servers bind all interfaces.
COMPONENTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
Database = Literal["auto", "postgresql", "sqlite"]
ROLES_FILE = Path(__file__).with_name("roles.yaml")
POOLS_FILE = Path(__file__).with_name("pools.yaml")


class AirflowUnusable(PermanentError):
    """The local Airflow cannot be set up as asked."""


@dataclass(frozen=True)
class AirflowSettings:
    """Where the local Airflow lives and how it is stored."""

    home: Path
    dags: Path
    database: Database = "auto"
    parallelism: int = 8
    """Tasks at once. Ours translate and delegate, so this bounds processes (some 150 MB each), not the work."""
    workers: int = 0
    """Celery workers; 0: the scheduler runs the tasks itself."""

    @property
    def uses_postgres(self) -> bool:
        """PostgreSQL where it can be had: it is the crash-tested path, and healthy sooner (numbers: docs/operations.md)."""
        if self.workers and self.database == "sqlite":
            raise AirflowUnusable("Celery workers need PostgreSQL: choose it, or the local executor (`airflow:` in pachon.yaml)")
        if self.database != "auto" or self.workers:
            return self.database != "sqlite"
        if self._made is not None:
            return self._made == "postgresql"
        return _speaks_postgres() and postgres.available()

    @property
    def _made(self) -> Database | None:
        """Once made, a database stays: the choice must not flip when a package is installed later."""
        if (self.home / "servers" / "pg").exists():
            return "postgresql"
        return "sqlite" if (self.airflow_home / "airflow.db").exists() else None

    def obtain(self, say: Callable[[str], None]) -> None:
        """Before the first start: get PostgreSQL's programs where it is to be chosen if it can be had, or say why it cannot."""
        if self.database == "auto" and not self.workers and self._made is None and _speaks_postgres():
            postgres.obtained(say)

    @property
    def airflow_home(self) -> Path:
        """AIRFLOW_HOME: logs of tasks, the SQLite database."""
        return self.home / "airflow"

    @property
    def api_url(self) -> str:
        """Where the API server of a running stack listens."""
        return f"http://{LOOPBACK}:{port(self.home, 'airflow-api', in_use_by_us=True)}"

    def components(self) -> dict[str, tuple[str, ...]]:
        """Every component's name and the arguments of its `airflow` command."""
        named = {f"airflow-{name}": argv for name, argv in COMPONENTS.items()}
        return named | {f"celery-{n}": self._worker(n) for n in range(1, self.workers + 1)}

    def _worker(self, number: int) -> tuple[str, ...]:
        pid_file = self.home / "run" / f"celery-{number}-own.pid"  # else all workers of a machine would share one
        share = str(max(1, self.parallelism // self.workers))
        named = ("--celery-hostname", f"pachon-{number}@%h", "--pid", str(pid_file), "--concurrency", share)
        return ("celery", "worker", *named, "--skip-serve-logs", "--without-mingle", "--without-gossip")

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of every component, on top of `base` (default: this process's own, without its AIRFLOW variables)."""
        inherited = {k: v for k, v in (os.environ if base is None else base).items() if not k.startswith("AIRFLOW")}
        options = self._options()
        ours = {f"AIRFLOW__{name.upper().replace('.', '__')}": str(value) for name, value in options.items()}
        return {
            **inherited,
            **ours,
            "AIRFLOW_HOME": str(self.airflow_home),
            "PACHON_HOME": str(self.home),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
            # Forked children of macOS and of threaded numerics libraries: tasks of ours compute nothing themselves.
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": ",".join(filter(None, [inherited.get("NO_PROXY"), LOOPBACK, "localhost"])),
            "PYTHONUNBUFFERED": "1",
            # Celery renames its processes, over their environment, by whose mark they are found.
            "SPT_NOENV": "1",
        }

    def _options(self) -> dict[str, Any]:
        bundle = {
            "name": "pachon",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(self.dags)},
        }
        return {
            **self._database_options(),
            **self._door_options(),
            **self._executor_options(),
            "core.dags_folder": self.dags,
            "core.load_examples": False,
            "core.parallelism": self.parallelism,
            "core.dags_are_paused_at_creation": False,
            "dag_processor.dag_bundle_config_list": json.dumps([bundle]),
            "dag_processor.parsing_processes": 1,
            "dag_processor.refresh_interval": 10,
            "dag_processor.min_file_process_interval": 30,
            # Measured: an idle loop of the default 1 s is most of the latency from REST to a task's code.
            "scheduler.scheduler_idle_sleep_time": 0.1,
            "scheduler.max_tis_per_query": 64,
            # A killed scheduler's or triggerer's tasks are adopted this soon; the defaults (300 s) outlast visits.
            "scheduler.orphaned_tasks_check_interval": 20,
            "scheduler.task_instance_heartbeat_timeout": 60,
            "scheduler.scheduler_health_check_threshold": 30,
            "triggerer.triggerer_health_check_threshold": 30,
            "logging.base_log_folder": self.home / "log" / "airflow",
            "logging.dag_processor_child_process_log_directory": self.home / "log" / "dag-processor",
            "logging.logging_level": "INFO",
        }

    def _database_options(self) -> dict[str, Any]:
        managers = {"database.external_db_managers": "airflow.providers.fab.auth_manager.models.db.FABDBManager"}
        if not self.uses_postgres:
            return {**managers, "database.sql_alchemy_conn": f"sqlite:///{self.airflow_home / 'airflow.db'}"}
        url = postgres.PostgresServer(self.home).url("airflow")
        return {
            **managers,
            "database.sql_alchemy_conn": url.replace("postgresql://", "postgresql+psycopg2://"),
            "database.sql_alchemy_conn_async": url.replace("postgresql://", "postgresql+asyncpg://"),
        }

    def _executor_options(self) -> dict[str, Any]:
        if not self.workers:
            return {"core.executor": "LocalExecutor"}
        url = postgres.PostgresServer(self.home).url("airflow")
        return {
            "core.executor": "CeleryExecutor",
            "celery.broker_url": RabbitServer(self.home).url,
            "celery.result_backend": url.replace("postgresql://", "db+postgresql+psycopg2://"),
            # A killed worker's task is given to another at once, and a worker takes no more than it runs.
            "celery.task_acks_late": True,
            "celery.worker_prefetch_multiplier": 1,
            "celery.sync_parallelism": 1,
        }

    def _door_options(self) -> dict[str, Any]:
        number = port(self.home, "airflow-api", in_use_by_us=True)
        return {
            "core.auth_manager": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
            "core.fernet_key": secret(self.home, "fernet", fernet=True),
            "core.execution_api_server_url": f"http://{LOOPBACK}:{number}/execution/",
            "api.secret_key": secret(self.home, "api"),
            "api.host": LOOPBACK,
            "api.port": number,
            "api.base_url": f"http://{LOOPBACK}:{number}",
            "api.workers": 1,
            "api.instance_name": "Pachón",
            "api_auth.jwt_secret": secret(self.home, "jwt"),
            # The roles are made once, by operators/bootstrap.py: at every start of the API server it costs seconds.
            "fab.update_fab_perms": False,
            "fab.enable_proxy_fix": False,
        }


def _speaks_postgres() -> bool:
    return importlib.util.find_spec("asyncpg") is not None


def load_roles(path: Path = ROLES_FILE) -> dict[str, Any]:
    """Roles and users from the data file; raises `AirflowUnusable` when it is not of the expected form."""
    document = yaml.safe_load(path.read_text())
    unknown = set(document) - {"roles", "users"}
    if unknown:
        raise AirflowUnusable(f"{path}: unknown keys {sorted(unknown)}; known are roles and users")
    for user, role in document["users"].items():
        if role not in document["roles"] and role not in {"Admin", "Op", "User", "Viewer"}:
            raise AirflowUnusable(f"{path}: user {user} has the role {role}, which is neither defined there nor Airflow's own")
    return dict(document)


def bootstrap_request(settings: AirflowSettings) -> dict[str, Any]:
    """What `operators.bootstrap` shall make: database, roles, users (with passwords), pools."""
    document = load_roles()
    users = [
        {"name": name, "role": role, "password": secret(settings.home, f"user-{name}")}
        for name, role in document["users"].items()
    ]
    return {"roles": document["roles"], "users": users, "pools": yaml.safe_load(POOLS_FILE.read_text())}

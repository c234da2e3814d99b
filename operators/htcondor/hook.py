"""`HTCondorHook`: one schedd of one pool, as an Airflow connection of type `htcondor` names it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.sdk import BaseHook

from backbone.errors import PachonError
from operators.htcondor import remote
from operators.htcondor.description import EVENTS, STDERR, STDOUT, CondorJob
from operators.htcondor.key import TaskKey
from operators.htcondor.schedd import Action, Schedd, ScheddUnavailable
from operators.htcondor.settings import CONNECTION_TYPE, PoolSettings, from_parts

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from operators.htcondor.states import JobView

open_schedd: Callable[[PoolSettings], Schedd] = remote.shared
"""How a schedd is reached; tests put a fake here."""


def settings_of(connection: Connection) -> PoolSettings:
    """The settings that a connection holds; raises PoolConnectionError."""
    return from_parts(
        host=connection.host,
        port=connection.port,
        password=connection.password,
        extra=connection.extra_dejson,
        name=str(connection.conn_id),
    )


class HTCondorHook(BaseHook):  # type: ignore[misc]
    """Submits jobs, finds them again by key, holds, releases and removes them, and reads their logs.

    Errors are those of `operators.htcondor.schedd`: ScheddUnavailable says nothing about any job.
    """

    conn_name_attr = "htcondor_conn_id"
    default_conn_name = "htcondor_default"
    conn_type = CONNECTION_TYPE
    hook_name = "HTCondor"

    def __init__(self, htcondor_conn_id: str = default_conn_name, settings: PoolSettings | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.htcondor_conn_id = htcondor_conn_id
        self._settings = settings

    @property
    def settings(self) -> PoolSettings:
        """What the connection says; asked for once."""
        if self._settings is None:
            self._settings = settings_of(self.get_connection(self.htcondor_conn_id))
        return self._settings

    def get_conn(self) -> Schedd:
        """The schedd."""
        return open_schedd(self.settings)

    def test_connection(self) -> tuple[bool, str]:
        """Who we are to the pool, or why we are nobody: what the button *Test* shows."""
        try:
            known = self.get_conn().whoami()
        except PachonError as error:
            return False, str(error)
        return True, f"schedd {known['schedd']} knows us as {known['identity']} ({known['version'].strip('$ ')})"

    @property
    def instance(self) -> str:
        """Name of this Airflow installation, part of every key."""
        return self.settings.instance or str(conf.get("api", "base_url", fallback="") or "airflow")

    def folder(self, key: str) -> Path:
        """Where a job's files are on Airflow's side."""
        base = self.settings.folder or os.path.join(os.environ.get("AIRFLOW_HOME", os.path.expanduser("~/airflow")), "htcondor")
        return Path(base).expanduser().absolute() / key

    def submit(self, task: TaskKey, job: CondorJob, *, limit_s: float = 300, sleep: Callable[[float], None] = time.sleep) -> str:
        """Submit the job of a task instance, or adopt the one that is there; returns its id, CLUSTER.PROCESS.

        A schedd that does not answer is asked again, under the same key, for `limit_s`; then ScheddUnavailable is raised.
        """
        key = task.digest()
        folder = self.folder(key)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        commands = job.commands(folder=str(folder), pool=self.settings, attributes=task.attributes())
        pauses = pauses_s(limit_s)
        while True:
            try:
                return self.get_conn().submit(key, commands, spool=self.settings.files == "spool")
            except ScheddUnavailable as error:
                pause = next(pauses, None)
                if pause is None:
                    raise
                self.log.warning("asking again in %.0f s: %s", pause, error)
                sleep(pause)

    def query(self, keys: Iterable[str]) -> dict[str, JobView]:
        """The jobs of these keys whose end nobody has taken note of yet, by one query."""
        return self.get_conn().find(keys)

    def past(self, key: str) -> JobView | None:
        """How the newest job of this key ended that has left the queue."""
        return self.get_conn().past(key)

    def classad(self, job_id: str) -> Mapping[str, Any] | None:
        """The whole ClassAd of a job."""
        return self.get_conn().ad(job_id)

    def hold(self, key: str, reason: str) -> int:
        """Hold the job of this key; returns how many jobs were held."""
        return self.get_conn().act(Action.HOLD, key, reason)

    def release(self, key: str, reason: str) -> int:
        """Release the job of this key."""
        return self.get_conn().act(Action.RELEASE, key, reason)

    def remove(self, key: str, reason: str) -> int:
        """Remove the job of this key; running, it is ended."""
        return self.get_conn().act(Action.REMOVE, key, reason)

    def fetch(self, job: JobView) -> None:
        """Bring a completed job's files here, where they are not here already."""
        if self.settings.files == "spool":
            self.get_conn().retrieve(job.job_id)

    def acknowledge(self, job_id: str) -> None:
        """The job's end has been taken note of: it may leave the queue."""
        self.get_conn().acknowledge(job_id)

    def output(self, key: str, size: int = 4000) -> dict[str, str]:
        """The last `size` bytes of the job's output and errors, as far as they are on Airflow's side."""
        return {name: tail(self.folder(key) / name, size) for name in (STDOUT, STDERR)}

    def events(self, key: str) -> list[str]:
        """The job's event log, one text an event; empty while it is not on Airflow's side."""
        try:
            text = (self.folder(key) / EVENTS).read_text(errors="replace")
        except FileNotFoundError:
            return []
        return [event.strip() for event in text.split("\n...") if event.strip()]


def pauses_s(limit_s: float) -> Iterator[float]:
    """Growing pauses, at most half a minute each, `limit_s` in sum."""
    pause, left = 1.0, limit_s
    while left > 0:
        yield min(pause, left)
        left -= pause
        pause = min(pause * 2, 30.0)


def tail(path: Path, size: int) -> str:
    """The last `size` bytes of a file as text; empty where there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode(errors="replace")
    except FileNotFoundError:
        return ""

"""A thin client of Airflow's REST API: what the observatory's side of the door, the demo and the tests use.

Runs are triggered idempotently: the run id is the caller's and deterministic, the logical date is null; a 409 is a success when
the run that exists was asked for with the same conf, and `RunConflict` when it was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from backbone.errors import AccessRefused, PermanentError, TransientError

TERMINAL = frozenset({"success", "failed"})


class RequestRefused(PermanentError):
    """Airflow understood the request and will not do it: bad conf, bad id (400, 422)."""


class NotThere(PermanentError, LookupError):
    """Airflow knows no such DAG, run or task (404)."""


class RunConflict(PermanentError):
    """A run of this id exists with another conf (409)."""


class AirflowUnavailable(TransientError):
    """Airflow did not answer, or not now (connection failed, 429, 5xx): whether it acted is not known."""


@dataclass(frozen=True)
class Run:
    """One run of a DAG, as Airflow tells it."""

    dag: str
    id: str
    state: str
    conf: Mapping[str, Any] = field(default_factory=dict)
    queued_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in TERMINAL


@dataclass(frozen=True)
class Task:
    """One task instance of a run."""

    id: str
    state: str | None
    try_number: int
    started_at: str | None = None
    ended_at: str | None = None


class AirflowClient:
    """One user's session; logs in at the first request and again when the token has run out."""

    def __init__(
        self,
        url: str,
        user: str,
        password: str,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False, transport=transport)
        self._user, self._password = user, password
        self._token: str | None = None
        self._clock, self._sleep = clock, sleep

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def __enter__(self) -> AirflowClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def trigger(self, dag: str, run: str, conf: Mapping[str, Any]) -> Run:
        """Ask for a run; asked twice with the same id and conf it is one run."""
        body = {"dag_run_id": run, "logical_date": None, "conf": dict(conf)}
        answer = self._send("POST", f"/api/v2/dags/{dag}/dagRuns", json=body)
        if answer.status_code != httpx.codes.CONFLICT:
            return _run(_checked(answer))
        there = self.run(dag, run)
        # Airflow adds the defaults of the DAG's params to nothing, so the conf is what was asked.
        if dict(there.conf) != dict(conf):
            raise RunConflict(f"run {run} of {dag} exists with conf {dict(there.conf)}, not {dict(conf)}: use another run id")
        return there

    def run(self, dag: str, run: str) -> Run:
        """A run as it is now."""
        return _run(self._get(f"/api/v2/dags/{dag}/dagRuns/{run}"))

    def tasks(self, dag: str, run: str) -> list[Task]:
        """All task instances of a run."""
        document = self._get(f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances", params={"limit": 1000})
        return [
            Task(t["task_id"], t["state"], t["try_number"], t["start_date"], t["end_date"]) for t in document["task_instances"]
        ]

    def wait(
        self,
        dag: str,
        run: str,
        *,
        timeout_s: float,
        progress: Callable[[Run, list[Task]], None] | None = None,
        poll_s: float = 1.0,
    ) -> Run:
        """Poll until the run has ended; `progress` is told at each change. Raises `TransientError` when the time is over.

        An Airflow that does not answer (being restarted, say) is waited for.
        """
        limit = self._clock() + timeout_s
        seen: object = None
        while True:
            try:
                now = self.run(dag, run)
                tasks = self.tasks(dag, run) if progress else []
            except AirflowUnavailable:
                now = None
            if now is not None:
                if progress and seen != (now, tasks):
                    progress(now, tasks)
                    seen = (now, tasks)
                if now.ended:
                    return now
            if self._clock() > limit:
                state = now.state if now else "not known"
                raise TransientError(
                    f"run {run} of {dag} has not ended after {timeout_s:.0f} s (state {state}): look at its tasks"
                )
            self._sleep(poll_s)

    def unpause(self, dag: str) -> None:
        """Let a DAG's runs be scheduled."""
        _checked(self._send("PATCH", f"/api/v2/dags/{dag}", json={"is_paused": False}))

    def dags(self) -> list[str]:
        """Ids of the DAGs that this user may see."""
        return [d["dag_id"] for d in self._get("/api/v2/dags", params={"limit": 1000})["dags"]]

    def import_errors(self) -> list[str]:
        """Messages of DAG files that could not be read."""
        return [f"{e['filename']}: {e['stack_trace']}" for e in self._get("/api/v2/importErrors")["import_errors"]]

    def xcom(self, dag: str, run: str, task: str, key: str = "return_value") -> Any:
        """What a task returned or pushed."""
        return self._get(f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/{key}")["value"]

    def log(self, dag: str, run: str, task: str, try_number: int = 1) -> str:
        """A task's log, a line an event."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{try_number}"
        content = self._get(path, params={"full_content": True})["content"]
        return "\n".join(_log_line(entry) for entry in content)

    def approvals(self, dag: str = "~", run: str = "~") -> list[dict[str, Any]]:
        """Requests to a person that nobody has answered yet: `dag run task subject body options`."""
        document = self._get(f"/api/v2/dags/{dag}/dagRuns/{run}/hitlDetails", params={"response_received": False})
        return [
            {
                "dag": entry["task_instance"]["dag_id"],
                "run": entry["task_instance"]["dag_run_id"],
                "task": entry["task_instance"]["task_id"],
                "subject": entry["subject"],
                "body": entry["body"],
                "options": entry["options"],
            }
            for entry in document["hitl_details"]
        ]

    def answer(self, dag: str, run: str, task: str, option: str) -> dict[str, Any]:
        """Answer such a request as this user, e.g. with `Approve` or `Reject`; an answered one is `RunConflict`."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails"
        return _checked(self._send("PATCH", path, json={"chosen_options": [option], "params_input": {}}))

    def post(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """A command at one of our own doors (operators/night_pages.py)."""
        return _checked(self._send("POST", path, json=dict(document)))

    def text(self, path: str) -> str:
        """A page, as HTML."""
        answer = self._send("GET", path)
        if not answer.is_success:
            _checked(answer)
        return answer.text

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return _checked(self._send("GET", path, params=params))

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        with _translated(path):
            if self._token is None:
                self._login()
            answer = self._client.request(method, path, headers=self._headers(), **kwargs)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                self._login()
                answer = self._client.request(method, path, headers=self._headers(), **kwargs)
        return answer

    def _login(self) -> None:
        answer = self._client.post("/auth/token", json={"username": self._user, "password": self._password})
        self._token = str(_checked(answer)["access_token"])

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise AirflowUnavailable(f"Airflow did not answer {path}: {error}; see `pachon status`") from error


def _checked(answer: httpx.Response) -> dict[str, Any]:
    """The answer's document, or the error of ours that its status means."""
    status = answer.status_code
    if answer.is_success:
        document: dict[str, Any] = answer.json()
        return document
    what = f"{answer.request.method} {answer.request.url.path}: {status} {answer.text[:500]}"
    if status in {401, 403}:
        raise AccessRefused(f"{what} (a wrong password, or a role that may not: deploy/roles.yaml)")
    if status == httpx.codes.NOT_FOUND:
        raise NotThere(what)
    if status == httpx.codes.CONFLICT:
        raise RunConflict(what)
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500:
        raise AirflowUnavailable(what)
    raise RequestRefused(what)


def _log_line(entry: str | Mapping[str, Any]) -> str:
    """An event's text, and the message of its exception, which Airflow keeps apart."""
    if isinstance(entry, str):
        return entry
    errors = [f"{e.get('exc_type')}: {e.get('exc_value')}" for e in entry.get("error_detail") or []]
    return "\n".join([str(entry.get("event", entry)), *errors])


def _run(document: Mapping[str, Any]) -> Run:
    return Run(
        dag=document["dag_id"],
        id=document["dag_run_id"],
        state=document["state"],
        conf=document.get("conf") or {},
        queued_at=document.get("queued_at"),
        started_at=document.get("start_date"),
        ended_at=document.get("end_date"),
    )

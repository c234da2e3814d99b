import json

import httpx
import pytest

from backbone.errors import AccessRefused, TransientError
from deploy.rest import AirflowClient, AirflowUnavailable, NotThere, RequestRefused, RunConflict


class Server:
    """As much of Airflow's REST API as the client uses, over a table of runs."""

    def __init__(self):
        self.runs, self.requests, self.valid, self.failing = {}, [], "t1", []

    def __call__(self, request):
        self.requests.append(f"{request.method} {request.url.path}")
        if self.failing:
            failure = self.failing.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return httpx.Response(failure, text="because")
        if request.url.path == "/auth/token":
            good = json.loads(request.content)["password"] == "right"
            return httpx.Response(201, json={"access_token": self.valid}) if good else httpx.Response(401, text="no")
        if request.headers.get("Authorization") != f"Bearer {self.valid}":
            return httpx.Response(401, text="token")
        return self.answer(request)

    def answer(self, request):
        parts = request.url.path.split("/")
        if request.method == "POST":
            body = json.loads(request.content)
            assert body["logical_date"] is None
            if body["dag_run_id"] in self.runs:
                return httpx.Response(409, text="exists")
            run = {"dag_id": parts[4], "dag_run_id": body["dag_run_id"], "state": "queued", "conf": body["conf"]}
            self.runs[body["dag_run_id"]] = run
            return httpx.Response(200, json=run)
        if parts[-1] == "taskInstances":
            return httpx.Response(200, json={"task_instances": []})
        run = self.runs.get(parts[-1])
        return httpx.Response(200, json=run) if run else httpx.Response(404, text="none")


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def client(server):
    times = iter(range(1000))
    with AirflowClient(
        "http://airflow", "ocs", "right",
        transport=httpx.MockTransport(server), clock=lambda: next(times), sleep=lambda _: None,
    ) as made:  # fmt: skip
        yield made


def test_run_asked_for_twice_is_one_run(client, server):
    assert client.trigger("nightly", "r1", {"day_obs": 1}) == client.trigger("nightly", "r1", {"day_obs": 1})
    assert list(server.runs) == ["r1"]


def test_same_id_with_another_conf_is_a_conflict(client):
    client.trigger("nightly", "r1", {"day_obs": 1})
    with pytest.raises(RunConflict, match="exists with conf"):
        client.trigger("nightly", "r1", {"day_obs": 2})


def test_token_that_ran_out_is_renewed_once(client, server):
    client.trigger("nightly", "r1", {})
    server.valid = "t2"
    assert client.run("nightly", "r1").state == "queued"
    assert server.requests.count("POST /auth/token") == 2


def test_wrong_password_is_refused_not_tried_again(server):
    client = AirflowClient("http://airflow", "ocs", "wrong", transport=httpx.MockTransport(server))
    with pytest.raises(AccessRefused, match=r"deploy/roles\.yaml"):
        client.run("nightly", "r1")
    assert len(server.requests) == 1


MEANINGS = {
    400: RequestRefused, 422: RequestRefused, 403: AccessRefused, 404: NotThere, 409: RunConflict,
    429: AirflowUnavailable, 503: AirflowUnavailable,
}  # fmt: skip


@pytest.mark.parametrize(("status", "error"), MEANINGS.items())
def test_each_status_has_its_meaning(client, server, status, error):
    client.trigger("nightly", "r1", {})
    server.failing = [status]
    with pytest.raises(error, match="because"):
        client.run("nightly", "r1")


def test_no_answer_is_unknown_never_absent(client, server):
    server.failing = [httpx.ConnectError("refused")]
    with pytest.raises(AirflowUnavailable):
        client.run("nightly", "r1")


def test_wait_outlasts_a_restart_and_tells_each_change_once(client, server):
    client.trigger("nightly", "r1", {})
    told = []

    def progress(run, tasks):
        told.append(run.state)
        server.failing = [httpx.ConnectError("restarting")] * 2
        server.runs["r1"]["state"] = {"queued": "running", "running": "success"}.get(run.state)

    assert client.wait("nightly", "r1", timeout_s=100, progress=progress).state == "success"
    assert told == ["queued", "running", "success"]


def test_wait_ends_with_what_is_known(client, server):
    client.trigger("nightly", "r1", {})
    with pytest.raises(TransientError, match=r"has not ended after 5 s \(state queued\)"):
        client.wait("nightly", "r1", timeout_s=5)

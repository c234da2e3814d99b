"""How S3 servers refuse, and what comes of it: keys that have expired, clocks that differ, servers that know no checksums."""

import configparser
import datetime as dt
import http.server
import io
import threading
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from backbone.endpoint import NewObject, sha256_of
from backbone.endpoints import open_endpoint
from backbone.errors import AccessRefused, TransientError
from backbone.identity import renew_identity
from backbone.mover import Mover
from backbone.settings import MoverSettings

EXPIRED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>ExpiredToken</Code>'
    b"<Message>The provided token has expired.</Message><RequestId>1</RequestId></Error>"
)


class Answers(http.server.BaseHTTPRequestHandler):
    """An S3 server that keeps objects and knows nothing of checksums; keys that `server.expired` names have expired."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self._may():
            about = {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}
            self.server.objects[self._key] = (self.server.spoil(content), about)
            self._answer(200, b"", {"ETag": '"1"'})

    def do_GET(self):
        if self._may():
            content, about = self.server.objects.get(self._key, (None, {}))
            if content is None:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                self._answer(200, content, {**about, "ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})

    def do_HEAD(self):
        self.do_GET()

    def do_DELETE(self):
        if self._may():
            self.server.objects.pop(self._key, None)
            self._answer(204, b"")

    @property
    def _key(self):
        return unquote(urlsplit(self.path).path)

    def _may(self):
        """As S3 does it: 400 and a code, not 403."""
        if self.server.expired not in self.headers.get("Authorization", ""):
            return True
        self._answer(400, EXPIRED)
        return False

    def _answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def careless():
    """Such a server, running."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.objects, server.expired, server.spoil = {}, "nobody", lambda content: content
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def profile(careless, tmp_path):
    """Writes keys of a name into the credentials file, and gives its path."""
    path = tmp_path / "s3.ini"

    def write(name):
        profiles = configparser.ConfigParser(interpolation=None)
        url = f"http://127.0.0.1:{careless.server_port}"
        profiles["p"] = {"aws_access_key_id": name, "aws_secret_access_key": "s", "endpoint_url": url, "region": "us-east-1"}
        path.touch(mode=0o600)
        with path.open("w") as stream:
            profiles.write(stream)
        return path

    return write


def test_expired_keys_are_refused_by_every_action_logged_and_replaced_without_a_restart(careless, profile, tmp_path, caplog):
    careless.expired = "old"
    with open_endpoint("s3://p@b/x", name="ncsa", credentials=profile("old")) as endpoint:
        actions = {
            "put": lambda: endpoint.put("k", b"x"),
            "put_stream": lambda: endpoint.put_stream("k", io.BytesIO(b"x"), size=1, sha256=sha256_of(b"x"), about={}),
            "info": lambda: endpoint.info("k"),
            "get": lambda: endpoint.get("k"),
            "fetch": lambda: endpoint.fetch("k", tmp_path / "out"),
            "delete": lambda: endpoint.delete("k"),
            "list": lambda: list(endpoint.list("")),
            "put_many": lambda: _raised(endpoint.put_many([NewObject(key="k", content=b"x")])[0]),
            "get_many": lambda: _raised(endpoint.get_many(["k"])[0]),
        }
        for name, action in actions.items():
            caplog.clear()
            with pytest.raises(AccessRefused, match=r"expired.*ExpiredToken.*credentials file"):
                action()
            assert [r.name for r in caplog.records if r.levelname == "WARNING"] == ["backbone.refused"], name
        assert careless.objects == {}
        profile("new")
        endpoint.put("k", b"x")
        assert endpoint.get("k") == b"x"
        assert endpoint.get_many(["k"]) == [b"x"]


def _raised(answer):
    raise answer


def test_a_url_that_has_expired_is_refused_by_a_real_server(object_store, credentials, monkeypatch):
    node = object_store.nodes["one"]

    def signed(key):
        """A URL that gives the object to whoever has it, for a minute."""
        request = AWSRequest("GET", f"{node.url}/first/{key}")
        auth.S3SigV4QueryAuth(Credentials(*node.keys("first")), "s3", "us-east-1", expires=60).add_auth(request)
        return request.prepare().url

    with open_endpoint(object_store.uri("first", "expiry"), name="first", credentials=credentials) as endpoint:
        endpoint.put("k", b"content")
        fresh = signed("expiry/k")
        now = dt.datetime.now(dt.UTC)
        monkeypatch.setattr(auth, "get_current_datetime", lambda *_, **__: now - dt.timedelta(hours=2))
        stale = signed("expiry/k")
        # The same clock in a signed request: nobody's keys are wrong, and the message says what is.
        with pytest.raises(TransientError, match="clock"):
            endpoint.get("k")
    assert httpx.get(fresh, trust_env=False).content == b"content"
    answer = httpx.get(stale, trust_env=False)
    assert (answer.status_code, b"expired" in answer.content, b"content" in answer.content) == (403, True, False)


def test_a_server_that_takes_wrong_bytes_is_found_out_and_its_copies_are_read_again(
    careless, profile, make_place, sqlite_template, tmp_path
):
    with open_endpoint("s3://p@b/x", name="ncsa", credentials=profile("new")) as ncsa:
        assert ncsa.proves() is False
        assert careless.objects == {}, "the object it was tried with is gone"
        place = make_place(f"sqlite:///{tmp_path}/catalog.sqlite3", mover=MoverSettings(retry_min_s=1))
        place.backbone._endpoints = {**place.backbone.endpoints, "ncsa": ncsa}
        renew_identity(place.catalog, ncsa)
        place.put("k", b"content of k")
        place.backbone.require("want", ["k"], "ncsa", by=place.time + 60, actor="tester")
        careless.spoil = lambda content: content[:-1] + b"?"
        with Mover(place.backbone) as mover:
            assert mover.round().failed == 1
            assert place.states("k")["ncsa"] == "COPYING"
            careless.spoil = lambda content: content
            place.time += 5
            assert mover.round().files == 1
        assert place.states("k") == {"base": "AVAILABLE", "ncsa": "AVAILABLE"}


def test_the_real_server_proves_what_it_takes(object_store, credentials):
    with open_endpoint(object_store.uri("first", "proof"), name="first", credentials=credentials) as endpoint:
        assert endpoint.proves() is True
        assert list(endpoint.list("")) == []


def test_a_download_that_breaks_off_each_time_may_come_later(careless, profile, tmp_path, monkeypatch):
    with open_endpoint("s3://p@b/x", name="ncsa", credentials=profile("new")) as endpoint:
        endpoint.put("k", b"content of k")
        answer = Answers._answer

        def broken_off(self, status, body, headers=None):
            self.close_connection = True
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:3])

        monkeypatch.setattr(Answers, "do_HEAD", lambda self: answer(self, 200, b"content of k", {"ETag": '"1"'}))
        monkeypatch.setattr(Answers, "_answer", broken_off)
        with pytest.raises(TransientError, match="expected"):
            endpoint.fetch("k", tmp_path / "out")
        assert list(tmp_path.glob(".part*")) == []


def test_what_others_have_written_into_an_objects_metadata_is_not_taken_for_ours(careless, profile):
    with open_endpoint("s3://p@b/x", name="ncsa", credentials=profile("new")) as endpoint:
        for text in ("not JSON", "[1]", "5", "[" * 2000):
            careless.objects["/b/x/k"] = (b"x", {"x-amz-meta-about": text})
            assert endpoint.info("k").about == {}
